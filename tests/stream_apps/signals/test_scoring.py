"""The factory scorer: golden vectors of the specification and hand-computed boundaries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from schemas.codec.avro import Codec
from stream_apps.core.market.snapshot import Prints, Snapshot
from stream_apps.core.market.windows import FAST_WINDOWS, WINDOWS
from stream_apps.core.signals.scoring import REGIME_LIMITS, Evaluation, StrategyMemory, evaluate
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from stream_apps.core.signals.strategy_rules import validate

T = 1_700_000_010_000
ALT = "BINANCE:SOLUSDT-PERP"
BTC = "BINANCE:BTCUSDT-PERP"


def prints(*trades: tuple[float, float, bool]) -> Prints:
    """Prints of (price, quantity, taker buys)."""
    price, quantity, taker_buy = zip(*trades, strict=True) if trades else ((), (), ())
    return Prints(np.array(price, dtype=np.float64), np.array(quantity, dtype=np.float64), np.array(taker_buy, dtype=np.bool_))


def config(**changes: Any) -> StrategyConfig:
    """A valid strategy with the factory's defaults."""
    made = StrategyConfig(**{"strategy_id": "s", "instrument": ALT, "display_name": "Test", **changes})
    validate(made)
    return made


def snapshot(**changes: Any) -> Snapshot:
    """Resonant LONG, ATR 0.5 % of the price, no large trades, accel 0, a balanced book; everything from outside missing."""
    given: dict[str, Any] = {
        "instrument": ALT,
        "time": T,
        "decided_at": T + 250,
        "price": 100.0,
        "cvd": {**dict.fromkeys(WINDOWS, 7.0), **changes.pop("cvd", {})},
        "volume": dict.fromkeys(WINDOWS, 1000.0),
        "slope": dict.fromkeys(FAST_WINDOWS, 1.0),
        "acceleration": dict.fromkeys(FAST_WINDOWS, changes.pop("accel", 0.0)),
        "atr": 0.5,
        "quantity_p99": 20.0,
        "obi": 0.0,
    }
    return Snapshot(**{**given, **changes})


def run(shot: Snapshot, strategy: StrategyConfig, memory: StrategyMemory | None = None) -> Evaluation:
    return evaluate(shot, strategy, config_hash(strategy), memory or StrategyMemory())


def layer(evaluation: Evaluation, name: str) -> dict[str, Any]:
    return next(found for found in evaluation.score["layers"] if found["name"] == name)


def gate(evaluation: Evaluation, name: str) -> dict[str, Any]:
    return next(found for found in evaluation.score["gates"] if found["name"] == name)


PERFECT_LONG = {
    "accel": 1.0,
    "large_trades": prints((100.0, 30.0, True)),
    "open_interest_change": 0.03,
    "long_short_ratio": 0.4,
    "top_trader_long_share": 0.6,
    "coinbase_premium": 0.001,
}
PERFECT_SHORT = {
    "cvd": dict.fromkeys(WINDOWS, -7.0),
    "accel": -1.0,
    "large_trades": prints((100.0, 30.0, False)),
    "open_interest_change": 0.03,
    "long_short_ratio": 2.1,
    "top_trader_long_share": 0.4,
    "coinbase_premium": -0.001,
}
ETH_WEIGHTS = {"weight_direction": 51, "weight_env": 18, "weight_aux": 28, "weight_momentum": 3}

# --- golden vectors (S1 3.13) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("market", "direction"), [(PERFECT_LONG, "LONG"), (PERFECT_SHORT, "SHORT")])
def test_golden_all_perfect_is_100(market: dict[str, Any], direction: str) -> None:
    result = run(snapshot(**market), config())
    assert [found["raw"] for found in result.score["layers"]] == [55.0, 25.0, 15.0, 5.0]
    assert [found["score"] for found in result.score["layers"]] == [41.25, 18.75, 25.0, 15.0]
    assert (result.score["score"], result.score["tier"], result.score["direction"]) == (100.0, "heavy", direction)
    assert result.signal is not None
    assert (result.signal["direction"], result.signal["entry"], result.signal["flip"]) == (direction, True, True)


