"""Reads a venue's JSON values with checks (pure). Every failure is a ``MappingError`` that names the field.

Decimal text becomes the double whose shortest text is that decimal.
"""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation
from math import inf
from typing import Any

import orjson

from producers.venue.adapter.base import Level, MappingError

# A venue time this far ahead of our clock is a broken frame, not clock skew. As a clock it would stop the merge of connections.
MAX_AHEAD_MS = 60_000
# Ids and times are written as 64-bit numbers.
MAX_LONG = 2**63 - 1
# Enough digits for the product of any two numbers of a venue.
_EXACT = Context(prec=400)


def get(data: Any, field: str, record: str) -> Any:
    """Return a required field."""
    try:
        return data[field]
    except KeyError:
        raise MappingError(record, field, "is missing") from None
    except TypeError:
        raise MappingError(record, field, f"expected an object, got {type(data).__name__}") from None


def json_object(raw: bytes) -> dict[str, Any]:
    """Return a frame's JSON object."""
    try:
        message = orjson.loads(raw)
    except ValueError as error:
        raise MappingError("frame", "frame", f"no JSON: {error}") from error
    if type(message) is not dict:
        raise MappingError("frame", "frame", f"expected an object, got {type(message).__name__}")
    return message


def integer(data: Any, field: str, record: str) -> int:
    """Return a whole number >= 0, given as a number or as a text of digits."""
    value = get(data, field, record)
    if type(value) is str and len(value) < 20 and value.isascii() and value.isdigit():
        value = int(value)
    if type(value) is int and 0 <= value <= MAX_LONG:
        return value
    raise MappingError(record, field, f"expected a whole number >= 0, got {value!r}")


def text(data: Any, field: str, record: str) -> str:
    """Return a non-empty text."""
    value = get(data, field, record)
    if type(value) is not str or not value:
        raise MappingError(record, field, f"expected text, got {value!r}")
    return value


def array(data: Any, field: str, record: str) -> list[Any]:
    """Return a list."""
    value = get(data, field, record)
    if type(value) is not list:
        raise MappingError(record, field, f"expected a list, got {value!r}")
    return value


def row_list(answer: Any, record: str) -> list[Any]:
    """Return a response that must be a list."""
    if type(answer) is not list:
        raise MappingError(record, "answer", f"expected a list, got {str(answer)[:200]}")
    return answer


def time_ms(data: Any, field: str, record: str, received: int) -> int:
    """Return a venue time that is not in the future, ms UTC."""
    value = integer(data, field, record)
    if value > received + MAX_AHEAD_MS:
        raise MappingError(record, field, f"{value} is {value - received} ms ahead of our clock")
    return value


def number(value: Any, field: str, record: str) -> float:
    """Return decimal text as a finite number."""
    if type(value) is not str:
        raise MappingError(record, field, f"expected decimal text, got {value!r}")
    try:
        result = float(value)
    except ValueError:
        raise MappingError(record, field, f"expected decimal text, got {value!r}") from None
    if not -inf < result < inf or "_" in value:
        raise MappingError(record, field, f"expected a finite decimal, got {value!r}")
    return result


def positive(data: Any, field: str, record: str) -> float:
    """Return decimal text > 0."""
    value = get(data, field, record)
    result = number(value, field, record)
    if result <= 0.0:
        raise MappingError(record, field, f"expected a number > 0, got {value!r}")
    return result


def quantity(data: Any, field: str, record: str) -> float:
    """Return decimal text >= 0."""
    value = get(data, field, record)
    result = number(value, field, record)
    if result < 0.0:
        raise MappingError(record, field, f"expected a number >= 0, got {value!r}")
    return result


def optional(data: dict[str, Any], field: str, record: str) -> float | None:
    """Return decimal text, or None for a field that is absent, null or empty."""
    value = data.get(field)
    return None if value is None or value == "" else number(value, field, record)


def optional_price(data: dict[str, Any], field: str, record: str) -> float | None:
    """Return a price, None when it is absent or 0 (venues write 0 for an unknown price)."""
    value = optional(data, field, record)
    if value is not None and value < 0.0:
        raise MappingError(record, field, f"expected a number >= 0, got {data[field]!r}")
    return value or None


