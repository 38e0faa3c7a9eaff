"""Query parameters that many endpoints share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import AfterValidator, BeforeValidator

Timeframe = Literal["1m", "5m", "15m", "1h", "4h", "1d"]
# Width of each timeframe in minutes. m is a minute, never a month (spec S2, defect "15m read as months").
MINUTES: dict[Timeframe, int] = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}

# PostgreSQL refuses the character NUL in text.
_TEXT = r"^[^\x00]*$"
# Years that PostgreSQL, Python and JavaScript all write as four digits.
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def _utc(at: datetime) -> datetime:
    """Return a time in UTC; a time without an offset is UTC. Raises ValueError outside 1970 to 9000."""
    try:
        found = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("expected a time between 1970 and 9000") from error
    if not _EARLIEST <= found <= _LATEST:
        raise ValueError("expected a time between 1970 and 9000")
    return found


def _milliseconds(value: object) -> object:
    """Read a number as ms since 1970. (Pydantic alone would read small numbers as seconds.)"""
    if isinstance(value, str) and value.lstrip("-").isascii() and value.lstrip("-").isdecimal():
        try:
            return datetime.fromtimestamp(int(value) / 1000, UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise ValueError("expected a time between 1970 and 9000, in ms") from error
    return value


Moment = Annotated[datetime, BeforeValidator(_milliseconds), AfterValidator(_utc)]
Start = Annotated[
    Moment | None, Query(description="First event time, inclusive: ISO 8601 or ms since 1970, UTC", examples=["2026-01-01T00:00:00Z"])
]
End = Annotated[Moment | None, Query(description="Event time before which the range ends: ISO 8601 or ms since 1970, UTC")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Most records of a page")]
Instrument = Annotated[str, Query(max_length=64, pattern=_TEXT, description="Instrument id", examples=["BINANCE:BTCUSDT-PERP"])]
MaybeInstrument = Annotated[str | None, Query(max_length=64, pattern=_TEXT, description="Instrument id; all without it")]
MaybeStrategy = Annotated[str | None, Query(max_length=64, pattern=_TEXT, description="Strategy id; all without it")]
MaybeText = Annotated[str | None, Query(max_length=64, pattern=_TEXT)]
StrategyId = Annotated[str, Path(max_length=64, pattern=_TEXT, description="Strategy id")]