@pytest.mark.parametrize(
    ("weights", "layers", "score"), [({}, [30.0, 9.0, 16.67, 6.0], 61.7), (ETH_WEIGHTS, [27.0, 8.1, 12.0, 11.2], 58.3)]
)
def test_golden_neutral(weights: dict[str, int], layers: list[float], score: float) -> None:
    result = run(snapshot(open_interest_change=0.01), config(**weights))
    assert [found["raw"] for found in result.score["layers"]] == [40.0, 12.0, 10.0, 2.0]
    assert [round(found["score"], 2) for found in result.score["layers"]] == layers
    assert result.score["score"] == score
    assert (result.score["direction"], result.score["tier"], result.signal) == ("LONG", None, None)


def test_golden_failed_gate_is_zero_but_its_layers_are_recorded() -> None:
    result = run(snapshot(**{**PERFECT_LONG, "obi": -0.5}), config())
    assert (result.score["score"], result.score["direction"], result.score["tier"], result.signal) == (0.0, "NONE", None, None)
    assert (result.score["gate_passed"], result.score["gate_block"]) == (False, "obi_veto(-0.5)")
    assert [found["raw"] for found in result.score["layers"]] == [55.0, 25.0, 15.0, 5.0]


@pytest.mark.parametrize(
    ("weights", "maxima"),
    [
        ((55, 25, 15, 5), (41.25, 18.75, 25, 15)),
        ((51, 18, 28, 3), (37.125, 16.875, 18, 28)),
        ((58, 8, 32, 2), (41.25, 18.75, 8, 32)),
        ((38, 42, 8, 12), (34.375, 15.625, 42, 8)),
        ((38, 32, 28, 2), (27.5, 12.5, 32, 28)),
    ],
)
def test_effective_maxima(weights: tuple[int, ...], maxima: tuple[float, ...]) -> None:
    names = ("weight_direction", "weight_env", "weight_aux", "weight_momentum")
    result = run(snapshot(), config(**dict(zip(names, weights, strict=True))))
    assert tuple(found["max"] for found in result.score["layers"]) == maxima


# Full direction and crowding, the open interest and premium of the row (S1 3.10, "reachability").
@pytest.mark.parametrize(
    ("weights", "open_interest", "premium", "score"),
    [
        ((55, 25, 15, 5), -0.01, None, 74.3),
        ((51, 18, 28, 3), -0.01, None, 71.2),
        ((58, 8, 32, 2), -0.01, None, 75.5),
        ((58, 8, 32, 2), 0.01, None, 78.1),
        ((58, 8, 32, 2), 0.05, None, 80.8),
        ((38, 42, 8, 12), -0.01, None, 67.2),
        ((38, 42, 8, 12), 0.01, None, 81.2),
        ((38, 42, 8, 12), 0.05, None, 95.2),
        ((38, 32, 28, 2), -0.01, None, 61.9),
        ((55, 25, 15, 5), -0.01, 0.001, 83.3),
        ((51, 18, 28, 3), -0.01, 0.001, 88.0),
        ((58, 8, 32, 2), -0.01, 0.001, 94.7),
        ((38, 42, 8, 12), -0.01, 0.001, 72.0),
        ((38, 32, 28, 2), -0.01, 0.001, 78.7),
    ],
)
def test_reachability(weights: tuple[int, ...], open_interest: float, premium: float | None, score: float) -> None:
    names = ("weight_direction", "weight_env", "weight_aux", "weight_momentum")
    market = {**PERFECT_LONG, "open_interest_change": open_interest, "coinbase_premium": premium}
    assert run(snapshot(**market), config(**dict(zip(names, weights, strict=True)))).score["score"] == score


# --- layers at their boundaries -------------------------------------------------------------------------------------
SHORT_CVD = dict.fromkeys(WINDOWS, -7.0)


@pytest.mark.parametrize(
    ("ratio", "as_long", "as_short"),
    [
        (None, 7, 7),
        (0.0, 15, 0),
        (0.49, 15, 0),
        (0.5, 10, 0),
        (0.69, 10, 0),
        (0.7, 7, 0),
        (0.99, 7, 0),
        (1.0, 0, 0),
        (1.01, 0, 7),
        (1.5, 0, 7),
        (1.51, 0, 10),
        (2.0, 0, 10),
        (2.01, 0, 15),
    ],
)
def test_long_short_ratio(ratio: float | None, as_long: float, as_short: float) -> None:
    for cvd, points in ({}, as_long), (SHORT_CVD, as_short):
        result = run(snapshot(long_short_ratio=ratio, cvd=cvd), config())
        assert layer(result, "crowding")["parts"] == {"long_short_ratio": points, "top_trader_position": 5.0}
        assert layer(result, "crowding")["raw"] == points + 5.0


