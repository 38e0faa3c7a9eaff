"""The paper execution model (DECISIONS D19-D22, S1 8): signals and trades in, orders, fills, positions and closed trades out.

Pure: no clock, no I/O, no randomness. Live paper trading and replay run this class. One ``PaperBook`` serves one Kafka partition: all its
strategies and instruments. All instruments of a strategy are in one partition, so the book sees all its positions and can enforce
``max_positions``.

**Time.** A step (T, decided_at) first applies the trades and settlements up to T, then the signals of T. Trades are ordered by (event_time,
offset). A late trade, whose instant has passed, is applied when it arrives. It affects only positions whose newest fill lies before it.

**Entry.** A market order fills at the first trade with event_time >= decided_at + latency, at its price plus slippage, taker. Without a
trade for ``entry_expiry_ms`` the order is cancelled and the position expires at that time.

**Exits** are checked on every trade after the entry, in this order on one trade:

1. Stop: price at or beyond the stop -> market at that trade (a gap fills where it landed) with slippage, taker, all that is open. First
   because that is the conservative reading where a trade crosses both (possible when break-even lies beyond the second target).
2. Targets: a limit fills at its own price, maker, once a trade went strictly beyond it; a touch may have been filled for others before us.
   TP1 closes half and puts the stop to break-even for the trades that follow; TP2 closes the rest. One trade can do both.
   With a trailing stop nothing rests at TP2. From a trade beyond it on, the stop follows in steps of 0.1 R, for the trades that follow.
3. Timeout and flip: market at the first trade at or after their time, with slippage, taker, what is left. Of both, the one due first.

An order fills completely, whatever the size of the trade: the model has no queue. A market order walks the book where one is known
(``fills``). Without a book, slippage stands for the depth that trade prints do not show.

**Signals.** One slot per strategy and instrument. These are refused with a rejected order: decided too late (``signal_too_old``; this
refuses its flip too), no risk distance, no risk amount, ``max_positions``, ``side_capital``, below two lots, below the smallest order value.

These are ignored without a record, because they ask for nothing new: any signal while an entry is pending, the direction of the open
position, the opposite one without ``flip``, and a signal without ``entry`` where nothing is open.

A flip closes at the first trade at or after decided_at + latency. If the signal is also an entry, the new side enters at that trade.

**Funding.** A settlement at s is charged on the quantity open just before s (entry_time < s <= exit_time): quantity x mark price of the
settlement (else the newest trade price) x rate. LONG pays a positive rate. A settlement that becomes known after the close is not charged.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_apps.core.paper import records
from stream_apps.core.paper.execution_cost import execution_cost
from stream_apps.core.paper.fills import NO_BOOKS, Books, Filters
from stream_apps.core.paper.money import MONEY_CONTEXT, exact, wire_price
from stream_apps.core.paper.position import CLOSED, EXPIRED, OPEN, PENDING, TP1_HIT, PaperSettings, Position, position_of, quantity_of
from stream_apps.core.signals.signal_rules import verdict

Record = dict[str, Any]
Output = tuple[str, Record]
IntArray = npt.NDArray[np.int64]

STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class TradeColumns:
    """Aggregate trades of one instrument, sorted by (event_time, offset).

    Attributes:
        event_time: ms UTC, shape (n,).
        offset: Kafka offsets, shape (n,).
        agg_id: Venue ids, shape (n,).
        price: Quote units, shape (n,).
    """

    event_time: IntArray
    offset: IntArray
    agg_id: IntArray
    price: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.price)

    @classmethod
    def of(cls, event_time: Any, offset: Any, agg_id: Any, price: Any) -> TradeColumns:
        """Return columns from any sequences, sorted by (event_time, offset)."""
        times, offsets = np.asarray(event_time, np.int64), np.asarray(offset, np.int64)
        order = np.lexsort((offsets, times))
        return cls(times[order], offsets[order], np.asarray(agg_id, np.int64)[order], np.asarray(price, np.float64)[order])


_NO_TRADES = TradeColumns.of([], [], [], [])


class PaperBook:
    """All paper positions of one partition.

    Args:
        settings: Latency, slippage, fees and limits. They are not part of the state: a change applies from the next step on.
    """

    def __init__(self, settings: PaperSettings | None = None) -> None:
        self.settings = settings or PaperSettings()
        # instrument -> strategy -> its open or pending position. While a flip waits for its trade: the old and the new one.
        self._slots: dict[str, dict[str, list[Position]]] = {}

    # --- state -----------------------------------------------------------------------------------------------------

    @property
    def active_instruments(self) -> Collection[str]:
        """Return the instruments whose trades are needed now: those with an open position or a pending entry."""
        return self._slots.keys()

    def open_positions(self) -> int:
        """Return the number of open positions. Pending entries do not count."""
        return sum(position.is_open for position in self._positions())

    def _positions(self) -> Iterable[Position]:
        for instrument in sorted(self._slots):
            for strategy in sorted(self._slots[instrument]):
                yield from self._slots[instrument][strategy]

    def to_bytes(self) -> bytes:
        """Return the whole state as bytes. Equal states give equal bytes."""
        state = {"version": STATE_VERSION, "positions": [position.to_json() for position in self._positions()]}
        return json.dumps(state, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, state: bytes, settings: PaperSettings | None = None) -> PaperBook:
        """Return the book that ``to_bytes`` wrote. Raises ValueError for the state of another version."""
        values = json.loads(state)
        if values["version"] != STATE_VERSION:
            raise ValueError(f"paper state: version {values['version']}, this release reads {STATE_VERSION}")
        book = cls(settings)
        for one in values["positions"]:
            book._add(Position.from_json(one))
        return book

    def _add(self, position: Position) -> None:
        self._slots.setdefault(position.instrument, {}).setdefault(position.strategy_id, []).append(position)

    # --- stepping --------------------------------------------------------------------------------------------------

    def step(
        self,
        *,
        time: int,
        decided_at: int,
        instruments: Iterable[str],
        trades: Mapping[str, TradeColumns],
        signals: Sequence[Record] = (),
        settlements: Sequence[Record] = (),
        books: Mapping[str, Books] | None = None,
        filters: Mapping[str, Filters] | None = None,
    ) -> list[Output]:
        """Take one step of an author's instruments to instant ``time``.

        Args:
            time: Instant T, ms UTC. All input up to T has arrived.
            decided_at: Time of the step's mark, ms UTC. It becomes the receive_time of the written records.
            instruments: The author's instruments. Others do not move.
            trades: Instrument -> its trades since the last step with event_time <= T. Instruments that are not active may be omitted.
            signals: ``signals`` records of T of these instruments, each once.
            settlements: ``funding`` records with a settled_rate since the last step. Others are skipped.
            books: Instrument -> its order books of the step, and the newest one before it. Without a book the model's slippage applies.
            filters: Instrument -> steps of its contract. Without them nothing is rounded.

        Returns:
            (topic, record) in order of event time.
        """
        out: list[Output] = []
        if not self._slots and not signals:
            return out
        books = books if books is not None and self.settings.walk_book else {}
        filters = filters if filters is not None and self.settings.use_filters else {}
        with localcontext(MONEY_CONTEXT):
            for instrument in sorted(self._slots.keys() & set(instruments)):
                settled = sorted(
                    (one for one in settlements if one["instrument"] == instrument and one["settled_rate"] is not None),
                    key=lambda one: one["event_time"],
                )
                columns = trades.get(instrument, _NO_TRADES)
                for strategy in sorted(self._slots[instrument]):
                    for position in self._slots[instrument][strategy]:
                        _Walk(position, self.settings, decided_at, books.get(instrument, NO_BOOKS), out).over(columns, settled, time)
                self._sweep(instrument)
            # As in the log, so that a limit of the strategy refuses the same signal on paper and live.
            for signal in sorted(signals, key=lambda one: (one["event_time"], one["instrument"], one["strategy_id"])):
                self._register(signal, decided_at, filters.get(signal["instrument"]), out)
        out.sort(key=lambda output: output[1]["event_time"])
        return out

    def _sweep(self, instrument: str) -> None:
        slots = self._slots[instrument]
        for strategy in list(slots):
            slots[strategy] = [position for position in slots[strategy] if not position.is_over]
            if not slots[strategy]:
                del slots[strategy]
        if not slots:
            del self._slots[instrument]

    def _register(self, signal: Record, decided_at: int, filters: Filters | None, out: list[Output]) -> None:
        slot = self._slots.get(signal["instrument"], {}).get(signal["strategy_id"], [])
        current = slot[0] if slot else None
        asked = verdict(
            signal,
            pending=any(position.status == PENDING for position in slot),
            current=None if current is None else current.direction,
            held=[one.holding for slots in self._slots.values() for one in slots.get(signal["strategy_id"], ())],
            age_ms=signal["decided_at"] - signal["event_time"],
            max_age_ms=self.settings.max_signal_age_ms,
        )
        if asked is None:
            return
        refusal, needs_rejection = asked.refusal, asked.needs_rejection
        if asked.opens and refusal is None and filters is not None:
            refusal = filters.refuses(quantity_of(signal, filters), exact(signal["price"]))
            needs_rejection = refusal is not None
        if refusal is not None and needs_rejection:
            out.append(("orders", records.refused_order(signal, _asked_quantity(signal), refusal, decided_at)))
        if asked.closes and current is not None and current.flip_at is None:
            current.flip_at, current.flip_signal_id = signal["decided_at"] + self.settings.latency_ms, signal["signal_id"]
        if asked.opens and refusal is None:
            position = position_of(signal, self.settings, filters)
            self._add(position)
            known_at = signal["decided_at"]
            out.append(("orders", records.order(position, "entry", "new", position.quantity, known_at, decided_at)))
            out.append(("positions", records.position_state(position, known_at, decided_at)))


def _asked_quantity(signal: Record) -> float:
    """Return the quantity that a refused signal would have bought; 0 without a risk amount."""
    if not signal["risk_distance"] > 0:
        return 0.0
    return float(signal["initial_balance"] * signal["risk_per_trade"] * signal["risk_multiple"] / signal["risk_distance"])


class _Walk:
    """Moves one position through the trades and settlements of one step."""

    def __init__(self, position: Position, settings: PaperSettings, decided_at: int, books: Books, out: list[Output]) -> None:
        self.position = position
        self.books = books
        self.settings = settings
        self.decided_at = decided_at
        self.out = out
        rates = settings.fees_of(position.instrument)
        self.taker, self.maker = exact(rates.taker), exact(rates.maker)

    def over(self, trades: TradeColumns, settled: Sequence[Record], time: int) -> None:
        """Apply trades and settlements in order of time, a settlement before the trades of the same millisecond.

        Then apply expiry at ``time``.
        """
        position = self.position
        start = 0
        for settlement in settled:
            end = int(np.searchsorted(trades.event_time, settlement["event_time"], "left"))
            self._trades(trades, start, end)
            start = max(start, end)
            self._settle(settlement)
        self._trades(trades, start, len(trades))
        if position.status == PENDING and time >= position.expires_at:
            position.status = EXPIRED
            self._order("entry", "cancelled", position.quantity, position.expires_at, "expired")
            self._state(position.expires_at)

    def _trades(self, trades: TradeColumns, start: int, end: int) -> None:
        """Apply rows [start, end). Each pass finds the next row at which something happens, by whole-array comparison."""
        position = self.position
        if position.status == PENDING:
            row = start + int(np.searchsorted(trades.event_time[start:end], position.entry_at, "left"))
            if row >= end or trades.event_time[row] > position.expires_at:
                return
            self._enter(trades, row)
            start = row + 1
        elif position.is_open:
            start = max(start, _after(trades, position.cursor_time, position.cursor_offset))
        while position.is_open and start < end:
            row = self._next_event(trades, start, end)
            seen = trades.price[start : min(row + 1, end)]
            position.see(float(seen.max()), float(seen.min()), float(seen[-1]))
            if row >= end:
                return
            self._act(trades, row)
            start = row + 1

    def _next_event(self, trades: TradeColumns, start: int, end: int) -> int:
        """Return the first row in [start, end) that crosses a level or reaches a due time; ``end`` when none does."""
        position = self.position
        assert position.stop_price is not None and position.timeout_at is not None
        due, _ = self._due()
        due_row = start + int(np.searchsorted(trades.event_time[start:end], due, "left"))
        prices = trades.price[start : min(due_row, end)]
        target = float(self._target())
        stop = float(position.stop_price)
        hits = (prices <= stop) | (prices > target) if position.sign > 0 else (prices >= stop) | (prices < target)
        first = int(hits.argmax()) if len(hits) else 0
        return start + first if len(hits) and hits[first] else min(due_row, end)

    def _target(self) -> Decimal:
        position = self.position
        if position.trail_ratio and position.status != OPEN:
            return position.trail_level(position.next_trail_step)
        target = position.tp1_price if position.status == OPEN else position.tp2_price
        assert target is not None
        return target

    def _due(self) -> tuple[int, str]:
        position = self.position
        assert position.timeout_at is not None
        if position.flip_at is not None and position.flip_at < position.timeout_at:
            return position.flip_at, "flip"
        return position.timeout_at, "timeout"

    def _act(self, trades: TradeColumns, row: int) -> None:
        position, price, time = self.position, float(trades.price[row]), int(trades.event_time[row])
        assert position.stop_price is not None
        if position.sign * (price - float(position.stop_price)) <= 0:
            self._close(position.stop_leg, trades, row)
            return
        if position.status == OPEN and self._through(price):
            self._bank_half(trades, row)
        if position.status == TP1_HIT and self._through(price):
            if position.trail_ratio:
                self._trail(price, time)
            else:
                self._close("tp2", trades, row)
        due, leg = self._due()
        if position.is_open and time >= due:
            self._order(leg, "new", position.open_quantity, time)
            self._close(leg, trades, row)

    def _through(self, price: float) -> bool:
        return self.position.sign * (price - float(self._target())) > 0

    # --- what happens at a trade --------------------------------------------------------------------------------------

    def _enter(self, trades: TradeColumns, row: int) -> None:
        position, time = self.position, int(trades.event_time[row])
        price = self._market(trades, row, position.sign, position.quantity)
        position.set_levels(price, time)
        position.status, position.open_quantity = OPEN, position.quantity
        position.last_price = float(trades.price[row])
        self._fill("entry", price, position.quantity, self.taker, trades, row)
        for leg, quantity in (("stop", position.quantity), ("tp1", position.half), ("tp2", position.quantity - position.half)):
            if leg != "tp2" or not position.trail_ratio:
                self._order(leg, "new", quantity, time)
        self._state(time)

    def _bank_half(self, trades: TradeColumns, row: int) -> None:
        position, time = self.position, int(trades.event_time[row])
        assert position.tp1_price is not None
        self._fill("tp1", position.tp1_price, position.half, self.maker, trades, row)
        self._order("stop", "cancelled", position.quantity, time, "replaced by break_even_stop")
        position.status, position.tp1_time = TP1_HIT, time
        position.stop_price = position.break_even(self.taker, self.settings.fee_basis)
        self._order("break_even_stop", "new", position.open_quantity, time)
        self._state(time)

    def _trail(self, price: float, time: int) -> None:
        position = self.position
        why = "replaced by trailing_stop"
        replaced = records.order(position, position.stop_leg, "cancelled", position.open_quantity, time, self.decided_at, why)
        if not position.trail(price):
            return
        self.out.append(("orders", replaced))
        self._order("trailing_stop", "new", position.open_quantity, time)
        # Several moves within one millisecond are one state: a reader knows a state by its status and time.
        newest = next((n for n in range(len(self.out) - 1, -1, -1) if self.out[n][0] == "positions"), None)
        state = records.position_state(position, time, self.decided_at)
        same = ("position_id", "status", "event_time")
        if newest is not None and all(self.out[newest][1][name] == state[name] for name in same):
            self.out[newest] = ("positions", state)
        else:
            self._state(time)

    def _close(self, leg: str, trades: TradeColumns, row: int) -> None:
        position, time = self.position, int(trades.event_time[row])
        resting = {position.stop_leg: position.open_quantity}
        if position.status == OPEN:
            resting["tp1"] = position.half
        if not position.trail_ratio:
            resting["tp2"] = position.quantity - position.half
        resting.pop(leg, None)
        if leg == "tp2":
            price, rate = self._target(), self.maker
        else:
            price, rate = self._market(trades, row, -position.sign, position.open_quantity), self.taker
        self._fill(leg, price, position.open_quantity, rate, trades, row)
        for other, quantity in resting.items():
            self._order(other, "cancelled", quantity, time, f"closed by {leg}")
        position.status = CLOSED
        self._state(time)
        self.out.append(("trades_closed", records.trade_closed(position, leg, time, self.decided_at)))
        self.out.append(("execution_cost_events", execution_cost(position, leg, time, self.decided_at, self.settings.latency_ms)))

    def _market(self, trades: TradeColumns, row: int, buying: int, quantity: Decimal) -> Decimal:
        """Return the price of a market order at a trade, up for a buy (+1) and down for a sale (-1).

        It is the price of the walk through the book, if that is worse than the trade. Without a book it is ``slippage_bps`` worse than the
        trade.
        """
        price, slippage = exact(float(trades.price[row])), exact(self.settings.slippage_bps)
        book = self.books.at(int(trades.event_time[row]))
        walked = None if book is None else book.walk(buying, quantity, slippage)
        if walked is None:
            return wire_price(price * (1 + buying * slippage / 10_000))
        return max(price, walked) if buying > 0 else min(price, walked)

    def _fill(self, leg: str, price: Decimal, quantity: Decimal, rate: Decimal, trades: TradeColumns, row: int) -> None:
        position, time = self.position, int(trades.event_time[row])
        assert position.entry_price is not None
        maker = records.ORDER_TYPES[leg] == "LIMIT"
        reference = price if maker else exact(float(trades.price[row]))
        basis = position.entry_price if self.settings.fee_basis == "entry" else price
        fee = basis * quantity * rate
        position.fees += fee
        position.slippage += abs(price - reference) * quantity
        if leg == "entry":
            position.entry_slippage += abs(price - reference) * quantity
            position.entry_reference += reference * quantity
        else:
            position.exit_reference += reference * quantity
            position.gross += position.sign * (price - position.entry_price) * quantity
            position.exit_value += price * quantity
            position.open_quantity -= quantity
        position.cursor_time, position.cursor_offset = time, int(trades.offset[row])
        self._order(leg, "filled", quantity, time)
        written = records.fill(
            position,
            leg,
            price=price,
            reference_price=reference,
            quantity=quantity,
            liquidity="maker" if maker else "taker",
            fee=fee,
            agg_id=int(trades.agg_id[row]),
            event_time=time,
            receive_time=self.decided_at,
        )
        self.out.append(("fills", written))

    def _settle(self, settlement: Record) -> None:
        position, time = self.position, settlement["event_time"]
        if not position.is_open or position.entry_time is None or time <= position.entry_time:
            return
        if position.funding_until is not None and time <= position.funding_until:
            return
        price = settlement["mark_price"] if settlement["mark_price"] is not None else position.last_price
        assert price is not None
        position.funding += position.sign * position.quantity_at(time) * exact(price) * exact(settlement["settled_rate"])
        position.funding_until = time
        self._state(time)

    def _order(self, leg: str, status: str, quantity: Decimal, time: int, reason: str | None = None) -> None:
        self.out.append(("orders", records.order(self.position, leg, status, quantity, time, self.decided_at, reason)))

    def _state(self, time: int) -> None:
        self.out.append(("positions", records.position_state(self.position, time, self.decided_at)))


def _after(trades: TradeColumns, time: int, offset: int) -> int:
    """Return the first row that comes after (time, offset)."""
    row = int(np.searchsorted(trades.event_time, time, "left"))
    end = int(np.searchsorted(trades.event_time, time, "right"))
    return row + int(np.searchsorted(trades.offset[row:end], offset, "right"))
