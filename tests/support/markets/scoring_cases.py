"""Markets and strategies for the tests of the scoring models."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from stream_apps.core.market.snapshot import Prints, Snapshot
from stream_apps.core.market.windows import FAST_WINDOWS, WINDOW_MS, WINDOWS
from stream_apps.core.signals.scoring import MODELS, Evaluation, StrategyMemory, evaluate
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from stream_apps.core.signals.strategy_rules import strategy_from_record, validate

T = 1_700_000_010_000
ALT = "BINANCE:SOLUSDT-PERP"
BTC = "BINANCE:BTCUSDT-PERP"
GATES = ("gate_vol_enabled", "gate_cvd_enabled", "gate_whale_enabled", "gate_obi_enabled", "gate_spot_perp_enabled")


def relaxed(max_examples: int) -> settings:
    """No limits of wall time: a busy machine is no error of the scorer."""
    return settings(max_examples=max_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def of_model(model: str, **changes: Any) -> StrategyConfig:
    """A valid strategy of a model with the model's defaults."""
    config = strategy_from_record({"strategy_id": "s", "instrument": ALT, "display_name": "Test", "model": model, **changes})
    validate(config)
    return config


def run(shot: Snapshot, strategy: StrategyConfig, memory: StrategyMemory | None = None) -> Evaluation:
    """One evaluation."""
    return evaluate(shot, strategy, config_hash(strategy), memory or StrategyMemory())


def large(buys: int, sells: int) -> Prints:
    """So many large trades of either side, 1000 x 30 each."""
    n = buys + sells
    return Prints(np.full(n, 1000.0), np.full(n, 30.0), np.arange(n) < buys)


def market(**changes: Any) -> Snapshot:
    """LONG on all windows, ATR 0.5 % of the price, no large trades, a balanced book; everything from outside missing."""
    given: dict[str, Any] = {
        "instrument": ALT,
        "time": T,
        "decided_at": T + 250,
        "price": 100.0,
        "cvd": {**dict.fromkeys(WINDOWS, 7.0), **changes.pop("cvd", {})},
        "volume": {**dict.fromkeys(WINDOWS, 1000.0), **changes.pop("volume", {})},
        "slope": {**dict.fromkeys(FAST_WINDOWS, 1.0), **changes.pop("slope", {})},
        "acceleration": dict.fromkeys(FAST_WINDOWS, changes.pop("accel", 0.0)),
        "atr": 0.5,
        "quantity_p99": 20.0,
        "obi": 0.0,
        "vwap_30m": 99.0,
    }
    return Snapshot(**{**given, **changes})


