"""Paper, replay and the live service on the same recorded market and signals: the same trades; what differs is latency, queue and fees, in a table.

The market is played in real time, because the live service works by the wall clock: ten minutes.
``pytest -m long -s tests/sinks/live/test_live_same_trades.py``
prints the table and writes it as ``trades.md`` into the test's folder. Paper runs as it ships (250 ms, 1 bp); the simulated exchange has a book of one
tick around each trade, and whatever delay the process, the sockets, Kafka and PostgreSQL have.

A trade's net R is R on the prices from which slippage is measured, minus slippage, fees and funding: so a difference of two trades has three parts.
The first is the market's move between the moments of their orders (latency), the second what the fills were worse than those prices (queue: spread,
depth and the place in it), the third fees. Where the two end differently, their stops stand elsewhere, because the entry was filled elsewhere: by latency
if the market had moved between the two entries, else by the queue. A trade that ends earlier leaves room for a signal that the other one passes over.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from producers.simulated.exchange.core.rules import Contract
from stream_apps.core.execution.settings.policy import EntryPolicy, LivePolicy
from stream_apps.core.paper.model import TradeColumns
from tests.sinks.executor.test_executor import MIGRATION, run_here
from tests.support.trading.live_lab import ROOMY, D, Lab, assert_books_equal, prepare, wait_for
from tests.support.trading.paper_cases import GRID, ltc_trades, signal
from tests.support.trading.paper_log import Instrument, Writer, expected, log_of, written

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(1_800)]

SYMBOL, PERP = "LTCUSDT", "BINANCE:LTCUSDT-PERP"
LTC = Contract.of(SYMBOL, "0.01", "0.001")
# The fastest ten minutes of the recorded file, 1,760 trades over 1.2 %.
BEGIN_MS, PLAYED_MS = 9_000_000, 600_000
# A signal at most every so often; the last ones early enough for their timeout.
EVERY_MS, LONGEST_MS = 45_000, 120_000
POLICY = LivePolicy(entry=EntryPolicy(style="market", walk_limit_bps=D(100)), budget=ROOMY)
PARTS = ("latency", "queue", "fee")


def recorded() -> TradeColumns:
    trades = ltc_trades("2025-06-21_12h")
    begin = int(trades.event_time[0]) + BEGIN_MS
    low, high = trades.event_time.searchsorted([begin, begin + PLAYED_MS])
    return TradeColumns(trades.event_time[low:high], trades.offset[low:high], trades.agg_id[low:high], trades.price[low:high])


def signals_of(trades: TradeColumns) -> list[dict[str, Any]]:
    draw = random.Random(7)
    made, next_at = [], 0
    start, end = int(trades.event_time[0]) // GRID * GRID + 2 * GRID, int(trades.event_time[-1]) - LONGEST_MS - 2 * GRID
    for at in range(start, end, GRID):
        if at < next_at:
            continue
        next_at = at + EVERY_MS
        price = float(trades.price[int(trades.event_time.searchsorted(at)) - 1])
        direction, flip = draw.choice(("LONG", "SHORT")), draw.random() < 0.5
        distance, minutes = round(price * draw.choice((0.001, 0.0015, 0.002)), 2), draw.choice((1, 2))
        more = {"direction": direction, "flip": flip, "price": price, "risk_distance": distance, "timeout_minutes": minutes}
        made.append(signal(at, instrument=PERP, **more))
    return made


def on_paper(settings: Any, trades: TradeColumns, signals: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the trades of the paper executor on a real broker and database, after comparing them with the replay of the same log."""
    one = Instrument(PERP, "BINANCE-1", trades, 0)
    one.signals = signals
    writer = Writer(settings)
    for batch in log_of([one], settings):
        writer.write(batch)
    writer.flush()
    run_here(settings)
    executed, replayed = written(settings), expected([one], settings)
    assert executed == replayed, "the paper executor is the replay, record by record"
    return with_references(executed["trades_closed"].values(), executed["fills"].values())


