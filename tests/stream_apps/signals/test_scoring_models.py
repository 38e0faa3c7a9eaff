"""Golden vectors of each scoring model, computed by hand from the specification's tables (S1 4, S2 6-8). V5.4 has its own file, ``test_scoring``.

Each row says what the market is, and what each part must give. Comments show the sums.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stream_apps.core.market.windows import FAST_WINDOWS, WINDOWS
from stream_apps.core.signals.scoring import MODELS, StrategyMemory
from stream_apps.core.signals.strategy import StrategyConfig, StrategyError
from stream_apps.core.signals.strategy_rules import validate
from tests.support.markets.scoring_cases import ALT, T, large, market, of_model, run

BUY, SELL, NO, BOTH = large(1, 0), large(0, 1), large(0, 0), large(1, 1)
SHORT = {
    "cvd": dict.fromkeys(WINDOWS, -7.0),
    "slope": dict.fromkeys(FAST_WINDOWS, -1.0),
    "vwap_30m": 101.0,
}


def parts(score: dict[str, Any]) -> dict[str, float]:
    """All sub-scores of a record."""
    return {name: points for layer in score["layers"] for name, points in layer["parts"].items()}


def points(score: dict[str, Any]) -> list[float]:
    """Weighted points of the layers, two decimals."""
    return [round(layer["score"], 2) for layer in score["layers"]]


# --- V5.0 -----------------------------------------------------------------------------------------------------------
# 40 for the core; 25 ATR from below 40 to above 60; 20 no adverse large trade; 15 funding below (LONG) or above (SHORT) 0.01 %.
ATR_MOVED = {"atr_percentile": 61.0, "atr_percentile_low": 39.0}


@pytest.mark.parametrize(
    ("changes", "direction", "score", "tier", "block"),
    [
        ({}, "LONG", 60.0, "standard", None),  # 40 + 20; funding and percentile are missing and add nothing
        ({"large_trades": SELL}, "LONG", 40.0, "light", None),
        ({"large_trades": BUY}, "LONG", 60.0, "standard", None),
        ({"large_trades": BOTH}, "LONG", 40.0, "light", None),  # one adverse is enough
        ({**ATR_MOVED}, "LONG", 85.0, "heavy", None),  # 40 + 25 + 20
        ({**ATR_MOVED, "estimated_funding_rate": 0.0}, "LONG", 100.0, "heavy", None),
        ({"atr_percentile": 60.0, "atr_percentile_low": 39.0}, "LONG", 60.0, "standard", None),  # not above 60
        ({"atr_percentile": 61.0, "atr_percentile_low": 40.0}, "LONG", 60.0, "standard", None),  # not below 40
        ({"estimated_funding_rate": 0.00009, "large_trades": SELL}, "LONG", 55.0, "light", None),  # 40 + 15
        ({"estimated_funding_rate": 0.0001, "large_trades": SELL}, "LONG", 40.0, "light", None),  # exactly 0.01 % supports nobody
        ({"estimated_funding_rate": 0.00011}, "LONG", 60.0, "standard", None),
        ({**ATR_MOVED, "large_trades": SELL}, "LONG", 65.0, "standard", None),  # 40 + 25
        ({**SHORT}, "SHORT", 60.0, "standard", None),
        ({**SHORT, "estimated_funding_rate": 0.00011}, "SHORT", 75.0, "standard", None),
        ({**SHORT, "estimated_funding_rate": 0.0001}, "SHORT", 60.0, "standard", None),
        ({**SHORT, "large_trades": BUY}, "SHORT", 40.0, "light", None),
        ({**SHORT, **ATR_MOVED, "estimated_funding_rate": 0.0002}, "SHORT", 100.0, "heavy", None),
        ({"cvd": {"30m": 0.0}}, "NONE", 0.0, None, "cvd_fast(0)"),
        ({"slope": {"30m": 0.0}}, "NONE", 0.0, None, "slope_fast(0)"),
        ({"slope": {"30m": -1.0}}, "NONE", 0.0, None, "slope_fast(-1)"),
        ({"slope": {"30m": None}}, "NONE", 0.0, None, "missing(slope_30m)"),
        ({"cvd": {"4h": -1.0}}, "NONE", 0.0, None, "cvd_slow(-1)"),
        ({"cvd": {"4h": 0.0}}, "NONE", 0.0, None, "cvd_slow(0)"),
        ({"vwap_30m": 100.0}, "NONE", 0.0, None, "vwap_30m(0)"),
        ({"vwap_30m": 101.0}, "NONE", 0.0, None, "vwap_30m(-1)"),
        ({"vwap_30m": None}, "NONE", 0.0, None, "missing(vwap_30m)"),
        ({"atr": 0.0}, "NONE", 0.0, None, "no_risk_distance"),
    ],
)
def test_v50(changes: dict[str, Any], direction: str, score: float, tier: str | None, block: str | None) -> None:
    found = run(market(**changes), of_model("v50_rules")).score
    assert (found["direction"], found["score"], found["tier"], found["gate_block"]) == (direction, score, tier, block)


def test_v50_every_entry_flips_and_its_size_follows_the_bonus() -> None:
    for changes, multiple in (({"large_trades": SELL}, 0.4), ({}, 1.0), (ATR_MOVED, 1.6)):  # 2, 5 and 8 % of capital
        signal = run(market(**changes), of_model("v50_rules")).signal
        assert signal is not None
        assert (signal["entry"], signal["flip"], signal["risk_multiple"]) == (True, True, multiple)
        assert (signal["risk_distance"], signal["tp1_ratio"], signal["tp2_ratio"], signal["timeout_minutes"]) == (0.6, 1.0, 2.0, 30)


@pytest.mark.parametrize(
    ("minute", "day", "window"),
    [
        (3.0, 1440.0, "30m"),  # three times the mean minute of 1: not more
        (3.001, 1440.0, "1h"),
        (None, 1440.0, "30m"),
        (99.0, None, "30m"),
    ],
)
def test_v50_a_heavy_minute_stretches_the_fast_window(minute: float | None, day: float | None, window: str) -> None:
    shot = market(volume_1m=minute, volume={"24h": day}, cvd={"1h": 5.0, "30m": 9.0}, slope_1h=2.0, slope={"30m": 3.0})
    found = run(shot, of_model("v50_rules")).score
    assert (found["cvd_fast"], found["cvd_slope"]) == ((9.0, 3.0) if window == "30m" else (5.0, 2.0))
    assert f"cvd_{window}" in found["inputs"] and found["score"] == 60.0
    assert [name for name in found["missing_inputs"] if name.startswith("volume")] == [
        *(["volume_1m"] if minute is None else []),
        *(["volume_24h"] if day is None else []),
    ]


def test_v50_enters_at_most_twice_within_an_hour() -> None:
    strategy, memory, verdicts = of_model("v50_rules"), StrategyMemory(), {}
    for minute in range(0, 75, 5):
        result = run(replace(market(), time=T + minute * 60_000), strategy, memory)
        memory = result.memory
        verdicts[minute] = result.score["verdict"]
    assert [minute for minute, verdict in verdicts.items() if verdict.startswith("entry")] == [0, 10, 60, 70]
    assert (verdicts[5], verdicts[20], verdicts[55]) == ("cooldown", "hourly_limit", "hourly_limit")


# --- V5.1 -----------------------------------------------------------------------------------------------------------
# Neutral: direction 15 + 15 + 10, crowding 5 + 5 (missing), environment 10 (missing), confirmation 15, auxiliary 2 = 77.
@pytest.mark.parametrize(
    ("changes", "expected", "score"),
    [
        ({}, {"cvd_fast": 15, "cvd_mid": 15, "p99_flow": 10, "accel_bonus": 0, "long_short_ratio": 5, "top_trader_position": 5,
              "open_interest": 10, "cvd_confirmation": 15, "coinbase_premium": 2}, 77.0),
        ({"large_trades": BUY}, {"p99_flow": 15}, 82.0),
        ({"large_trades": SELL}, {"p99_flow": 0}, 67.0),
        ({"large_trades": BOTH}, {"p99_flow": 15}, 82.0),
        ({"accel": 0.1}, {"accel_bonus": 5}, 82.0),
        ({"accel": -0.1}, {"accel_bonus": 0}, 77.0),
        ({"accel": None}, {"accel_bonus": 0}, 77.0),
        ({"cvd": {"4h": -1.0}}, {"cvd_fast": 15, "cvd_mid": 0, "cvd_confirmation": 0}, 47.0),  # 77 - 15 - 15
        ({"cvd": {"4h": 0.0}}, {"cvd_mid": 0, "cvd_confirmation": 0}, 47.0),
        ({"long_short_ratio": 0.0}, {"long_short_ratio": 10}, 82.0),  # zero is a value
        ({"long_short_ratio": 0.49}, {"long_short_ratio": 10}, 82.0),
        ({"long_short_ratio": 0.5}, {"long_short_ratio": 5}, 77.0),
        ({"long_short_ratio": 0.67}, {"long_short_ratio": 5}, 77.0),
        ({"long_short_ratio": 0.671}, {"long_short_ratio": 0}, 72.0),
        ({"long_short_ratio": 1.0}, {"long_short_ratio": 0}, 72.0),
        ({**SHORT, "long_short_ratio": 1.49}, {"long_short_ratio": 0}, 72.0),
        ({**SHORT, "long_short_ratio": 1.5}, {"long_short_ratio": 5}, 77.0),
        ({**SHORT, "long_short_ratio": 2.0}, {"long_short_ratio": 5}, 77.0),
        ({**SHORT, "long_short_ratio": 2.01}, {"long_short_ratio": 10}, 82.0),
        ({"top_trader_long_share": 0.55}, {"top_trader_position": 10}, 82.0),
        ({"top_trader_long_share": 0.5499}, {"top_trader_position": 5}, 77.0),
        ({"top_trader_long_share": 0.45}, {"top_trader_position": 0}, 72.0),
        ({**SHORT, "top_trader_long_share": 0.45}, {"top_trader_position": 10}, 82.0),
        ({**SHORT, "top_trader_long_share": 0.55}, {"top_trader_position": 0}, 72.0),
        ({"open_interest_change": 0.03}, {"open_interest": 15}, 82.0),
        ({"open_interest_change": 0.0299}, {"open_interest": 10}, 77.0),
        ({"open_interest_change": 0.0}, {"open_interest": 5}, 72.0),
        ({"coinbase_premium": 0.0005}, {"coinbase_premium": 2}, 77.0),
        ({"coinbase_premium": 0.00051}, {"coinbase_premium": 5}, 80.0),
        ({"coinbase_premium": -0.00051}, {"coinbase_premium": 0}, 75.0),
        # 15 + 15 + 15 + 5, 10 + 10, 15, 15, 5 = 105, the score ends at 100
        ({"large_trades": BUY, "accel": 1.0, "long_short_ratio": 0.4, "top_trader_long_share": 0.6, "open_interest_change": 0.05,
          "coinbase_premium": 0.001}, {"p99_flow": 15, "accel_bonus": 5}, 100.0),
        # 15 + 15 + 0, 0 + 0, 5, 15, 0 = 50
        ({"large_trades": SELL, "long_short_ratio": 1.2, "top_trader_long_share": 0.4, "open_interest_change": -0.1,
          "coinbase_premium": -0.001}, {"p99_flow": 0, "coinbase_premium": 0}, 50.0),
    ],
)  # fmt: skip
def test_v51(changes: dict[str, Any], expected: dict[str, float], score: float) -> None:
    found = run(market(**changes), of_model("v51_baseline")).score
    assert {name: parts(found)[name] for name in expected} == expected
    assert (found["score"], found["ungated_score"]) == (score, score)


# --- V5.2 -----------------------------------------------------------------------------------------------------------
# Neutral: direction (15 + 15 + 10) x 40 / 45 = 35.56, crowding (7 + 5) x 18 / 25 = 8.64, funding 0, environment 10 x 12 / 15 = 8, confirmation 15,
# liquidation 0, auxiliary 2: 69.2.
@pytest.mark.parametrize(
    ("changes", "layers", "score"),
    [
        ({}, [35.56, 8.64, 0.0, 8.0, 15.0, 0.0, 2.0], 69.2),
        ({"large_trades": BUY}, [40.0, 8.64, 0.0, 8.0, 15.0, 0.0, 2.0], 73.6),  # 73.64
        ({"large_trades": SELL}, [26.67, 8.64, 0.0, 8.0, 15.0, 0.0, 2.0], 60.3),  # 60.31
        ({"accel": 5.0}, [35.56, 8.64, 0.0, 8.0, 15.0, 0.0, 2.0], 69.2),  # no acceleration bonus
        ({"estimated_funding_rate": -0.0002, "funding_rate_max": 0.0004}, [35.56, 8.64, 2.5, 8.0, 15.0, 0.0, 2.0], 71.7),
        ({"estimated_funding_rate": -0.0004, "funding_rate_max": 0.0004}, [35.56, 8.64, 5.0, 8.0, 15.0, 0.0, 2.0], 74.2),
        ({"estimated_funding_rate": 0.0004, "funding_rate_max": 0.0004}, [35.56, 8.64, 0.0, 8.0, 15.0, 0.0, 2.0], 69.2),  # never negative
        ({"estimated_funding_rate": 0.0, "funding_rate_max": 0.0004}, [35.56, 8.64, 0.0, 8.0, 15.0, 0.0, 2.0], 69.2),
        ({**SHORT, "estimated_funding_rate": 0.0001, "funding_rate_max": 0.0004}, [35.56, 8.64, 1.25, 8.0, 15.0, 0.0, 2.0], 70.4),  # 70.45 rounds to even
        ({"liquidated_long_5m": 100.0, "liquidated_short_5m": 200.0}, [35.56, 8.64, 0.0, 8.0, 15.0, 5.0, 2.0], 74.2),  # 2.0
        ({"liquidated_long_5m": 100.0, "liquidated_short_5m": 199.9}, [35.56, 8.64, 0.0, 8.0, 15.0, 3.0, 2.0], 72.2),
        ({"liquidated_long_5m": 100.0, "liquidated_short_5m": 150.0}, [35.56, 8.64, 0.0, 8.0, 15.0, 3.0, 2.0], 72.2),  # 1.5
        ({"liquidated_long_5m": 100.0, "liquidated_short_5m": 149.9}, [35.56, 8.64, 0.0, 8.0, 15.0, 1.0, 2.0], 70.2),
        ({"liquidated_long_5m": 100.0, "liquidated_short_5m": 120.0}, [35.56, 8.64, 0.0, 8.0, 15.0, 1.0, 2.0], 70.2),  # 1.2
        ({"liquidated_long_5m": 100.0, "liquidated_short_5m": 119.9}, [35.56, 8.64, 0.0, 8.0, 15.0, 0.0, 2.0], 69.2),
        ({"liquidated_long_5m": 0.0, "liquidated_short_5m": 0.01}, [35.56, 8.64, 0.0, 8.0, 15.0, 5.0, 2.0], 74.2),  # only shorts
        ({"liquidated_long_5m": 0.0, "liquidated_short_5m": 0.0}, [35.56, 8.64, 0.0, 8.0, 15.0, 0.0, 2.0], 69.2),  # none
        ({**SHORT, "liquidated_long_5m": 200.0, "liquidated_short_5m": 100.0}, [35.56, 8.64, 0.0, 8.0, 15.0, 5.0, 2.0], 74.2),
        ({**SHORT, "liquidated_long_5m": 100.0, "liquidated_short_5m": 200.0}, [35.56, 8.64, 0.0, 8.0, 15.0, 0.0, 2.0], 69.2),
        ({"long_short_ratio": 0.49}, [35.56, 14.4, 0.0, 8.0, 15.0, 0.0, 2.0], 75.0),  # 15 + 5 = 20 x 0.72; 74.96
        ({"long_short_ratio": 0.5}, [35.56, 10.8, 0.0, 8.0, 15.0, 0.0, 2.0], 71.4),  # 10 + 5; 71.36
        ({"long_short_ratio": 0.7}, [35.56, 8.64, 0.0, 8.0, 15.0, 0.0, 2.0], 69.2),  # 7 + 5
        ({"long_short_ratio": 1.0}, [35.56, 3.6, 0.0, 8.0, 15.0, 0.0, 2.0], 64.2),  # 0 + 5; 64.16
        ({"top_trader_long_share": 0.55}, [35.56, 12.24, 0.0, 8.0, 15.0, 0.0, 2.0], 72.8),  # 7 + 10
        ({"top_trader_long_share": 0.45}, [35.56, 5.04, 0.0, 8.0, 15.0, 0.0, 2.0], 65.6),  # 7 + 0
        ({"open_interest_change": 0.03}, [35.56, 8.64, 0.0, 12.0, 15.0, 0.0, 2.0], 73.2),
        ({"open_interest_change": -0.01}, [35.56, 8.64, 0.0, 4.0, 15.0, 0.0, 2.0], 65.2),
        ({"coinbase_premium": 0.001}, [35.56, 8.64, 0.0, 8.0, 15.0, 0.0, 5.0], 72.2),
        ({"cvd": {"4h": -1.0}}, [22.22, 8.64, 0.0, 8.0, 0.0, 0.0, 2.0], 40.9),  # 25 x 40 / 45; 40.86
        ({"large_trades": BUY, "long_short_ratio": 0.4, "top_trader_long_share": 0.6, "estimated_funding_rate": -0.0004,
          "funding_rate_max": 0.0004, "open_interest_change": 0.05, "liquidated_long_5m": 0.0, "liquidated_short_5m": 5.0,
          "coinbase_premium": 0.001}, [40.0, 18.0, 5.0, 12.0, 15.0, 5.0, 5.0], 100.0),
    ],
)  # fmt: skip
def test_v52(changes: dict[str, Any], layers: list[float], score: float) -> None:
    found = run(market(**changes), of_model("v52_8signals")).score
    assert points(found) == layers
    assert found["score"] == score


@pytest.mark.parametrize("model", ["v51_baseline", "v52_8signals"])
def test_cvds_that_disagree_forbid_the_entry_but_not_the_flip(model: str) -> None:
    # V5.1: 15 + 0 + 15 + 5, 10 + 10, 15, 0, 5 = 75. V5.2 can reach 15 + 15 of 45 less 15 and no confirmation: 71.7 at most, so its flip is set to 60.
    shot = market(
        cvd={"4h": -1.0}, large_trades=BUY, accel=1.0, long_short_ratio=0.4, top_trader_long_share=0.6, open_interest_change=0.05,
        coinbase_premium=0.001, estimated_funding_rate=-0.0004, funding_rate_max=0.0004, liquidated_long_5m=0.0, liquidated_short_5m=5.0,
    )  # fmt: skip
    strategy = of_model(model) if model == "v51_baseline" else of_model(model, entry_score=60.0, flip_threshold=60.0)
    result = run(shot, strategy, StrategyMemory(T - 900_000, None, 2))  # a SHORT may be open
    assert result.score["score"] == (75.0 if model == "v51_baseline" else 71.7)
    assert (result.score["verdict"], result.score["gate_passed"], result.score["gate_block"]) == ("flip", True, None)
    assert [gate["reason"] for gate in result.score["gates"]] == ["no_direction_consensus"]
    assert result.signal is not None and (result.signal["entry"], result.signal["flip"]) == (False, True)
    nothing_open = run(shot, strategy, StrategyMemory(T - 900_000, None, 1))
    assert (nothing_open.score["verdict"], nothing_open.signal) == ("no_entry", None)


@pytest.mark.parametrize("model", ["v51_baseline", "v52_8signals"])
def test_v51_and_v52_have_no_vetoes_but_need_a_direction(model: str) -> None:
    loose = run(market(atr=0.01, obi=-0.9, spot_perp_divergence=-0.1), of_model(model)).score
    assert loose["gate_passed"] and loose["score"] > 60.0 and "obi" not in loose["missing_inputs"]
    assert run(market(obi=None), of_model(model)).score["missing_inputs"] == run(market(), of_model(model)).score["missing_inputs"]
    assert run(market(cvd={"30m": 0.0}), of_model(model)).score["gate_block"] == "no_direction"
    assert run(market(atr=0.0), of_model(model)).score["gate_block"] == "no_risk_distance"


@pytest.mark.parametrize(("score_from", "tier"), [(75.0, "standard"), (72.0, "standard"), (67.0, "heavy")])
def test_heavy_begins_ten_above_the_entry_and_not_below_85(score_from: float, tier: str) -> None:
    # 87: 77 + 5 large trade + 5 acceleration. Entry 75 -> heavy from 85; 80 -> from 90; 67 -> from 85.
    shot = market(large_trades=BUY, accel=1.0)
    found = run(shot, of_model("v51_baseline", entry_score=80.0 if tier == "standard" else score_from, flip_threshold=80.0)).score
    assert (found["score"], found["tier"]) == (87.0, tier)
    below = run(market(large_trades=BUY), of_model("v51_baseline", entry_score=score_from)).score
    assert (below["score"], below["tier"]) == (82.0, "standard")


# --- V5.3 -----------------------------------------------------------------------------------------------------------
# Raw points are the score. Neutral: 30 + 10, 7 + 5, 10, 2 = 64.
V53 = [
    ({}, [40.0, 12.0, 10.0, 2.0], 64.0),
    ({"large_trades": BUY}, [50.0, 12.0, 10.0, 2.0], 74.0),
    ({"large_trades": SELL}, [30.0, 12.0, 10.0, 2.0], 54.0),
    ({"large_trades": BOTH}, [50.0, 12.0, 10.0, 2.0], 74.0),
    ({"accel": 0.1}, [45.0, 12.0, 10.0, 2.0], 69.0),
    ({"accel": -0.1}, [40.0, 12.0, 10.0, 2.0], 64.0),
    ({"accel": None}, [40.0, 12.0, 10.0, 2.0], 64.0),
    ({"long_short_ratio": 0.0}, [40.0, 20.0, 10.0, 2.0], 72.0),
    ({"long_short_ratio": 0.499}, [40.0, 20.0, 10.0, 2.0], 72.0),
    ({"long_short_ratio": 0.5}, [40.0, 15.0, 10.0, 2.0], 67.0),
    ({"long_short_ratio": 0.7}, [40.0, 12.0, 10.0, 2.0], 64.0),
    ({"long_short_ratio": 1.0}, [40.0, 5.0, 10.0, 2.0], 57.0),
    ({**SHORT, "long_short_ratio": 1.0}, [40.0, 5.0, 10.0, 2.0], 57.0),
    ({**SHORT, "long_short_ratio": 1.5}, [40.0, 12.0, 10.0, 2.0], 64.0),
    ({**SHORT, "long_short_ratio": 2.0}, [40.0, 15.0, 10.0, 2.0], 67.0),
    ({**SHORT, "long_short_ratio": 2.001}, [40.0, 20.0, 10.0, 2.0], 72.0),
    ({"top_trader_long_share": 0.55}, [40.0, 17.0, 10.0, 2.0], 69.0),
    ({"top_trader_long_share": 0.45}, [40.0, 7.0, 10.0, 2.0], 59.0),
    ({**SHORT, "top_trader_long_share": 0.45}, [40.0, 17.0, 10.0, 2.0], 69.0),
    ({"open_interest_change": 0.03}, [40.0, 12.0, 15.0, 2.0], 69.0),
    ({"open_interest_change": 0.0}, [40.0, 12.0, 5.0, 2.0], 59.0),
    ({"coinbase_premium": 0.0005}, [40.0, 12.0, 10.0, 2.0], 64.0),
    ({"coinbase_premium": 0.001}, [40.0, 12.0, 10.0, 5.0], 67.0),
    ({"coinbase_premium": -0.001}, [40.0, 12.0, 10.0, 0.0], 62.0),
    ({"large_trades": BUY, "accel": 1.0, "long_short_ratio": 0.4, "top_trader_long_share": 0.6, "open_interest_change": 0.05,
      "coinbase_premium": 0.001}, [55.0, 25.0, 15.0, 5.0], 100.0),
]  # fmt: skip


@pytest.mark.parametrize("model", ["v53_standard", "v53_middle"])
@pytest.mark.parametrize(("changes", "layers", "score"), V53)
def test_v53_standard_and_middle(model: str, changes: dict[str, Any], layers: list[float], score: float) -> None:
    found = run(market(**changes), of_model(model)).score
    assert (points(found), found["score"]) == (layers, score)
    assert [layer["raw"] for layer in found["layers"]] == [layer["score"] for layer in found["layers"]]


@pytest.mark.parametrize(("changes", "layers", "score"), V53)
def test_v53_fast_shares_them_but_for_the_environment(changes: dict[str, Any], layers: list[float], score: float) -> None:
    fast = {15.0: 10.0, 10.0: 7.0, 5.0: 3.0}  # round(raw x 10 / 15)
    found = run(market(**changes), of_model("v53_fast")).score
    assert points(found) == [*layers[:2], fast[layers[2]], layers[3]]
    assert found["score"] == score - layers[2] + fast[layers[2]]


@pytest.mark.parametrize(
    ("obi", "base", "direction", "environment"),
    [
        (None, None, 1, 7.0), (0.0, None, 1, 7.0), (0.1499, None, 1, 7.0), (0.15, None, 1, 10.0), (0.2999, None, 1, 10.0), (0.30, None, 1, 12.0),
        (-0.30, None, 1, 7.0), (0.30, 0.03, 1, 15.0), (0.15, 0.03, 1, 13.0), (0.30, -0.01, 1, 8.0), (-0.30, None, -1, 12.0), (-0.15, None, -1, 10.0),
        (0.30, None, -1, 7.0),
    ],
)  # fmt: skip
def test_v53_fast_order_book_bonus(obi: float | None, base: float | None, direction: int, environment: float) -> None:
    strategy = of_model("v53_fast", gate_obi_enabled=False)
    found = run(market(obi=obi, open_interest_change=base, **({} if direction > 0 else SHORT)), strategy).score
    assert points(found)[2] == environment
    assert ("obi" in found["missing_inputs"]) == (obi is None)


@pytest.mark.parametrize(
    ("fast", "slow", "accel", "trades", "raw", "block"),
    [
        (1.0, -1.0, 1.0, BUY, 35.0, None),  # 0 + 20 + 5 is lifted to 35, and the gate lets it through
        (1.0, -1.0, 1.0, BOTH, 35.0, None),
        (1.0, -1.0, 0.0, BUY, 20.0, "no_direction_consensus"),
        (1.0, -1.0, 1.0, NO, 15.0, "no_direction_consensus"),  # 10 + 5
        (1.0, -1.0, 1.0, SELL, 5.0, "no_direction_consensus"),
        (1.0, -1.0, None, BUY, 20.0, "no_direction_consensus"),
        (-1.0, 1.0, -1.0, SELL, 35.0, None),
        (-1.0, 1.0, 1.0, SELL, 20.0, "no_direction_consensus"),
        (1.0, 1.0, 1.0, BUY, 55.0, None),  # never lowered
        (0.0, 1.0, 1.0, BUY, 0.0, "no_direction_consensus"),
    ],
)
def test_v53_fast_growing_pressure_needs_no_agreement(
    fast: float, slow: float, accel: float | None, trades: Any, raw: float, block: str | None
) -> None:
    shot = market(cvd={"5m": fast, "30m": slow}, accel=accel, large_trades=trades)
    found = run(shot, of_model("v53_fast", gate_whale_enabled=False)).score
    assert (found["layers"][0]["raw"], found["gate_block"]) == (raw, block)
    standard = run(
        market(cvd={"30m": fast, "4h": slow}, accel=accel, large_trades=trades), of_model("v53_standard", gate_whale_enabled=False)
    )
    assert standard.score["gate_block"] == (None if fast * slow > 0 else "no_direction_consensus")


@pytest.mark.parametrize("model", ["v53_standard", "v53_middle", "v53_fast"])
def test_v53_has_the_five_gates_and_flips_from_85(model: str) -> None:
    strategy = of_model(model, gate_spot_perp_enabled=True)
    assert (strategy.entry_score, strategy.flip_threshold) == (75.0, 85.0)
    shot = market(spot_perp_divergence=0.0, long_short_ratio=0.4, top_trader_long_share=0.6, open_interest_change=0.05, large_trades=BUY)
    for changes, block in (
        ({}, None),
        ({"atr": 0.1999}, "low_vol(0.001999<0.002)"),
        ({"obi": -0.3501}, "obi_veto(-0.3501)"),
        ({"obi": None}, "missing(obi)"),
        ({"spot_perp_divergence": -0.00501}, "spd_veto(-0.00501)"),
        ({"spot_perp_divergence": None}, "missing(spot_perp_divergence)"),
        ({"large_trades": large(0, 2)}, "whale_adverse(>$25k)"),
    ):
        changed = replace(shot, **changes)  # type: ignore[arg-type]
        found = run(changed, replace(strategy, whale_usd_threshold=25_000.0)).score
        assert found["gate_block"] == block
        assert (found["score"] == 0.0) == (block is not None) and found["ungated_score"] > 0.0
    # 50 + 25 + 15 (fast 10) + 2 = 92 (87), with the acceleration 97 (92)
    assert run(shot, strategy).score["score"] == (87.0 if model == "v53_fast" else 92.0)
    assert run(shot, strategy).score["tier"] == "heavy"


def test_the_variants_look_at_their_own_windows() -> None:
    shot = market(cvd={"5m": 1.0, "15m": -1.0, "30m": 1.0, "1h": -1.0, "4h": -1.0})
    directions = {model: run(shot, of_model(model)).score["direction"] for model in ("v53_standard", "v53_middle", "v53_fast")}
    assert directions == {"v53_standard": "NONE", "v53_middle": "SHORT", "v53_fast": "LONG"}


# --- what holds for all ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", list(MODELS))
def test_a_models_defaults_are_a_valid_strategy_and_name_the_version(model: str) -> None:
    strategy = of_model(model)
    result = run(market(large_trades=BUY, long_short_ratio=0.4, top_trader_long_share=0.6, open_interest_change=0.05), strategy)
    assert result.signal is not None
    for record in (result.score, result.signal):
        assert (record["strategy_version"], record["config_revision"]) == (model, 1) and len(record["config_hash"]) == 16
    assert set(result.score["inputs"]) | set(result.score["missing_inputs"]) >= {"atr", "quantity_p99"}


@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("changes", [{"atr": None}, {"quantity_p99": None}, {"cvd": dict.fromkeys(("30m", "1h", "4h"), None)}])
def test_no_model_judges_before_the_history_is_there(model: str, changes: dict[str, Any]) -> None:
    score = run(market(**changes), of_model(model)).score
    assert (score["verdict"], score["warm"], score["score"], score["layers"], score["gates"]) == ("not_warm", False, 0.0, [], [])


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("v50_rules", "cvd_fast_window", "15m"),
        ("v51_baseline", "cvd_slow_window", "1h"),
        ("v52_8signals", "fast_variant", True),
        ("v53_middle", "cvd_fast_window", "5m"),
        ("v53_fast", "fast_variant", False),
    ],
)
def test_what_a_model_fixes_cannot_be_set_otherwise(model: str, field: str, value: Any) -> None:
    with pytest.raises(StrategyError, match=rf"{field}: must be .* for {model}"):
        of_model(model, **{field: value})


def test_an_entry_of_40_is_for_v50_only() -> None:
    assert of_model("v50_rules").entry_score == 40.0
    with pytest.raises(StrategyError, match="entry_score: must be from 60 to 95"):
        of_model("v51_baseline", entry_score=40.0)


def test_an_unknown_model_is_refused_by_name() -> None:
    with pytest.raises(StrategyError, match=r"model: must be one of v50_rules, .*v54_factory, got 'v55'"):
        validate(StrategyConfig(strategy_id="s", instrument=ALT, display_name="x", model="v55"))