@pytest.mark.parametrize(
    ("share", "as_long", "as_short"),
    [(None, 5, 5), (0.0, 0, 10), (0.45, 0, 10), (0.4501, 5, 5), (0.5, 5, 5), (0.5499, 5, 5), (0.55, 10, 0), (1.0, 10, 0)],
)
def test_top_trader_share(share: float | None, as_long: float, as_short: float) -> None:
    for cvd, points in ({}, as_long), (SHORT_CVD, as_short):
        result = run(snapshot(top_trader_long_share=share, cvd=cvd), config())
        assert layer(result, "crowding")["parts"]["top_trader_position"] == points


@pytest.mark.parametrize(
    ("change", "normal", "fast"),
    [(None, 10, 7), (-0.5, 5, 3), (0.0, 5, 3), (1e-9, 10, 7), (0.0299, 10, 7), (0.03, 15, 10), (0.5, 15, 10)],
)
def test_open_interest(change: float | None, normal: float, fast: float) -> None:
    result = run(snapshot(open_interest_change=change), config())
    assert (layer(result, "environment")["raw"], layer(result, "environment")["parts"]) == (normal, {"open_interest": normal})
    result = run(snapshot(open_interest_change=change), config(fast_variant=True))
    assert (layer(result, "environment")["raw"], layer(result, "environment")["parts"]["open_interest"]) == (fast, fast)


@pytest.mark.parametrize(
    ("obi", "as_long", "as_short"),
    [(None, 0, 0), (0.0, 0, 0), (0.1499, 0, 0), (0.15, 3, 0), (0.2999, 3, 0), (0.3, 5, 0), (-0.15, 0, 3), (-0.3, 0, 5)],
)
def test_fast_variant_order_book_bonus(obi: float | None, as_long: float, as_short: float) -> None:
    strategy = config(fast_variant=True, gate_obi_enabled=False)
    for cvd, points in ({}, as_long), (SHORT_CVD, as_short):
        result = run(snapshot(obi=obi, cvd=cvd, open_interest_change=0.03), strategy)
        assert layer(result, "environment")["parts"] == {"open_interest": 10.0, "obi_bonus": points}
        assert layer(result, "environment")["raw"] == 10.0 + points
        assert ("obi" in result.score["missing_inputs"]) == (obi is None)


@pytest.mark.parametrize(
    ("premium", "as_long", "as_short"),
    [(None, 2, 2), (0.0, 2, 2), (0.0005, 2, 2), (-0.0005, 2, 2), (0.00051, 5, 0), (-0.00051, 0, 5)],
)
def test_coinbase_premium(premium: float | None, as_long: float, as_short: float) -> None:
    for cvd, points in ({}, as_long), (SHORT_CVD, as_short):
        assert layer(run(snapshot(coinbase_premium=premium, cvd=cvd), config()), "auxiliary")["raw"] == points


@pytest.mark.parametrize(
    ("large", "as_long", "as_short"),
    [
        (prints(), 10, 10),
        (prints((100.0, 30.0, True)), 20, 0),
        (prints((100.0, 30.0, False)), 0, 20),
        (prints((100.0, 30.0, True), (100.0, 30.0, False)), 20, 20),
    ],
)
def test_large_trades(large: Prints, as_long: float, as_short: float) -> None:
    for cvd, points in ({}, as_long), (SHORT_CVD, as_short):
        assert layer(run(snapshot(large_trades=large, cvd=cvd), config()), "direction")["parts"]["p99_flow"] == points


@pytest.mark.parametrize(("accel", "as_long", "as_short"), [(None, 0, 0), (0.0, 0, 0), (0.1, 5, 0), (-0.1, 0, 5)])
def test_acceleration_bonus(accel: float | None, as_long: float, as_short: float) -> None:
    for cvd, points in ({}, as_long), (SHORT_CVD, as_short):
        result = run(snapshot(accel=accel, cvd=cvd), config())
        assert layer(result, "direction")["parts"]["accel_bonus"] == points
        assert ("acceleration_30m" in result.score["missing_inputs"]) == (accel is None)


def test_acceleration_is_of_the_strategys_own_fast_window() -> None:
    shot = replace(snapshot(), acceleration={"5m": 1.0, "15m": 0.0, "30m": -1.0})
    bonus = {fast: layer(run(shot, config(cvd_fast_window=fast)), "direction")["parts"]["accel_bonus"] for fast in ("5m", "15m", "30m")}
    assert bonus == {"5m": 5.0, "15m": 0.0, "30m": 0.0}


