"""Execution cost: every mean and its count equal a recomputation from the records; what a trade does not have counts nowhere."""

from __future__ import annotations

import random
from statistics import fmean
from typing import Any

import httpx
import psycopg
import pytest

from schemas.settings import Settings
from tests.support.console.tables import write

T = 1_760_000_000_000
HOUR = 3_600_000


def cost(number: int, chance: random.Random) -> dict[str, Any]:
    """A cost record with random numbers, some of them unknown."""
    maybe = lambda value: None if chance.random() < 0.3 else value  # noqa: E731
    mode = chance.choice(("paper", "live"))
    return {
        "trade_id": f"trade-{number}", "instrument": chance.choice(("BINANCE:BTCUSDT-PERP", "BINANCE:ETHUSDT-PERP")), "event_time": T + number * HOUR,
        "receive_time": T + number * HOUR, "strategy_id": chance.choice(("one", "two")), "mode": mode, "direction": "LONG", "exit_reason": "stop",
        "notional": round(chance.uniform(100, 10_000), 2), "maker_ratio_entry": maybe(chance.random()), "maker_ratio_tp": None,
        "fees": round(chance.uniform(0.01, 5), 4), "fee_estimated": chance.random() < 0.2, "slippage": round(chance.uniform(-1, 5), 4),
        "friction_r": maybe(chance.uniform(0, 0.2)), "slippage_bps_entry": maybe(chance.uniform(-1, 5)), "slippage_bps_exit": maybe(chance.uniform(-1, 5)),
        "entry_slices": 1, "entry_attempts": 1, "entry_fill_ratio": 1.0, "entry_timeout": False, "entry_abandoned": None, "tp_overshoot": 0, "flips": 0,
        "stops_placed": 1, "signal_to_order_ms": maybe(chance.randint(1, 500)), "order_to_fill_ms": None if mode == "paper" else maybe(chance.randint(1, 500)),
        "order_to_venue_fill_ms": maybe(chance.randint(1, 500)), "protection_gap_ms": 0,
    }  # fmt: skip


def closed(of: dict[str, Any], funding: float) -> dict[str, Any]:
    """The closed trade of a cost record."""
    same = {
        name: of[name]
        for name in ("trade_id", "instrument", "event_time", "receive_time", "strategy_id", "mode", "direction", "exit_reason", "fees")
    }
    return {
        **same, "signal_id": "s", "strategy_name": "s", "config_revision": 1, "config_hash": "h", "tier": "light", "regime": "range", "score": 80.0,
        "signal_time": T, "entry_time": T, "entry_price": 1.0, "exit_price": 1.0, "tp1_hit": False, "quantity": 1.0, "risk_distance": 1.0,
        "risk_amount": 1.0, "risk_multiple": 1.0, "gross_r": 0.0, "fee_r": 0.0, "funding_r": 0.0, "slippage_r": 0.0, "net_r": 0.0, "net_pnl": 0.0,
        "funding": funding, "mfe_r": 0.0, "mae_r": 0.0, "hold_ms": 1, "price_estimated": False,
    }  # fmt: skip


@pytest.fixture(scope="module")
def book(settings: Settings) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Cost records, and the funding of the trades that have a closed trade. One record was written twice, in two forms."""
    chance = random.Random(7)
    costs = [cost(number, chance) for number in range(120)]
    funding = {one["trade_id"]: chance.uniform(-2, 2) for one in costs if chance.random() < 0.8}
    with psycopg.connect(settings.database_url) as connection:
        write(connection, "execution_cost_events", [{**costs[3], "fees": 99.0, "event_time": costs[3]["event_time"] - 1}, *costs])
        write(connection, "trades_closed", [closed(one, funding[one["trade_id"]]) for one in costs if one["trade_id"] in funding])
    return costs, funding


def mean(values: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {"mean": pytest.approx(fmean(known)) if known else None, "count": len(known)}


@pytest.mark.parametrize(
    "query", [{}, {"strategy_id": "one"}, {"instrument": "BINANCE:ETHUSDT-PERP", "start": T + 20 * HOUR, "end": T + 80 * HOUR}]
)
def test_every_mean_and_count(client: httpx.Client, book: tuple[list[dict[str, Any]], dict[str, float]], query: dict[str, Any]) -> None:
    costs, funding = book
    chosen = [
        one
        for one in costs
        if one["strategy_id"] == query.get("strategy_id", one["strategy_id"])
        and one["instrument"] == query.get("instrument", one["instrument"])
        and query.get("start", 0) <= one["event_time"] < query.get("end", 2**60)
    ]
    answer = client.get("/api/v1/costs/summary", params=query)
    assert answer.status_code == 200, answer.text
    groups = {(one["strategy_id"], one["instrument"], one["mode"]): one for one in answer.json()["groups"]}
    assert groups.keys() == {(one["strategy_id"], one["instrument"], one["mode"]) for one in chosen}
    for key, found in groups.items():
        own = [one for one in chosen if (one["strategy_id"], one["instrument"], one["mode"]) == key]
        paid = [funding.get(one["trade_id"]) for one in own]
        assert (found["trades"], found["fees_estimated"]) == (len(own), sum(one["fee_estimated"] for one in own))
        assert found["components"] == {
            "fees": mean([one["fees"] / one["notional"] * 1e4 for one in own]),
            "slippage": mean([one["slippage"] / one["notional"] * 1e4 for one in own]),
            "slippage_entry": mean([one["slippage_bps_entry"] for one in own]),
            "slippage_exit": mean([one["slippage_bps_exit"] for one in own]),
            "funding": mean([None if value is None else value / one["notional"] * 1e4 for one, value in zip(own, paid, strict=True)]),
            "friction": mean([one["friction_r"] for one in own]),
            "maker_ratio_entry": mean([one["maker_ratio_entry"] for one in own]),
            "signal_to_order": mean([one["signal_to_order_ms"] for one in own]),
            "order_to_fill": mean(
                [one["order_to_fill_ms"] if one["order_to_fill_ms"] is not None else one["order_to_venue_fill_ms"] for one in own]
            ),
        }
        for name, values in (
            ("notional", [o["notional"] for o in own]),
            ("fees", [o["fees"] for o in own]),
            ("funding", [v for v in paid if v is not None]),
        ):
            assert found["sums"][name] == (pytest.approx(sum(values)) if values else None)


def test_nothing_is_not_zero(client: httpx.Client, book: Any) -> None:
    assert client.get("/api/v1/costs/summary", params={"strategy_id": "none"}).json()["groups"] == []
