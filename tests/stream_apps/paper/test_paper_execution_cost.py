"""Cost events of paper trades equal a plain recomputation from the fills, and a restart changes nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from schemas.codec.avro import Codec
from stream_apps.core.paper.model import PaperBook, PaperSettings
from tests.support.trading.paper_cases import GRID, INSTRUMENT, columns, ltc_trades, of, play, signal, synthetic_signals

SETTINGS = PaperSettings(latency_ms=400, slippage_bps=2.5)


def weighted(fills: list[dict[str, Any]]) -> float | None:
    """Return the slippage of fills against their references in 1/10,000, volume-weighted."""
    exact = [[Decimal(repr(one[name])) for name in ("price", "reference_price", "quantity")] for one in fills]
    basis = sum((reference * quantity for _, reference, quantity in exact), Decimal(0))
    cost = sum((abs(price - reference) * quantity for price, reference, quantity in exact), Decimal(0))
    return float(cost / basis * 10_000) if basis else None


def test_each_closed_trade_has_one_event_that_its_fills_explain() -> None:
    trades = ltc_trades("2025-06-21_12h", "2025-06-21_15h")
    start, end = int(trades.event_time[0]) // GRID * GRID, int(trades.event_time[-1]) // GRID * GRID
    signals = synthetic_signals(start, end, 7)
    out = play(PaperBook(SETTINGS), trades, signals, end, start=start)
    closed, costs, fills = of("trades_closed", out), of("execution_cost_events", out), of("fills", out)
    assert len(closed) > 20 and {one["exit_reason"] for one in closed} >= {"stop", "break_even_stop", "tp2", "timeout", "flip"}
    assert [one["trade_id"] for one in costs] == [one["trade_id"] for one in closed]
    decided = {one["signal_id"]: one["decided_at"] for one in signals}
    codec = Codec()
    for trade, cost in zip(closed, costs, strict=True):
        mine = [one for one in fills if one["position_id"] == trade["trade_id"]]
        entry, exits = [one for one in mine if one["leg"] == "entry"], [one for one in mine if one["leg"] != "entry"]
        targets = [one for one in mine if one["leg"] in ("tp1", "tp2")]
        for name in ("instrument", "event_time", "receive_time", "strategy_id", "mode", "direction", "exit_reason", "fees"):
            assert cost[name] == trade[name], name
        assert cost["slippage_bps_entry"] == pytest.approx(weighted(entry), abs=1e-9)
        assert cost["slippage_bps_exit"] == pytest.approx(weighted(exits), abs=1e-9)
        assert cost["slippage"] == pytest.approx(
            sum(abs(one["price"] - one["reference_price"]) * one["quantity"] for one in mine), abs=1e-9
        )
        assert cost["friction_r"] == pytest.approx(trade["fee_r"] + trade["slippage_r"], abs=1e-12)
        assert cost["notional"] == pytest.approx(entry[0]["price"] * entry[0]["quantity"])
        assert cost["maker_ratio_tp"] == (1.0 if targets else None) and all(one["liquidity"] == "maker" for one in targets)
        assert (cost["maker_ratio_entry"], cost["flips"]) == (0.0, trade["exit_reason"] == "flip")
        assert cost["signal_to_order_ms"] == 400
        assert cost["order_to_venue_fill_ms"] == trade["entry_time"] - decided[trade["signal_id"]] - 400 >= 0
        # What no model knows: the time at which news of a fill arrives.
        assert cost["order_to_fill_ms"] is None
        assert codec.decode("execution_cost_events", codec.encode("execution_cost_events", cost)) == cost


def test_a_restart_from_a_checkpoint_in_the_trade_gives_the_same_event() -> None:
    trades = columns([(16_000, 2_000.0), (20_000, 2_001.0), (31_000, 2_016.0), (50_000, 1_990.0)])
    one = signal(15_000, instrument=INSTRUMENT)
    whole = play(PaperBook(SETTINGS), trades, [one], 60_000)
    book = PaperBook(SETTINGS)
    out: list[tuple[str, dict[str, Any]]] = []
    for end in range(GRID, 60_001, GRID):
        out += play(book, trades, [one], end, start=end - GRID)
        book = PaperBook.from_bytes(book.to_bytes(), SETTINGS)
    assert of("execution_cost_events", out) == of("execution_cost_events", whole) and len(of("execution_cost_events", out)) == 1