# --- gates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("atr", "block"),
    [(0.2, None), (0.19999, "low_vol(0.0019999<0.002)"), (0.1, "low_vol(0.001<0.002)"), (0.0, "low_vol(0<0.002)")],
)
def test_volatility_gate(atr: float, block: str | None) -> None:
    result = run(snapshot(atr=atr), config())
    assert result.score["gate_block"] == block
    assert gate(result, "volatility") == {
        "name": "volatility",
        "enabled": True,
        "passed": block is None,
        "skipped": False,
        "value": atr / 100.0,
        "limit": 0.002,
        "reason": block,
    }
    assert [found["skipped"] for found in result.score["gates"][1:4]] == [block is not None] * 3
    off = run(snapshot(atr=atr), config(gate_vol_enabled=False))
    assert off.score["gate_block"] == (None if atr else "no_risk_distance")
    assert gate(off, "volatility")["value"] is None and gate(off, "volatility")["passed"]


def test_a_price_of_zero_gives_no_signal() -> None:
    assert run(snapshot(price=0.0, **PERFECT_LONG), config()).score["gate_block"] == "missing(price)"
    off = run(snapshot(price=0.0, **PERFECT_LONG), config(gate_vol_enabled=False))
    assert (off.score["gate_block"], off.score["score"], off.signal) == ("no_risk_distance", 0.0, None)


@pytest.mark.parametrize(
    ("fast", "slow", "gate_on", "gate_off"),
    [
        (1.0, 1.0, "LONG", "LONG"),
        (-1.0, -1.0, "SHORT", "SHORT"),
        (1.0, -1.0, "NONE", "LONG"),
        (-1.0, 1.0, "NONE", "SHORT"),
        (1.0, 0.0, "NONE", "LONG"),
        (0.0, 1.0, "NONE", "NONE"),
        (0.0, 0.0, "NONE", "NONE"),
    ],
)
def test_resonance_gate(fast: float, slow: float, gate_on: str, gate_off: str) -> None:
    shot = snapshot(cvd={"30m": fast, "4h": slow})
    on = run(shot, config())
    assert on.score["direction"] == gate_on
    assert on.score["gate_block"] == (None if gate_on != "NONE" else "no_direction_consensus")
    off = run(shot, config(gate_cvd_enabled=False))
    assert off.score["direction"] == gate_off
    assert off.score["gate_block"] == (None if gate_off != "NONE" else "no_direction")
    assert layer(off, "direction")["parts"]["cvd_resonance"] == (30.0 if fast * slow > 0 else 0.0)


def test_resonance_is_of_the_strategys_own_windows() -> None:
    shot = snapshot(cvd={"5m": 1.0, "1h": 2.0, "30m": -1.0, "4h": -2.0})
    assert run(shot, config(cvd_fast_window="5m", cvd_slow_window="1h")).score["direction"] == "LONG"
    assert run(shot, config(cvd_fast_window="30m", cvd_slow_window="4h")).score["direction"] == "SHORT"
    assert run(shot, config(cvd_fast_window="5m", cvd_slow_window="4h")).score["direction"] == "NONE"


def test_missing_fast_cvd_has_no_direction() -> None:
    shot = snapshot(cvd={"30m": None})
    for strategy, block in (
        (config(), "missing(cvd_30m)"),
        (config(cvd_on_missing="pass"), "no_direction"),
        (config(gate_cvd_enabled=False), "no_direction"),
    ):
        result = run(shot, strategy)
        assert (result.score["gate_block"], result.score["direction"], result.score["score"]) == (block, "NONE", 0.0)
        assert result.score["cvd_fast"] is None and "cvd_30m" in result.score["missing_inputs"]


