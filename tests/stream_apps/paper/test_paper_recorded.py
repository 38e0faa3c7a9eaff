"""Recorded trades on paper equal the independent simulator; V5.0's stop trails the rest after the second target."""

from __future__ import annotations

from schemas.codec.avro import Codec
from stream_apps.core.paper.model import PaperBook
from tests.stream_apps.paper.paper_oracle import Oracle
from tests.stream_apps.paper.test_paper import ENTRY, closed, oracle_run, run, same_as_oracle
from tests.support.trading.paper_cases import GRID, ltc_trades, of, play, settlement, signal, synthetic_signals


def test_the_rest_of_a_v50_position_trails_behind_the_best_price() -> None:
    """Entry 2000, 1 R = 20, targets 0.75 and 1.5 R: from beyond 2030 on the stop lies 1 R behind, in steps of 2."""
    rows = [
        ENTRY,
        (20_000, 2015.1),
        (25_000, 2030.0),
        (30_000, 2030.1),
        (30_000, 2032.5),
        (35_000, 2049.9),
        (40_000, 2029.0),
        (41_000, 2028.0),
    ]
    _, out = run(rows, signal(strategy_version="v50_rules"))
    (trade,) = of("trades_closed", out)
    assert (trade["exit_reason"], trade["tp1_hit"], trade["event_time"]) == ("trailing_stop", True, 41_000)
    # Half at 2015; 2048 is the last of the levels 2030, 2032, ... that 2049.9 went beyond, so the stop is 2028.
    assert trade["gross_r"] == (0.5 * 15 + 0.5 * 28) / 20
    moves = [
        (one["order_id"].rpartition("|")[2], one["status"], one["price"]) for one in of("orders", out) if one["leg"] == "trailing_stop"
    ]
    assert moves == [
        ("1", "new", 2010.0), ("1", "cancelled", 2010.0), ("2", "new", 2012.0), ("2", "cancelled", 2012.0), ("3", "new", 2028.0), ("3", "filled", 2028.0),
    ]  # fmt: skip
    assert not [one for one in of("orders", out) if one["leg"] == "tp2"]
    # Two moves in one millisecond are one state.
    states = [(one["status"], one["event_time"], one["stop_price"]) for one in of("positions", out)]
    assert len({one[:2] for one in states}) == len(states) and ("tp1_hit", 30_000, 2012.0) in states
    orders = [(one["order_id"], one["status"]) for one in of("orders", out)]
    assert len(set(orders)) == len(orders)


def test_one_trade_far_beyond_both_targets_starts_the_trail_at_its_price() -> None:
    for side, far, exits in (("LONG", 2071.0, 2050.0), ("SHORT", 1929.0, 1950.0)):
        trade = closed([ENTRY, (20_000, far), (21_000, exits)], signal(strategy_version="v50_rules", direction=side))
        assert (trade["exit_reason"], trade["gross_r"]) == ("trailing_stop", (0.5 * 15 + 0.5 * 50) / 20)


def test_recorded_v50_trades_equal_the_independent_simulator() -> None:
    trades = ltc_trades("2025-06-21_12h", "2025-06-21_15h")
    start, end = (int(trades.event_time[n]) // GRID * GRID for n in (0, -1))
    signals = [{**one, "strategy_version": "v50_rules"} for one in synthetic_signals(start, end, seed=1)]
    out = play(PaperBook(), trades, signals, end, start=start)
    same_as_oracle(oracle_run(Oracle(), trades, signals, [], end), out)
    assert {one["exit_reason"] for one in of("trades_closed", out)} == {"stop", "break_even_stop", "trailing_stop", "timeout", "flip"}


def test_recorded_trades_equal_the_independent_simulator() -> None:
    trades = ltc_trades("2025-06-21_12h", "2025-06-21_15h")
    start = int(trades.event_time[0]) // GRID * GRID
    end = int(trades.event_time[-1]) // GRID * GRID
    signals = synthetic_signals(start, end, seed=1)
    settlements = [settlement(time, 0.0001 * (-1) ** index) for index, time in enumerate(range(start + 1_800_000, end, 1_800_000))]
    out = play(PaperBook(), trades, signals, end, settlements, start=start)
    same_as_oracle(oracle_run(Oracle(), trades, signals, settlements, end), out)
    reasons = {one["exit_reason"] for one in of("trades_closed", out)}
    assert reasons == {"stop", "break_even_stop", "tp2", "timeout", "flip"}, "the run must pass through every exit"
    codec = Codec()
    for topic, record in out:
        assert codec.decode(topic, codec.encode(topic, record)) == record
