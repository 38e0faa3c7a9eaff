"""Build a policy from the plain values of a TOML or JSON file. Every error names the setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal, InvalidOperation
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from stream_apps.core.execution.settings.policy import LivePolicy


def policy_of(values: Mapping[str, Any]) -> LivePolicy:
    """Return the policy of nested values; missing settings have their defaults.

    Raises:
        ValueError: an unknown setting or an invalid value; the message names it.
    """
    made: LivePolicy = _made(LivePolicy, values, "")
    return made


def _made(kind: Any, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: expected settings, got {values!r}")
    hints = get_type_hints(kind)
    known = {one.name for one in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{_join(path, unknown[0])}: unknown setting; expected one of {', '.join(sorted(known))}")
    try:
        return kind(**{name: _value(hints[name], value, _join(path, name)) for name, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _value(kind: Any, value: Any, path: str) -> Any:
    if is_dataclass(kind):
        return _made(kind, value, path)
    if get_origin(kind) is UnionType:
        options = [one for one in get_args(kind) if one is not NoneType]
        return None if value is None else _value(options[0], value, path)
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{path}: expected a list, got {value!r}")
        return tuple(_value(get_args(kind)[0], one, f"{path}[{index}]") for index, one in enumerate(value))
    if kind is Decimal:
        if isinstance(value, bool):
            raise ValueError(f"{path}: expected a number, got {value!r}")
        try:
            made = Decimal(str(value))
        except InvalidOperation:
            raise ValueError(f"{path}: expected a number, got {value!r}") from None
        if not made.is_finite():
            raise ValueError(f"{path}: expected a number, got {value!r}")
        return made
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{path}: expected {kind.__name__}, got {value!r}")
    return value