@pytest.mark.parametrize(
    ("trades", "cvd", "limit", "block"),
    [
        # (buys - sells) / (buys + sells) of at least 100,000; LONG unless SHORT_CVD is given.
        ([(50_000.0, 1.0, False)], {}, 0.5, None),  # 50,000 is no whale
        ([(50_000.0, 2.0, False)], {}, 0.5, "whale_cvd_veto(-1.0000)"),  # exactly 100,000 is
        ([(50_000.0, 6.0, False), (50_000.0, 2.0, True)], {}, 0.5, None),  # -0.5 exactly: not beyond the limit
        ([(50_000.0, 6.2, False), (50_000.0, 2.0, True)], {}, 0.5, "whale_cvd_veto(-0.5122)"),
        ([(50_000.0, 2.0, True)], {}, 0.5, None),
        ([(50_000.0, 2.0, True)], SHORT_CVD, 0.5, "whale_cvd_veto(1.0000)"),
        ([(50_000.0, 2.0, True), (50_000.0, 2.0, False)], {}, 0.0, None),  # 0 is a value and a limit
        ([(50_000.0, 2.2, False), (50_000.0, 2.0, True)], {}, 0.0, "whale_cvd_veto(-0.0476)"),
        ([], {}, 0.0, None),
    ],
)
def test_whale_gate_for_btc(trades: list[tuple[float, float, bool]], cvd: dict[str, float], limit: float, block: str | None) -> None:
    strategy = config(instrument=BTC, whale_usd_threshold=100_000.0, whale_flow_pct=limit)
    result = run(snapshot(instrument=BTC, price=50_000.0, atr=500.0, whale_prints=prints(*trades), cvd=cvd), strategy)
    assert result.score["gate_block"] == block
    assert gate(result, "whale")["limit"] == limit


def test_the_whale_threshold_is_the_strategys_own() -> None:
    shot = snapshot(instrument=BTC, price=50_000.0, atr=500.0, whale_prints=prints((50_000.0, 1.0, False)))
    assert run(shot, config(instrument=BTC, whale_usd_threshold=50_000.0)).score["gate_block"] == "whale_cvd_veto(-1.0000)"
    assert run(shot, config(instrument=BTC, whale_usd_threshold=50_001.0)).score["gate_block"] is None


@pytest.mark.parametrize(
    ("trades", "cvd", "block"),
    [
        ([(100.0, 200.0, False)], {}, "whale_adverse(>$20k)"),  # 20,000 at its own price
        ([(99.0, 200.0, False)], {}, None),  # 19,800 at its own price, though 20,000 at the last one
        ([(101.0, 199.0, False)], {}, "whale_adverse(>$20k)"),  # 20,099 at its own price, though 19,900 at the last one
        ([(100.0, 200.0, False), (100.0, 200.0, True)], {}, None),  # an aligned one of that size answers
        ([(100.0, 200.0, False), (100.0, 150.0, True)], {}, "whale_adverse(>$20k)"),  # a smaller one does not
        ([(100.0, 200.0, True)], {}, None),
        ([(100.0, 200.0, True)], SHORT_CVD, "whale_adverse(>$20k)"),
        ([], {}, None),
    ],
)
def test_whale_gate_for_others(trades: list[tuple[float, float, bool]], cvd: dict[str, float], block: str | None) -> None:
    result = run(snapshot(large_trades=prints(*trades), cvd=cvd), config(whale_usd_threshold=20_000.0))
    assert result.score["gate_block"] == block
    assert run(snapshot(large_trades=prints(*trades), cvd=cvd), config(gate_whale_enabled=False)).score["gate_block"] is None


@pytest.mark.parametrize(
    ("obi", "cvd", "on_missing", "block"),
    [
        (-0.35, {}, "block", None),
        (-0.3501, {}, "block", "obi_veto(-0.3501)"),
        (0.9, {}, "block", None),
        (0.35, SHORT_CVD, "block", None),
        (0.3501, SHORT_CVD, "block", "obi_veto(0.3501)"),
        (0.0, {}, "block", None),
        (None, {}, "block", "missing(obi)"),
        (None, {}, "pass", None),
    ],
)
def test_order_book_gate(obi: float | None, cvd: dict[str, float], on_missing: str, block: str | None) -> None:
    result = run(snapshot(obi=obi, cvd=cvd), config(obi_on_missing=on_missing))
    assert result.score["gate_block"] == block
    assert gate(result, "obi")["value"] == obi
    assert ("obi" in result.score["missing_inputs"]) == (obi is None)
    off = run(snapshot(obi=obi, cvd=cvd), config(gate_obi_enabled=False))
    assert off.score["gate_block"] is None and "obi" not in off.score["missing_inputs"]


