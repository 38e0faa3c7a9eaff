"""Parse a venue's answers. An answer that does not match the documentation raises an error that names the request, the field and the row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, TypeVar

import orjson

from sinks.venues.common.adapter import MalformedResponse

Read = TypeVar("Read")
# Exceptions of a conversion function on a malformed answer. Decimal's InvalidOperation is an ArithmeticError.
MALFORMED = (KeyError, IndexError, ValueError, ArithmeticError, TypeError, AttributeError)
# Largest part of an answer that an error keeps.
MOST_BYTES = 10_000


class TrackedObject(dict[str, Any]):
    """A JSON object that records the path of each field that is read."""

    def __init__(self, values: dict[str, Any], seen: list[str], path: str = "") -> None:
        super().__init__(values)
        self._seen, self._path = seen, path

    def _noted(self, name: str, value: Any) -> Any:
        path = f"{self._path}.{name}" if self._path else name
        self._seen.append(path)
        return tracked(value, self._seen, path)

    def __getitem__(self, name: str) -> Any:
        return self._noted(name, super().get(name)) if name in self else self._missing(name)

    def _missing(self, name: str) -> Any:
        self._noted(name, None)
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an optional field."""
        return self._noted(name, super().get(name, default))


def tracked(value: Any, seen: list[str], path: str = "") -> Any:
    """Return JSON that records the paths of read fields in ``seen``."""
    if isinstance(value, dict):
        return TrackedObject(value, seen, path)
    if isinstance(value, list):
        return [tracked(one, seen, f"{path}[{number}]") for number, one in enumerate(value)]
    return value


def read(call: str, convert: Callable[[Any], Read], answer: Any, at: str = "") -> Read:
    """Return ``convert(answer)``.

    Args:
        call: The request, for the error.
        convert: Pure function from JSON to the result.
        answer: The venue's answer.
        at: Path of ``answer`` in the whole response.

    Raises:
        MalformedResponse: the answer does not match the documentation.
    """
    try:
        return convert(answer)
    except MALFORMED as error:
        seen: list[str] = []
        # Convert again and track the fields: the last one read caused the error.
        try:
            convert(tracked(answer, seen, at))
        except MALFORMED:
            pass
        field = seen[-1] if seen else at or "answer"
        raise MalformedResponse(call, field, _words(error, field), orjson.dumps(answer, default=str)[:MOST_BYTES]) from error


def read_rows(call: str, convert: Callable[[Any], Read], rows: Any) -> list[Read]:
    """Return ``convert`` of every row of a list.

    Raises:
        MalformedResponse: the answer is no list, or a row does not match the documentation.
    """
    if not isinstance(rows, Iterable) or isinstance(rows, str | dict):
        raise MalformedResponse(call, "answer", f"expected a list, got {type(rows).__name__}", orjson.dumps(rows, default=str)[:MOST_BYTES])
    return [read(call, convert, row, f"[{number}]") for number, row in enumerate(rows)]


def optional_price(text: Any) -> Decimal | None:
    """Return a price. Venues write 0, an empty text or nothing where there is none."""
    return (Decimal(str(text)) or None) if text not in (None, "") else None


def _words(error: Exception, field: str) -> str:
    if isinstance(error, KeyError):
        # A missing field, or a value that no table of this adapter holds.
        return "missing" if error.args == (field.rpartition(".")[2],) else f"unknown value {error}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