def optional_integer(data: dict[str, Any], field: str, record: str) -> int | None:
    """Return a whole number, None when it is absent, empty or 0."""
    return None if data.get(field) in (None, "") else integer(data, field, record) or None


def interval_hours(data: dict[str, Any], field: str, record: str) -> int | None:
    """Return a funding interval of at most a day, in hours; None when it is absent, empty or 0."""
    hours = optional_integer(data, field, record)
    if hours is not None and hours > 24:
        raise MappingError(record, field, f"expected a funding interval in hours, got {hours}")
    return hours


def percent(data: dict[str, Any], field: str, record: str) -> float | None:
    """Return decimal text of per cent as a fraction, exactly; None when it is absent."""
    return None if optional(data, field, record) is None else float(decimal(data[field], field, record).scaleb(-2))


def places(data: Any, field: str, record: str) -> int:
    """Return a number of decimal places."""
    value = integer(data, field, record)
    if value > 18:
        raise MappingError(record, field, f"expected a number of decimal places, got {value!r}")
    return value


def product(data: Any, left: str, right: str, record: str) -> float:
    """Return the product of two decimal texts, multiplied exactly and rounded once. A failure names ``left``."""
    for field in (left, right):
        number(get(data, field, record), field, record)
    result = float(_EXACT.multiply(_EXACT.create_decimal(data[left]), _EXACT.create_decimal(data[right])))
    if not -inf < result < inf:
        raise MappingError(record, left, f"{data[left]!r} times {right} {data[right]!r} is not a finite number")
    return result


def step(data: Any, field: str, record: str) -> tuple[float, int]:
    """Return a price or quantity step given as decimal text > 0, and its number of decimals."""
    return exact_step(decimal(get(data, field, record), field, record), field, record)


def exact_step(value: Decimal, field: str, record: str) -> tuple[float, int]:
    """Return an exact step > 0 as a number, and its number of decimals."""
    exponent = value.normalize().as_tuple().exponent
    if value <= 0 or not isinstance(exponent, int) or exponent < -30 or not 0.0 < float(value) < inf:
        raise MappingError(record, field, f"expected a step > 0, got {value}")
    return float(value), max(0, -exponent)


def decimal(value: Any, field: str, record: str) -> Decimal:
    """Return decimal text as an exact finite number."""
    number(value, field, record)
    try:
        return Decimal(value)
    except InvalidOperation:
        raise MappingError(record, field, f"expected decimal text, got {value!r}") from None


def one_of(data: Any, field: str, record: str, allowed: tuple[str, ...]) -> str:
    """Return a text that must be one of the given ones."""
    value = get(data, field, record)
    if value not in allowed:
        raise MappingError(record, field, f"expected {' or '.join(allowed)}, got {value!r}")
    return str(value)


def levels(data: Any, field: str, record: str) -> list[Level]:
    """Return price levels ``[[price, quantity, ...], ...]`` of decimal texts."""
    rows = get(data, field, record)
    try:
        # A busy depth stream has a million levels a minute. Good levels take one pass; only bad ones take a second.
        found = [
            (price, size)
            for row in rows
            if type(row) is list
            and type(row[0]) is str is type(row[1])
            and 0.0 < (price := float(row[0])) < inf
            and 0.0 <= (size := float(row[1])) < inf
        ]
        if len(found) == len(rows):
            return found
    except (TypeError, ValueError, IndexError, KeyError):
        pass  # the second pass names the level
    return _checked_levels(rows, field, record)


def _checked_levels(rows: Any, field: str, record: str) -> list[Level]:
    if type(rows) is not list:
        raise MappingError(record, field, f"expected a list of levels, got {rows!r}")
    found = []
    for row in rows:
        if type(row) is not list or len(row) < 2:
            raise MappingError(record, field, f"expected [price, quantity], got {row!r}")
        price, size = number(row[0], field, record), number(row[1], field, record)
        if price <= 0.0 or size < 0.0:
            raise MappingError(record, field, f"expected price > 0 and quantity >= 0, got {row!r}")
        found.append((price, size))
    return found