@pytest.mark.parametrize(
    ("divergence", "cvd", "on_missing", "block"),
    [
        (-0.005, {}, "block", None),
        (-0.0051, {}, "block", "spd_veto(-0.0051)"),
        (0.005, SHORT_CVD, "block", None),
        (0.0051, SHORT_CVD, "block", "spd_veto(0.0051)"),
        (0.0, {}, "block", None),
        (None, {}, "block", "missing(spot_perp_divergence)"),
        (None, {}, "pass", None),
    ],
)
def test_spot_perp_gate(divergence: float | None, cvd: dict[str, float], on_missing: str, block: str | None) -> None:
    strategy = config(gate_spot_perp_enabled=True, spot_perp_on_missing=on_missing)
    result = run(snapshot(spot_perp_divergence=divergence, cvd=cvd), strategy)
    assert result.score["gate_block"] == block
    assert ("spot_perp_divergence" in result.score["missing_inputs"]) == (divergence is None)
    assert run(snapshot(spot_perp_divergence=divergence, cvd=cvd), config()).score["gate_block"] is None


def test_the_first_block_is_the_one_that_counts() -> None:
    shot = snapshot(atr=0.1, cvd={"30m": 1.0, "4h": -1.0}, obi=-0.9, spot_perp_divergence=-0.1)
    result = run(shot, config(gate_spot_perp_enabled=True))
    assert [found["name"] for found in result.score["gates"]] == ["volatility", "cvd_resonance", "whale", "obi", "spot_perp"]
    assert [found["skipped"] for found in result.score["gates"]] == [False, True, True, True, True]
    assert result.score["gate_block"] == "low_vol(0.001<0.002)"
    result = run(shot, config(gate_spot_perp_enabled=True, gate_vol_enabled=False))
    assert result.score["gate_block"] == "no_direction_consensus"
    result = run(shot, config(gate_spot_perp_enabled=True, gate_vol_enabled=False, gate_cvd_enabled=False))
    assert result.score["gate_block"] == "obi_veto(-0.9)"
    assert gate(result, "spot_perp")["skipped"]


# --- regime, warm-up, inputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "regime"),
    [
        ({"atr": 1.2}, "crash"),
        ({"atr": 1.1999}, "high_vol"),
        ({"atr": 0.8}, "high_vol"),
        ({"atr": 0.7999}, "range"),
        ({"accel": 20.01}, "trend"),  # 2 % of 1,000
        ({"accel": -20.01}, "trend"),
        ({"accel": 20.0}, "range"),
        ({"accel": None}, "range"),
        ({"accel": 20.01, "volume": dict.fromkeys(WINDOWS, None)}, "range"),
        ({"accel": 20.01, "volume": dict.fromkeys(WINDOWS, 0.0)}, "range"),
        ({"accel": 20.01, "cvd": {"30m": -1.0}}, "range"),
        ({"accel": 20.01, "atr": None}, "unknown"),
    ],
)
def test_regime(changes: dict[str, Any], regime: str) -> None:
    assert run(snapshot(**changes), config()).score["regime"] == regime


def test_regime_limits_are_parameters() -> None:
    strategy = config()
    limits = replace(REGIME_LIMITS, crash=0.004)
    assert evaluate(snapshot(), strategy, config_hash(strategy), StrategyMemory(), limits).score["regime"] == "crash"


@pytest.mark.parametrize("changes", [{"atr": None}, {"quantity_p99": None}, {"cvd": {"4h": None}}])
def test_nothing_is_judged_before_the_history_is_there(changes: dict[str, Any]) -> None:
    result = run(snapshot(**{**PERFECT_LONG, **changes}), config())
    score = result.score
    assert (score["warm"], score["score"], score["direction"], score["tier"], score["regime"]) == (False, 0.0, "NONE", None, "unknown")
    assert (score["layers"], score["gates"], score["gate_passed"], score["gate_block"]) == ([], [], False, None)
    assert {"atr": "atr", "quantity_p99": "quantity_p99", "cvd": "cvd_4h"}[next(iter(changes))] in score["missing_inputs"]
    assert (result.signal, result.memory) == (None, StrategyMemory())


def test_another_strategys_window_does_not_matter() -> None:
    result = run(snapshot(cvd={"24h": None, "4h": None}, missing_inputs=("cvd_4h", "cvd_24h")), config(cvd_slow_window="1h"))
    assert result.score["warm"] and "cvd_4h" not in result.score["missing_inputs"]


def test_missing_and_stale_inputs_are_listed() -> None:
    shot = snapshot(stale_inputs=("long_short_ratio", "spot_perp_divergence"), missing_inputs=("coinbase_premium",))
    result = run(shot, config())
    assert result.score["missing_inputs"] == ["open_interest_change", "long_short_ratio", "top_trader_long_share", "coinbase_premium"]
    assert result.score["stale_inputs"] == ["long_short_ratio"]  # the spot-perp gate is off: not an input of this strategy


