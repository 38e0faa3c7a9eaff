"""Derives the venue's messages from recorded ones: aggTrades from trades, slow depth cadences from fast ones.

Both are pure functions of the recorded sequence, so a frame's content and place do not depend on subscribers or speed.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson

from producers.simulated.recording.events import AGG, TRADE, Event, Events

# The stream name gives the recorder's cadence. A bare ``depth`` is the venue's default of 250 ms.
DEFAULT_DEPTH_CADENCE_MS = 250
DEPTH_CADENCES = {"depth": 250, "depth@0ms": 0, "depth@100ms": 100, "depth@250ms": 250, "depth@500ms": 500}


def with_aggregates(events: Events) -> Events:
    """Yield the events, and after each taker order's trades their aggTrade.

    The venue's rule: consecutive market trades of the same trade time, price and side, with consecutive ids, are one aggTrade.
    Its quantity is their exact sum, its event time that of its last trade, its id a running number from 1. Insurance fund and ADL trades
    (``X`` other than MARKET) join no aggTrade. A group ends with the next trade, with the first message of a later event time, or with the
    recording. If a recording has both streams, the first one counts: its aggTrades pass unchanged, or they are built and its own are left
    out.
    """
    group: _Group | None = None
    number = 0
    source: str | None = None
    for event in events:
        if event.kind in (TRADE, AGG):
            source = source or event.kind
            if event.kind != source:
                if event.kind == TRADE:
                    yield event
                continue
        if event.kind == TRADE:
            body = event.body
            market = body.get("X", "MARKET") == "MARKET"
            if group is not None and market and group.takes(body):
                group.add(event)
                yield event
                continue
            if group is not None:
                yield group.event()
                group = None
            yield event
            if market:
                number += 1
                group = _Group(number, event)
            continue
        if group is not None and event.clock > group.last.clock:
            yield group.event()
            group = None
        yield event
    if group is not None:
        yield group.event()


class _Group:
    """Trades of one taker order at one price."""

    def __init__(self, number: int, first: Event) -> None:
        self.number = number
        self.first = first
        self.last = first
        self._sum: Decimal | None = None

    def takes(self, body: dict[str, Any]) -> bool:
        first, last = self.first.body, self.last.body
        return bool(body["t"] == last["t"] + 1 and body["T"] == first["T"] and body["p"] == first["p"] and body["m"] == first["m"])

    def add(self, event: Event) -> None:
        self._sum = (Decimal(self.first.body["q"]) if self._sum is None else self._sum) + Decimal(event.body["q"])
        self.last = event

    def event(self) -> Event:
        first, last = self.first.body, self.last.body
        body = {
            "e": "aggTrade",
            "E": self.last.clock,
            "s": first["s"],
            "a": self.number,
            "p": first["p"],
            "q": first["q"] if self._sum is None else format(self._sum, "f"),
            "f": first["t"],
            "l": last["t"],
            "T": first["T"],
            "m": first["m"],
        }
        return Event(AGG, self.last.clock, "aggTrade", orjson.dumps(body), body)


def depth_cadence_ms(stream: str) -> int:
    """Return the cadence of a depth stream's name, ms; 0 for one message an update."""
    cadence = stream.partition("@")[2]
    return int(cadence.removesuffix("ms")) if cadence.removesuffix("ms").isdigit() else DEFAULT_DEPTH_CADENCE_MS


class DepthMerger:
    """Merges depth diffs into one message per step of venue time, as the venue's slower streams do.

    A merged diff spans its parts: ``U`` and ``pu`` of the first, ``u``, ``E`` and ``T`` of the last. Every price has its last quantity. A
    removal stays, because it may remove a level of an earlier message.

    Args:
        cadence_ms: Step of event time, ms.
    """

    def __init__(self, stream: str, cadence_ms: int) -> None:
        self.stream = stream
        self.cadence_ms = cadence_ms
        self.due: int | None = None  # event time from which the open step may be sent; None: no open step
        self._first: Event | None = None
        self._last: Event | None = None
        self._bids: dict[str, list[str]] = {}
        self._asks: dict[str, list[str]] = {}

    def add(self, event: Event) -> None:
        """Take a diff into the open step. The caller has flushed all earlier due steps."""
        if self._first is None:
            self._first = event
            self.due = (event.clock // self.cadence_ms + 1) * self.cadence_ms
        self._last = event
        for side, levels in ((self._bids, event.body["b"]), (self._asks, event.body["a"])):
            for level in levels:
                side[level[0]] = level

    def flush(self) -> Event | None:
        """Return the open step's message and close it; None without an open step."""
        first, last = self._first, self._last
        if first is None or last is None:
            return None
        body = {**last.body, "U": first.body["U"], "b": list(self._bids.values()), "a": list(self._asks.values())}
        if "pu" in first.body:
            body["pu"] = first.body["pu"]
        self._first = self._last = self.due = None
        self._bids, self._asks = {}, {}
        return Event(last.kind, last.clock, self.stream, orjson.dumps(body), body)
