"""Parse FIELD=VALUE arguments of commands into values of strategy fields."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import UserError
from stream_apps.core.signals.strategy import StrategyConfig


def assigned(assignments: Sequence[str] | None, refused: Mapping[str, str | None]) -> dict[str, Any]:
    """Parse FIELD=VALUE arguments: numbers, true or false, text, and lists separated by commas.

    Args:
        assignments: The arguments.
        refused: Field -> why it cannot be set here.

    Raises:
        UserError: an argument is not FIELD=VALUE, or its field is in ``refused``.
    """
    kinds = StrategyConfig.kinds()
    found: dict[str, Any] = {}
    for assignment in assignments or ():
        name, separator, text = assignment.partition("=")
        if not separator:
            raise UserError(f"{assignment!r}: expected FIELD=VALUE")
        if reason := refused.get(name):
            raise UserError(f"{name}: {reason}")
        kind = kinds.get(name, "")
        if kind.startswith("tuple"):
            found[name] = [one.strip() for one in text.split(",") if one.strip()]
        elif kind.startswith("str"):
            found[name] = None if not text and "None" in kind else text
        else:
            try:
                found[name] = tomllib.loads(f"value = {text}")["value"]
            except tomllib.TOMLDecodeError:
                found[name] = text  # the rules say what it must be
    return found


def varied(variations: Sequence[str] | None, refused: Mapping[str, str | None]) -> dict[str, tuple[Any, ...]]:
    """Parse FIELD=VALUE,VALUE,... arguments into the values of each field.

    Args:
        variations: The arguments.
        refused: Field -> why it cannot be set here.

    Raises:
        UserError: an argument is not FIELD=VALUE,VALUE, or its field is in ``refused``.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for variation in variations or ():
        name, separator, texts = variation.partition("=")
        if not separator or not texts:
            raise UserError(f"{variation!r}: expected FIELD=VALUE,VALUE,...")
        found[name] = tuple(assigned([f"{name}={text}"], refused)[name] for text in texts.split(","))
    return found