def test_a_strategy_of_another_instrument_is_refused() -> None:
    with pytest.raises(ValueError, match="is for BINANCE:BTCUSDT-PERP, the snapshot is of BINANCE:SOLUSDT-PERP"):
        run(snapshot(), config(instrument=BTC))


# --- entry, flip, cooldown, direction limit, tiers ------------------------------------------------------------------

# 30 + 20 of 55 direction points; the rest as in the neutral vector: 37.5 + 9 + 16.67 + 6 = 69.2.
STANDARD = {"large_trades": prints((100.0, 30.0, True)), "open_interest_change": 0.01}


@pytest.mark.parametrize(
    ("entry_score", "flip_threshold", "tier", "entry", "flip"),
    [
        (69.2, 69.2, "heavy", True, True),
        (69.2, 69.3, "standard", True, False),
        (69.3, 69.3, None, False, False),
        (60.0, 95.0, "standard", True, False),
    ],
)
def test_tiers_at_their_exact_thresholds(entry_score: float, flip_threshold: float, tier: str | None, entry: bool, flip: bool) -> None:
    strategy = config(entry_score=entry_score, flip_threshold=flip_threshold, tier_standard=1.25, tier_heavy=1.75)
    result = run(snapshot(**STANDARD), strategy)
    assert (result.score["score"], result.score["tier"], result.score["signalled"]) == (69.2, tier, entry or flip)
    assert (result.signal is not None) == (entry or flip)
    if result.signal is not None:
        multiple = {"standard": 1.25, "heavy": 1.75}[str(tier)]
        assert (result.signal["tier"], result.signal["entry"], result.signal["flip"]) == (tier, entry, flip)
        assert result.signal["risk_multiple"] == multiple


@pytest.mark.parametrize(
    ("since_entry", "cooldown_minutes", "entry"),
    [(15_000, 10, False), (599_999, 10, False), (600_000, 10, True), (15_000, 0, True), (899_999, 15, False)],
)
def test_cooldown_in_event_time(since_entry: int, cooldown_minutes: int, entry: bool) -> None:
    strategy = config(entry_score=60.0, flip_threshold=95.0, cooldown_minutes=cooldown_minutes)
    memory = StrategyMemory(T - since_entry)
    result = run(snapshot(**STANDARD), strategy, memory)
    assert (result.score["cooldown"], result.signal is not None) == (not entry, entry)
    assert result.memory == (StrategyMemory(T, T - since_entry, last_side=1) if entry else memory)
    assert (result.score["score"], result.score["tier"], result.score["direction"]) == (69.2, "standard", "LONG")


def test_a_flip_ignores_the_cooldown_and_does_not_extend_it() -> None:
    memory = StrategyMemory(T - 15_000)
    result = run(snapshot(**PERFECT_SHORT), config(), memory)
    assert result.signal is not None
    assert (result.signal["direction"], result.signal["entry"], result.signal["flip"]) == ("SHORT", False, True)
    assert (result.score["cooldown"], result.score["signalled"], result.memory) == (True, True, memory)


def test_no_cooldown_without_an_entry_to_suppress() -> None:
    result = run(snapshot(), config(), StrategyMemory(T - 15_000))
    assert (result.score["score"], result.score["cooldown"]) == (61.7, False)


@pytest.mark.parametrize(
    ("limit", "market", "signalled"),
    [
        ("long_only", PERFECT_LONG, True),
        ("long_only", PERFECT_SHORT, False),
        ("short_only", PERFECT_SHORT, True),
        ("short_only", PERFECT_LONG, False),
        ("both", PERFECT_SHORT, True),
    ],
)
def test_a_direction_limit_neither_opens_nor_flips_but_never_changes_the_score(limit: str, market: dict[str, Any], signalled: bool) -> None:
    result = run(snapshot(**market), config(direction=limit))
    assert (result.score["score"], result.score["tier"], result.score["gate_passed"]) == (100.0, "heavy", True)
    assert (result.signal is not None, result.score["signalled"], result.score["cooldown"]) == (signalled, signalled, False)
    bit, side = {"LONG": (1, 1), "SHORT": (2, -1), "NONE": (3, 0)}[result.score["direction"]]
    assert result.memory == (StrategyMemory(T, None, bit, last_side=side) if signalled else StrategyMemory())