def live(lab: Lab, trades: TradeColumns, signals: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Play the market in real time around a live service; return its trades, in the recording's time."""
    first = int(trades.event_time[0])
    due = [(one["decided_at"], one) for one in signals]
    moments = sorted(
        [(int(at), Decimal(repr(float(price)))) for at, price in zip(trades.event_time, trades.price, strict=True)] + due, key=_at
    )
    lab.price(moments[0][1], SYMBOL)
    with lab.running(POLICY):
        begun = time.time() * 1000
        for at, what in moments:
            pause = begun + at - first - time.time() * 1000
            if pause > 0:
                time.sleep(pause / 1000)
            lab.send(what) if isinstance(what, dict) else lab.price(what, SYMBOL)
        wait_for(lambda: not lab.positions, LONGEST_MS / 1000 + 60, "everything is closed")
        wait_for(lambda: lab.query("SELECT count(*) FROM live_outbox") == [(0,)], 60, "told")
        wait_for(lambda: lab.query("SELECT count(*) FROM live_trades WHERE over_at IS NULL") == [(0,)], 60, "over")
    assert_books_equal(lab)
    shift = first - round(begun)
    closed, fills = ([one for one in lab.written(topic) if one["mode"] == "simulated"] for topic in ("trades_closed", "fills"))
    told = with_references(closed, fills)
    return {key: {**one, "entry_time": one["entry_time"] + shift, "event_time": one["event_time"] + shift} for key, one in told.items()}


def _at(moment: tuple[int, Any]) -> int:
    return moment[0]


def parts_of(lived: dict[str, Any], paper: dict[str, Any]) -> dict[str, float]:
    """Return the difference of net R, live minus paper, by its cause."""
    reference = (lived["gross_r"] + lived["slippage_r"]) - (paper["gross_r"] + paper["slippage_r"])
    return {"latency": reference, "queue": paper["slippage_r"] - lived["slippage_r"], "fee": paper["fee_r"] - lived["fee_r"]}


def cause_of(lived: dict[str, Any], paper: dict[str, Any]) -> str:
    """Return what made most of a difference."""
    if lived["exit_reason"] != paper["exit_reason"]:
        return f"{'latency' if lived['reference'] != paper['reference'] else 'queue'}: other stop"
    parts = parts_of(lived, paper)
    return max(PARTS, key=lambda part: abs(parts[part]))


def with_references(trades: Iterable[dict[str, Any]], fills: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return trades by their signal, each with the price from which its entry's slippage is measured."""
    references = {one["position_id"]: round(one["reference_price"], 6) for one in fills if one["leg"] == "entry"}
    return {one["signal_id"]: {**one, "reference": references[one["trade_id"]]} for one in trades}


def is_held(trades: dict[str, dict[str, Any]], at: int) -> bool:
    """Return whether a trade is open, or just over, at a time of the recording."""
    return any(one["entry_time"] <= at + GRID and one["event_time"] >= at - GRID for one in trades.values())


def _clock(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]


def _trade(one: dict[str, Any]) -> str:
    entry, leave = f"{_clock(one['entry_time'])} {one['entry_price']:.3f}", f"{_clock(one['event_time'])} {one['exit_price']:.3f}"
    return f"{entry} | {leave} | {one['exit_reason']} | {one['net_r']:+.3f}"


def table(paper: dict[str, dict[str, Any]], lived: dict[str, dict[str, Any]]) -> str:
    """Return one row per trade of both, in Markdown."""
    lines = [
        "| trade | paper = replay: entry | exit | reason | net R | live: entry | exit | reason | net R | difference R | latency | queue | fee | cause |",
        "|" + "---|" * 14,
    ]
    for number, key in enumerate([key for key in paper if key in lived], 1):
        parts, cause = parts_of(lived[key], paper[key]), cause_of(lived[key], paper[key])
        cells = " | ".join(f"{parts[part]:+.3f}" for part in PARTS)
        difference = lived[key]["net_r"] - paper[key]["net_r"]
        lines.append(
            f"| {number} {paper[key]['direction']} | {_trade(paper[key])} | {_trade(lived[key])} | {difference:+.3f} | {cells} | {cause} |"
        )
    return "\n".join(lines)


def test_the_same_signals_and_trades_on_paper_in_replay_and_live(environment, topics, tmp_path) -> None:
    trades = recorded()
    signals = signals_of(trades)
    prepare(environment)
    with psycopg.connect(environment.database_url, autocommit=True) as connection:
        connection.execute(MIGRATION.read_text())
    with Lab(environment, contracts=(LTC,)) as lab:
        # The signals of the live service are written as they become due, those of paper with the log: live reads from the end on.
        paper = on_paper(environment, trades, signals)
        lived = live(lab, trades, signals)
    text = table(paper, lived)
    (tmp_path / "trades.md").write_text(text)
    print("\n" + text)
    assert len(paper) >= 6
    both = paper.keys() & lived.keys()
    assert len(both) >= 5
    for key in both:
        ours, theirs = lived[key], paper[key]
        assert ours["direction"] == theirs["direction"] and abs(ours["entry_time"] - theirs["entry_time"]) < 5_000
        # Nothing else differs: the three parts are all of it.
        assert sum(parts_of(ours, theirs).values()) == pytest.approx(ours["net_r"] - theirs["net_r"], abs=1e-9)
        if ours["exit_reason"] != theirs["exit_reason"]:
            assert ours["entry_price"] != theirs["entry_price"], "the same stop ends both"
    # A signal that only one acted on came while the other one held a trade.
    decided = {one["signal_id"]: one["decided_at"] for one in signals}
    for key in paper.keys() ^ lived.keys():
        assert is_held(paper if key in lived else lived, decided[key]), key
