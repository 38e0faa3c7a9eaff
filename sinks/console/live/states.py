"""Newest records by key: features, scores, funding, the risk guard; and open positions with their value."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from schemas.codec.avro import Codec, CodecError
from schemas.codec.columnar import decode
from schemas.codec.recordset import RecordSet
from sinks.console.data.records import rendering, times
from sinks.console.live.channels import covering
from sinks.console.live.market import Refuse, nullable, refuse_rejected
from sinks.console.live.messages import dumped
from stream_apps.core.performance.open_positions import money_at_risk, r_multiple

OVER = ("closed", "expired")
# Ended positions that a slow browser may still have to hear of.
KEPT_OVER = 5_000

Message = tuple[str, str, tuple[str, ...], bytes]


class Newest:
    """The newest record of each key of one state channel. Used by the reader's thread only."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._payloads: dict[tuple[str, str], dict[str, Any]] = {}
        self._changed: set[tuple[str, str]] = set()

    def put(self, payload: dict[str, Any], instrument: str = "", detail: str = "") -> None:
        """Replace the payload of a key."""
        self._payloads[instrument, detail] = payload
        self._changed.add((instrument, detail))

    def get(self, instrument: str, detail: str = "") -> dict[str, Any] | None:
        """Return the payload of a key."""
        return self._payloads.get((instrument, detail))

    def touch(self) -> None:
        """Show all again."""
        self._changed |= self._payloads.keys()

    def clear(self) -> None:
        """Forget all: nobody reads it any more."""
        self._payloads.clear()
        self._changed.clear()

    def flush(self, selected: frozenset[str]) -> Iterable[Message]:
        """Yield event, key, covering channels and JSON of what changed since the last call and is selected."""
        changed, self._changed = self._changed, set()
        for key in changed:
            covers = covering(self._channel, *key)
            if not selected.isdisjoint(covers):
                yield self._channel, ":".join((self._channel, *key)), covers, dumped(self._payloads[key])


class Records:
    """Feeds ``Newest`` of features, scores, funding and risk from their topics."""

    def __init__(self, codec: Codec, refuse: Refuse) -> None:
        self._codec, self._refuse = codec, refuse
        self.features, self.scores, self.funding, self.risk = (Newest(name) for name in ("features", "scores", "funding", "risk"))

    def take_features(self, records: RecordSet) -> None:
        """Decode the newest record of each key only."""
        newest: dict[bytes | None, list[int]] = {}
        for row in range(len(records)):
            newest.setdefault(records.key(row), []).append(row)
        for rows in newest.values():
            while rows and (record := self._decoded("features", records, rows.pop())) is None:
                pass
            if record is not None:
                self.features.put(rendering("features")(record), record["instrument"])

    def take_scores(self, records: RecordSet) -> None:
        """Decode all: the strategy is not part of the key."""
        for row in range(len(records)):
            record = self._decoded("scores", records, row)
            if record is not None:
                self.scores.put(rendering("scores")(record), record["instrument"], record["strategy_id"])

    def take_risk(self, record: dict[str, Any]) -> bool:
        """Replace the state of an account. Returns whether permissions or reasons are others than before; False for the first state."""
        before = self.risk.get("", record["account"])
        new = rendering("risk_state")(record)
        self.risk.put(new, "", record["account"])
        return before is not None and _permissions(before) != _permissions(new)

    def take_funding(self, records: RecordSet) -> set[str]:
        """Merge the fields that records carry. Returns the instruments with a new mark price."""
        columns = decode(self._codec, "funding", records)
        refuse_rejected(columns, "funding", records, self._refuse)
        stamps = columns.long("event_time")
        marked = set()
        for row in np.flatnonzero(columns.good).tolist():
            name = columns.text("instrument", row)
            time = int(stamps[row])
            fields = {
                field: value
                for field in ("mark_price", "index_price", "estimated_rate", "settled_rate")
                if (value := float(columns.double(field)[row])) == value
            }
            due = nullable(columns.long("next_funding_time"), row)
            known = self.funding.get(name) or {"instrument": name, **dict.fromkeys(("mark_price", "index_price", "estimated_rate"))}
            merged = {**known, **fields, **times(time=time), **({} if due is None else times(next_funding_time=due))}
            if "settled_rate" in fields:
                merged |= times(settled_time=time)
            self.funding.put(merged, name)
            if "mark_price" in fields:
                marked.add(name)
        return marked

    def _decoded(self, topic: str, records: RecordSet, row: int) -> dict[str, Any] | None:
        try:
            return self._codec.decode(topic, records.value(row))
        except CodecError as error:
            self._refuse(topic, int(records.index[row, 0]), str(error))
            return None