def test_the_signal_carries_what_an_executor_needs() -> None:
    strategy = config(revision=3, sl_atr_multiplier=2.0, tp1_ratio=0.75, tp2_ratio=1.5, timeout_minutes=120, max_positions=2)
    result = run(snapshot(**PERFECT_LONG, late_trades=4), strategy)
    expected = {
        "signal_id": f"{ALT}|s|{T}",
        "event_time": T,
        "receive_time": T + 250,
        "decided_at": T + 250,
        "strategy_id": "s",
        "strategy_name": "Test",
        "strategy_version": "v54_factory",
        "config_revision": 3,
        "config_hash": config_hash(strategy),
        "price": 100.0,
        "atr": 0.5,
        "risk_distance": 1.0,
        "tp1_ratio": 0.75,
        "tp2_ratio": 1.5,
        "timeout_minutes": 120,
        "initial_balance": 10_000.0,
        "risk_per_trade": 0.02,
        "risk_multiple": 1.5,
        "max_positions": 2,
    }
    assert result.signal is not None and {name: result.signal[name] for name in expected} == expected
    assert (result.score["score_id"], result.score["late_trades"], result.score["cvd_slope"]) == (f"{ALT}|s|{T}", 4, 1.0)


def test_memory_survives_as_plain_values() -> None:
    for memory in (StrategyMemory(), StrategyMemory(T), StrategyMemory(T, T - 1, 2)):
        assert StrategyMemory.from_tuple(memory.to_tuple()) == memory
        assert StrategyMemory.from_tuple(list(memory.to_tuple())) == memory
    # A release that knew the last entry only: then either side may be open.
    assert StrategyMemory.from_tuple([T]) == StrategyMemory(T, None, 3)


def test_a_flip_is_signalled_only_while_the_other_side_may_be_open() -> None:
    """The executor closes what is open on the other side; when nothing can be, a flip says nothing."""
    strategy = config(cooldown_minutes=10)  # flips from 80
    shots = {"L": PERFECT_LONG, "S": PERFECT_SHORT}
    memory, seen = StrategyMemory(), []
    for n, side in enumerate("LLLSSSLL"):  # 15 s apart, all of score 100
        result = run(replace(snapshot(**shots[side]), time=T + n * 15_000), strategy, memory)
        memory = result.memory
        seen.append(result.score["verdict"])
    # Nothing is known before the first entry, so it flips as well. Then LONG is held: only SHORT flips, until an entry of its own.
    assert seen == ["entry+flip", "cooldown", "cooldown", "flip", "flip", "flip", "cooldown", "cooldown"]
    result = run(replace(snapshot(**PERFECT_SHORT), time=T + 600_000), strategy, memory)
    assert (result.score["verdict"], result.memory) == ("entry+flip", StrategyMemory(T + 600_000, T, 2, last_side=-1))
    again = run(replace(snapshot(**PERFECT_SHORT), time=T + 615_000), strategy, result.memory)
    assert (again.score["verdict"], again.signal) == ("cooldown", None)


def test_an_entry_too_weak_to_flip_leaves_the_other_side_open() -> None:
    strategy = config(entry_score=60.0, flip_threshold=95.0)
    weak = run(replace(snapshot(**STANDARD), time=T), strategy, StrategyMemory(T - 600_000, None, 2))
    assert (weak.score["verdict"], weak.memory.may_hold) == ("entry", 3)  # an executor with an open SHORT passes it over
    strong = run(replace(snapshot(**PERFECT_LONG), time=T + 15_000), strategy, weak.memory)
    assert strong.score["verdict"] == "flip"


@pytest.mark.parametrize(
    ("market", "changes"), [(PERFECT_LONG, {}), ({"atr": None}, {}), ({"obi": None, "accel": None}, {"fast_variant": True})]
)
def test_records_fit_their_schemas_and_come_back_equal(market: dict[str, Any], changes: dict[str, Any]) -> None:
    codec = Codec()
    result = run(snapshot(**market), config(**changes))
    assert codec.decode("scores", codec.encode("scores", result.score)) == result.score
    if result.signal is not None:
        assert codec.decode("signals", codec.encode("signals", result.signal)) == result.signal


def test_a_decoded_record_has_the_same_types() -> None:
    """Hashes over records as text must not depend on 30 against 30.0."""
    codec = Codec()
    result = run(snapshot(**PERFECT_LONG), config(fast_variant=True))
    assert repr(codec.decode("scores", codec.encode("scores", result.score))) == repr(result.score)
    assert result.signal is not None
    assert repr(codec.decode("signals", codec.encode("signals", result.signal))) == repr(result.signal)
