"""Reading a venue's answers: what is not as documented is an error that names the call, the field and the record, never a KeyError of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import orjson

from sinks.venues.common.adapter import MalformedResponse

Read = TypeVar("Read")
# What a mapping raises over an answer that is not as documented. InvalidOperation of Decimal is an ArithmeticError.
MALFORMED = (KeyError, IndexError, ValueError, ArithmeticError, TypeError, AttributeError)
# Of an answer that is kept in an error.
MOST_BYTES = 10_000


class TrackedObject(dict[str, Any]):
    """A JSON object that remembers the path of the field that was asked for last."""

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
        """Return a field that may be absent."""
        return self._noted(name, super().get(name, default))


def tracked(value: Any, seen: list[str], path: str = "") -> Any:
    """Return JSON whose reading is written down in ``seen``."""
    if isinstance(value, dict):
        return TrackedObject(value, seen, path)
    if isinstance(value, list):
        return [tracked(one, seen, f"{path}[{number}]") for number, one in enumerate(value)]
    return value


def read(call: str, convert: Callable[[Any], Read], answer: Any, at: str = "") -> Read:
    """Return ``convert(answer)``.

    Args:
        call: What was asked, for the error.
        convert: From JSON to facts; a function of nothing else.
        answer: The venue's.
        at: Where ``answer`` stands in the whole.

    Raises:
        Unreadable: the answer is not as documented.
    """
    try:
        return convert(answer)
    except MALFORMED as error:
        seen: list[str] = []
        # Once more, watched: the field that was asked for last is the one.
        try:
            convert(tracked(answer, seen, at))
        except MALFORMED:
            pass
        field = seen[-1] if seen else at or "answer"
        raise MalformedResponse(call, field, _words(error, field), orjson.dumps(answer, default=str)[:MOST_BYTES]) from error


def read_rows(call: str, convert: Callable[[Any], Read], rows: Any) -> list[Read]:
    """Return ``convert`` of every row of a list.

    Raises:
        Unreadable: it is no list, or a row is not as documented.
    """
    if not isinstance(rows, Iterable) or isinstance(rows, str | dict):
        raise MalformedResponse(call, "answer", f"expected a list, got {type(rows).__name__}", orjson.dumps(rows, default=str)[:MOST_BYTES])
    return [read(call, convert, row, f"[{number}]") for number, row in enumerate(rows)]


def _words(error: Exception, field: str) -> str:
    if isinstance(error, KeyError):
        # A field that is not there, or a value that is in none of our tables.
        return "missing" if error.args == (field.rpartition(".")[2],) else f"unknown value {error}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