def _permissions(state: Mapping[str, Any]) -> tuple[Any, ...]:
    rules = tuple((one["rule"], one["level"]) for one in state["reasons"])
    return state["state"], state["block_entries"], state["close_all"], tuple(state["close_positions"]), rules


class Positions:
    """Open positions, valued at the mid of the newest quote, or at the mark price where no quote was read. Used by the reader's thread only."""

    def __init__(self, codec: Codec, refuse: Refuse) -> None:
        self._codec, self._refuse = codec, refuse
        self._open: dict[str, dict[str, Any]] = {}
        self._of: dict[str, set[str]] = {}
        self._over: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._changed: set[str] = set()

    @property
    def instruments(self) -> set[str]:
        """Instruments with an open position."""
        return {name for name, ids in self._of.items() if ids}

    def take(self, records: RecordSet) -> None:
        """Apply records of the topic ``positions``. Records of ended positions that were never open here are not decoded as objects."""
        columns = decode(self._codec, "positions", records)
        for one in columns.rejected:
            if records.value(one.row) is not None:  # a tombstone is no fault
                self._refuse("positions", int(records.index[one.row, 0]), one.reason)
        over = columns.choices("status", OVER) >= 0
        for row in np.flatnonzero(columns.good).tolist():
            position = columns.text("position_id", row)
            if over[row] and position not in self._open:
                continue
            record = self._codec.decode("positions", records.value(row))
            if over[row]:
                self._of[self._open.pop(position)["instrument"]].discard(position)
                self._over[position] = record
                if len(self._over) > KEPT_OVER:
                    self._over.popitem(last=False)
            else:
                self._open[position] = record
                self._of.setdefault(record["instrument"], set()).add(position)
            self._changed.add(position)

    def touch(self) -> None:
        """Show all open positions again."""
        self._changed |= self._open.keys()

    def repriced(self, instruments: Iterable[str]) -> None:
        """Show the positions of instruments again: their price changed."""
        for name in instruments:
            self._changed |= self._of.get(name, set())

    def flush(
        self, selected: frozenset[str], quotes: Mapping[str, Mapping[str, Any]], funding: Newest
    ) -> Iterable[tuple[str, str, tuple[str, ...], bytes, bool]]:
        """Yield event, key, covering channels, JSON and whether it ended, of positions that changed since the last call and are selected."""
        changed, self._changed = self._changed, set()
        for position in changed:
            record = self._open.get(position) or self._over.get(position)
            if record is None:
                continue
            covers = covering("positions", record["instrument"])
            if not selected.isdisjoint(covers):
                over = position not in self._open
                payload = _valued(record, None if over else _price(record["instrument"], quotes, funding))
                yield "positions", f"positions:{position}", covers, dumped(payload), over


def _price(instrument: str, quotes: Mapping[str, Mapping[str, Any]], funding: Newest) -> tuple[float, int, str] | None:
    quote = quotes.get(instrument)
    if quote is not None:
        return (quote["bid_price"] + quote["ask_price"]) / 2, quote["time_ms"], "mid"
    rates = funding.get(instrument)
    if rates is not None and rates["mark_price"] is not None:
        return rates["mark_price"], rates["time_ms"], "mark"
    return None


def _valued(record: dict[str, Any], price: tuple[float, int, str] | None) -> dict[str, Any]:
    value, time, source = price or (None, None, None)
    unrealised = r = None
    if value is not None and record["entry_price"] is not None:
        sign = 1 if record["direction"] == "LONG" else -1
        unrealised = sign * (value - record["entry_price"]) * record["open_quantity"]
        r = r_multiple(record["realised_pnl"], unrealised, money_at_risk(record))
    return {
        **rendering("positions")(record),
        "price": value,
        **times(price_time=time),
        "price_source": source,
        "unrealised_pnl": unrealised,
        "r": r,
    }
