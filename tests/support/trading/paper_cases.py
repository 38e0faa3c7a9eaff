"""Signals, trades and recorded prices for the tests of the paper model."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np

from stream_apps.core.paper.fills import Book, Books, Filters
from stream_apps.core.paper.model import PaperBook, TradeColumns
from tests.support.paths import RECORDINGS

INSTRUMENT = "BINANCE:LTCUSDT"
GRID = 15_000


def signal(time: int = 15_000, **more: Any) -> dict[str, Any]:
    """Return a ``signals`` record of S1 19's example (ATR 10, SL x2, ratios 0.75/1.5, LONG), changed by ``more``."""
    record = {
        "instrument": INSTRUMENT,
        "event_time": time,
        "receive_time": time + 250,
        "strategy_id": "s1",
        "strategy_name": "S One",
        "strategy_version": "v54_factory",
        "config_revision": 1,
        "config_hash": "abc",
        "decided_at": time + 250,
        "direction": "LONG",
        "score": 80.0,
        "tier": "standard",
        "entry": True,
        "flip": False,
        "regime": "range",
        "price": 2000.0,
        "atr": 10.0,
        "risk_distance": 20.0,
        "tp1_ratio": 0.75,
        "tp2_ratio": 1.5,
        "timeout_minutes": 240,
        "initial_balance": 10_000.0,
        "risk_per_trade": 0.02,
        "risk_multiple": 1.0,
        "max_positions": 4,
        **more,
    }
    return {"signal_id": f"{record['instrument']}|{record['strategy_id']}|{record['event_time']}", **record}


def settlement(time: int, rate: float, mark: float | None = None, instrument: str = INSTRUMENT) -> dict[str, Any]:
    """Return a ``funding`` record of a settled rate."""
    return {"instrument": instrument, "event_time": time, "settled_rate": rate, "mark_price": mark}


def columns(rows: list[tuple[int, float]], first_offset: int = 0) -> TradeColumns:
    """Return trades from (event_time, price) rows in log order."""
    offsets = range(first_offset, first_offset + len(rows))
    return TradeColumns.of([time for time, _ in rows], offsets, [10_000 + offset for offset in offsets], [price for _, price in rows])


def books(rows: list[tuple[int, bool, list[tuple[float, float]], list[tuple[float, float]]]]) -> Books:
    """Return books from (time, live, bids, asks) rows in order of time."""

    def read(row: int) -> Book | None:
        _, live, bids, asks = rows[row]
        sides = {
            f"{side}_{what}": [level[at] for level in levels]
            for side, levels in (("bid", bids), ("ask", asks))
            for at, what in enumerate(("prices", "quantities"))
        }
        return Book.of({"state": "live" if live else "invalid", **sides})

    return Books(np.array([time for time, *_ in rows], np.int64), read)


def play(
    book: PaperBook,
    trades: TradeColumns,
    signals: list[dict[str, Any]],
    end: int,
    settlements: list[dict[str, Any]] | None = None,
    grid: int = GRID,
    start: int = 0,
    books: Books | None = None,
    filters: Filters | None = None,
) -> list[tuple[str, dict[str, Any]]]:
    """Step a book over one instrument's trades on a grid from ``start`` to ``end``."""
    out = []
    signals = sorted(signals, key=lambda one: one["event_time"])
    for time in range(start + grid, end + 1, grid):
        lo, hi = np.searchsorted(trades.event_time, [time - grid, time], "right")
        part = TradeColumns(trades.event_time[lo:hi], trades.offset[lo:hi], trades.agg_id[lo:hi], trades.price[lo:hi])
        out += book.step(
            time=time,
            decided_at=time + 250,
            instruments=[INSTRUMENT],
            trades={INSTRUMENT: part},
            signals=[one for one in signals if time - grid < one["event_time"] <= time],
            settlements=[one for one in settlements or [] if time - grid < one["event_time"] <= time],
            books=None if books is None else {INSTRUMENT: books},
            filters=None if filters is None else {INSTRUMENT: filters},
        )
    return out


def of(topic: str, out: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the records of one topic."""
    return [record for name, record in out if name == topic]


def ltc_trades(*hours: str) -> TradeColumns:
    """Return recorded LTCUSDT trades of the named files, e.g. ``2025-06-21_12h``; the trade id stands for the aggregate id."""
    times, ids, prices = [], [], []
    for hour in hours:
        with gzip.open(RECORDINGS / "ltcusdt_spot_trades" / f"LTCUSDT_{hour}_trades.csv.gz", "rt") as lines:
            header = next(lines).strip().split(",")
            where = [header.index(name) for name in ("timestamp", "price", "tradeId")]
            for line in lines:
                cells = line.strip().split(",")
                times.append(int(cells[where[0]]))
                prices.append(float(cells[where[1]]))
                ids.append(int(cells[where[2]]))
    return TradeColumns.of(times, np.arange(len(times)), ids, prices)


def synthetic_signals(start: int, end: int, seed: int, instrument: str = INSTRUMENT) -> list[dict[str, Any]]:
    """Signals on the grid with sizes that fit the recording: several strategies, both sides, flips, short timeouts, some decided late."""
    random = np.random.default_rng(seed)
    made = []
    for time in range(start + GRID, end, GRID):
        for strategy in ("a", "b", "c"):
            if random.random() < 0.06:
                age = 250 if random.random() < 0.9 else int(random.integers(250, 90_000))
                made.append(
                    signal(
                        time,
                        instrument=instrument,
                        strategy_id=strategy,
                        direction=str(random.choice(["LONG", "SHORT"])),
                        entry=bool(random.random() < 0.9),
                        flip=bool(random.random() < 0.3),
                        decided_at=time + age,
                        risk_distance=float(random.uniform(0.05, 0.6)),
                        risk_multiple=float(random.choice([0.5, 1.0, 1.5])),
                        timeout_minutes=int(random.choice([3, 30, 240])),
                    )
                )
    return made