def maybe(values: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    """A value or none."""
    return st.one_of(st.none(), values)


def steps(least: int, most: int, unit: float) -> st.SearchStrategy[float]:
    """Multiples of a unit: hits thresholds exactly, and its mirror image is exact too."""
    return st.integers(least, most).map(lambda step: step / round(1 / unit))


@st.composite
def prints(draw: st.DrawFn) -> Prints:
    """A few trades around whale thresholds."""
    trades = draw(st.lists(st.tuples(st.integers(1, 64), st.booleans()), max_size=6))
    quantity = np.array([float(size) for size, _ in trades])
    return Prints(np.full(len(trades), 1000.0), quantity, np.array([side for _, side in trades], dtype=np.bool_))


@st.composite
def strategies(draw: st.DrawFn, strategy_id: str = "s", instrument: str | None = None) -> StrategyConfig:
    """A strategy of any model."""
    model = draw(st.sampled_from(list(MODELS)))
    more: dict[str, Any] = {}
    if model == "v54_factory":
        fast = draw(st.sampled_from(FAST_WINDOWS))
        slow = draw(st.sampled_from([name for name in ("30m", "1h", "4h") if WINDOW_MS[name] > WINDOW_MS[fast]]))
        env, aux, momentum = draw(st.integers(5, 50)), draw(st.integers(0, 20)), draw(st.integers(0, 20))
        env = max(env, 20 - aux - momentum)  # leaves at most 80 for direction
        weights = {"weight_direction": 100 - env - aux - momentum, "weight_env": env, "weight_aux": aux, "weight_momentum": momentum}
        more = {"cvd_fast_window": fast, "cvd_slow_window": slow, "fast_variant": draw(st.booleans()), **weights}
    entry = draw(steps(600, 950, 0.1))
    return of_model(
        model,
        strategy_id=strategy_id,
        instrument=draw(st.sampled_from([ALT, BTC])) if instrument is None else instrument,
        direction=draw(st.sampled_from(["both", "both", "long_only", "short_only"])),
        entry_score=entry,
        flip_threshold=max(entry, draw(steps(600, 950, 0.1))),
        cooldown_minutes=draw(st.sampled_from([0, 1, 10])),
        whale_usd_threshold=draw(st.sampled_from([1000.0, 8000.0, 32_000.0])),
        whale_flow_pct=draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
        vol_on_missing=draw(st.sampled_from(["block", "pass"])),
        whale_on_missing=draw(st.sampled_from(["block", "pass"])),
        obi_on_missing=draw(st.sampled_from(["block", "pass"])),
        cvd_on_missing=draw(st.sampled_from(["block", "pass"])),
        spot_perp_on_missing=draw(st.sampled_from(["block", "pass"])),
        **{name: draw(st.booleans()) for name in GATES},
        **more,
    )


@st.composite
def markets(draw: st.DrawFn, known_history: bool = False) -> Snapshot:
    """A market whose values lie on and around the thresholds."""
    whole = st.integers(-3, 3).map(float)
    cvd = whole if known_history else maybe(whole)
    history = st.integers(0, 3).map(float) if known_history else maybe(st.integers(0, 3).map(float))
    notional = st.sampled_from([0.0, 10.0, 12.0, 15.0, 20.0])
    liquidated = draw(st.one_of(st.just((None, None)), st.tuples(notional, notional)))  # the engine knows both sides or none
    ratios = [0.25, 0.5, 0.625, 0.75, 0.9, 1.0, 1.1, 1.25, 1.375, 1.6, 2.0, 4.0]
    return Snapshot(
        instrument=ALT,
        time=T,
        decided_at=T + 250,
        price=1000.0 if known_history else draw(st.sampled_from([1000.0, 1000.0, 1000.0, 0.0])),
        cvd={name: draw(cvd) for name in WINDOWS},
        volume={name: draw(maybe(st.integers(0, 100).map(float))) for name in WINDOWS},
        slope={name: draw(maybe(whole)) for name in FAST_WINDOWS},
        acceleration={name: draw(maybe(whole)) for name in FAST_WINDOWS},
        vwap_30m=draw(maybe(st.sampled_from([999.0, 1000.0, 1001.0]))),
        atr=draw(history.map(lambda size: None if size is None else size * 4.0)),
        atr_percentile=draw(maybe(st.sampled_from([30.0, 60.0, 60.5, 90.0]))),
        atr_percentile_low=draw(maybe(st.sampled_from([10.0, 39.5, 40.0, 60.0]))),
        quantity_p99=draw(history),
        # A value of a short history.
        missing_inputs=() if known_history else draw(st.sampled_from([(), (), (), (), ("quantity_p99",)])),
        large_trades=draw(prints()),
        whale_prints=draw(prints()),
        obi=draw(maybe(steps(-100, 100, 0.01))),
        spot_perp_divergence=draw(maybe(steps(-120, 120, 0.0001))),
        open_interest_change=draw(maybe(steps(-60, 60, 0.001))),
        # Between 2/3 and 0.7 the specification's table is not its own mirror image (0.7 for LONG, 1.5 for SHORT).
        long_short_ratio=draw(maybe(st.sampled_from(ratios))),
        top_trader_long_share=draw(maybe(steps(0, 100, 0.01))),
        coinbase_premium=draw(maybe(steps(-20, 20, 0.0001))),
        estimated_funding_rate=draw(maybe(steps(-4, 4, 0.0001))),
        funding_rate_max=draw(maybe(steps(1, 8, 0.0001))),
        volume_1m=draw(maybe(st.sampled_from([0.0, 0.2, 1.0]))),
        slope_1h=draw(maybe(whole)),
        liquidated_long_5m=liquidated[0],
        liquidated_short_5m=liquidated[1],
        late_trades=draw(st.integers(0, 5)),
        stale_inputs=draw(st.sampled_from([(), ("obi", "coinbase_premium"), ("estimated_funding_rate",)])),
    )
