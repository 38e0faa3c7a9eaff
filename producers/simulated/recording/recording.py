"""A recording as named by the user, and the facts from its whole content."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import chain
from pathlib import Path
from typing import Any

from producers.simulated.recording.events import AGG, DEPTH, SNAPSHOT, TICKER, TRADE, Event, Events, FormatError, route_of_stream
from producers.simulated.recording.formats import read_events
from producers.simulated.recording.frames import with_aggregates
from schemas.partition import split_symbol


@dataclass(frozen=True)
class Recording:
    """A recording to serve as one symbol.

    Attributes:
        path: File, folder, glob or comma-separated list (see ``formats.recording_files``).
        symbol: The venue's symbol, e.g. ``BTCUSDT``.
        kind: ``perp`` or ``spot``.
        funding: Settled funding rates, a ``Symbol,Date,Funding Rate`` CSV; None: the recording has none.
        funding_utc_offset_hours: Time zone of that file's dates.
        funding_interval_hours: Interval in fundingInfo; None leaves the symbol out, which means 8 h. min_notional: Smallest order value for
        exchangeInfo, decimal text; None: unknown, left out.
    """

    path: str | Path
    symbol: str
    kind: str = "perp"
    funding: str | Path | None = None
    funding_utc_offset_hours: int = 3
    funding_interval_hours: int | None = None
    min_notional: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("perp", "spot"):
            raise ValueError(f"recording: kind: expected perp or spot, got {self.kind!r}")
        if not self.symbol or self.symbol != self.symbol.upper():
            raise ValueError(f"recording: symbol: expected the venue's symbol in capitals, got {self.symbol!r}")

    @classmethod
    def parse(cls, text: str) -> Recording:
        """Read ``FILE=SYMBOL`` or ``FILE=SYMBOL:spot``.

        Raises:
            ValueError: the text has another form.
        """
        path, sep, name = text.rpartition("=")
        symbol, _, kind = name.partition(":")
        if not sep or not path or not symbol:
            raise ValueError(f"recording: expected FILE=SYMBOL or FILE=SYMBOL:spot, got {text!r}")
        return cls(path, symbol, kind or "perp")

    def events(self) -> Events:
        """Yield the messages of the recording in recorded order, aggTrades included."""
        return with_aggregates(read_events(self.path, self.symbol))


@dataclass
class Facts:
    """Facts from one reading of the whole recording.

    Attributes:
        first: First event time, ms. last: newest event time, ms.
        counts: Messages by recorded stream (aggTrade included).
        price_decimals, quantity_decimals: Decimals of the venue's texts. tick_decimals, step_decimals: Used decimals, without trailing
        zeros.
        snapshot: First depth snapshot.
    """

    symbol: str
    base_asset: str
    quote_asset: str
    first: int
    last: int
    counts: dict[str, int] = field(default_factory=dict)
    price_decimals: int = 0
    quantity_decimals: int = 0
    tick_decimals: int = 0
    step_decimals: int = 0
    snapshot: Event | None = None

    @property
    def routes(self) -> frozenset[str]:
        """The websocket routes on which the recording has streams."""
        return frozenset(route_of_stream(stream) for stream in self.counts)

    @property
    def has_depth(self) -> bool:
        return any(stream.partition("@")[0] == DEPTH for stream in self.counts)


def survey(recording: Recording) -> Facts:
    """Read a recording through and return its facts.

    Raises:
        FormatError: a line cannot be read, or the files lack the symbol.
        FileNotFoundError: no such file.
        ValueError: the symbol ends with no known quote asset.
    """
    base, quote = split_symbol(recording.symbol)
    counts: dict[str, int] = {}
    snapshot: Event | None = None
    first: int | None = None
    last = 0
    prices, quantities = _Decimals(), _Decimals()
    for event in recording.events():
        kind, body = event.kind, event.body
        if kind == SNAPSHOT:
            snapshot = snapshot or event
            levels = chain(body["bids"], body["asks"])
        else:
            counts[event.stream] = counts.get(event.stream, 0) + 1
            first = event.clock if first is None else first
            last = max(last, event.clock)
            if kind == DEPTH:
                levels = chain(body["b"], body["a"])
            elif kind == TICKER:
                levels = chain(((body["b"], body["B"]), (body["a"], body["A"])))
            elif kind in (TRADE, AGG):
                levels = chain(((body["p"], body["q"]),))
            else:
                continue
        for price, quantity, *_ in levels:
            prices.see(price)
            quantities.see(quantity)
    if first is None:
        raise FormatError(str(recording.path), 0, "symbol", f"the recording has no message of {recording.symbol}")
    return Facts(recording.symbol, base, quote, first, last, counts, prices.text, quantities.text, prices.used, quantities.used, snapshot)


class _Decimals:
    """Largest number of decimals seen, as written and without trailing zeros."""

    __slots__ = ("text", "used")

    def __init__(self) -> None:
        self.text = 0
        self.used = 0

    def see(self, number: str) -> None:
        point = number.find(".")
        if point < 0:
            return
        decimals = len(number) - point - 1
        if decimals > self.used:  # otherwise the number changes nothing
            self.text = max(self.text, decimals)
            self.used = max(self.used, len(number.rstrip("0")) - point - 1)


def decimal_step(decimals: int) -> str:
    """Return 10^-decimals as decimal text: 0 -> ``1``, 2 -> ``0.01``."""
    return "1" if decimals == 0 else "0." + "0" * (decimals - 1) + "1"


def read_funding(recording: Recording) -> list[dict[str, Any]]:
    """Return the settled funding rates of the recording's funding file, oldest first, as rows of the venue's REST.

    Raises:
        FormatError: a line cannot be read.
    """
    if recording.funding is None:
        return []
    path = Path(recording.funding)
    with path.open("rb") as head:
        packed = head.read(2) == b"\x1f\x8b"
    zone = timezone(timedelta(hours=recording.funding_utc_offset_hours))
    rows: list[dict[str, Any]] = []
    with gzip.open(path, "rt") if packed else path.open() as lines:
        reader = csv.DictReader(lines)
        for number, row in enumerate(reader, 2):
            try:
                at = datetime.fromisoformat(row["Date"]).replace(tzinfo=zone)
                rate = row["Funding Rate"]
                float(rate)
            except (KeyError, TypeError, ValueError) as error:
                raise FormatError(path.name, number, "Date or Funding Rate", f"{type(error).__name__}: {error}") from error
            rows.append({"symbol": recording.symbol, "fundingTime": round(at.timestamp() * 1000), "fundingRate": rate})
    rows.sort(key=lambda row: row["fundingTime"])
    return rows
