"""What must hold for every market and every strategy, of any model."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec.avro import Codec
from stream_apps.core.market.snapshot import Prints, Snapshot
from stream_apps.core.signals.scoring import MODELS, Evaluation, StrategyMemory
from stream_apps.core.signals.strategy import StrategyConfig
from tests.stream_apps.signals.test_scoring import PERFECT_LONG, config, gate, prints, snapshot
from tests.support.markets.scoring_cases import ALT, BTC, GATES, T, markets, relaxed, run, strategies

FROM_OUTSIDE = ("obi", "spot_perp_divergence", "open_interest_change", "long_short_ratio", "top_trader_long_share", "coinbase_premium")


def judged(market: Snapshot, config: StrategyConfig, memory: StrategyMemory | None = None) -> Evaluation:
    """Evaluate a market as if it were of the strategy's instrument."""
    return run(replace(market, instrument=config.instrument), config, memory)


def mirrored(market: Snapshot, model: str) -> Snapshot:
    """The market with buyers and sellers exchanged. V5.0 measures funding from 0.01 %, the rate at rest; the others from zero."""

    def negated(values: dict[str, float | None]) -> dict[str, float | None]:
        return {name: None if value is None else -value for name, value in values.items()}

    def other(side: Prints) -> Prints:
        return Prints(side.price, side.quantity, ~side.taker_buy)

    def changed(value: float | None, by: Any) -> float | None:
        return None if value is None else by(value)

    return replace(
        market,
        cvd=negated(market.cvd),
        slope=negated(market.slope),
        acceleration=negated(market.acceleration),
        large_trades=other(market.large_trades),
        whale_prints=other(market.whale_prints),
        vwap_30m=changed(market.vwap_30m, lambda value: 2.0 * market.price - value),
        slope_1h=changed(market.slope_1h, lambda value: -value),
        obi=changed(market.obi, lambda value: -value),
        spot_perp_divergence=changed(market.spot_perp_divergence, lambda value: -value),
        long_short_ratio=changed(market.long_short_ratio, lambda value: 1.0 / value),
        top_trader_long_share=changed(market.top_trader_long_share, lambda value: (100 - round(value * 100)) / 100),
        coinbase_premium=changed(market.coinbase_premium, lambda value: -value),
        estimated_funding_rate=changed(
            market.estimated_funding_rate, lambda value: (round(-value * 10_000) + (2 if model == "v50_rules" else 0)) / 10_000
        ),
        liquidated_long_5m=market.liquidated_short_5m,
        liquidated_short_5m=market.liquidated_long_5m,
    )


@given(markets(), strategies())
@relaxed(max_examples=100)
def test_a_score_is_from_0_to_100_and_fits_its_schema(market: Snapshot, config: StrategyConfig) -> None:
    score, signal, _ = judged(market, config)
    assert 0.0 <= score["score"] <= 100.0 and score["score"] == round(score["score"], 1)
    assert score["signalled"] == (signal is not None)
    assert (score["direction"] == "NONE") == (not score["gate_passed"])
    assert (score["verdict"] in ("entry", "entry+flip", "flip")) == score["signalled"]
    assert (score["verdict"] == "blocked") == (score["gate_block"] is not None)
    assert score["score"] == (score["ungated_score"] if score["gate_passed"] else 0.0)
    assert (score["tier"] is not None) == (score["score"] >= config.entry_score)
    codec = Codec()
    assert codec.decode("scores", codec.encode("scores", score)) == score
    if signal is not None:
        assert signal["entry"] or signal["flip"]
        assert signal["risk_distance"] > 0.0
        assert codec.decode("signals", codec.encode("signals", signal)) == signal


@given(markets(), strategies())
@relaxed(max_examples=100)
def test_layers_add_up_and_keep_their_maxima(market: Snapshot, config: StrategyConfig) -> None:
    score = judged(market, config).score
    for found in score["layers"]:
        assert 0.0 <= found["raw"] <= found["raw_max"] and 0.0 <= found["score"] <= found["max"]
    if score["layers"]:
        most = sum(found["max"] for found in score["layers"])
        assert abs(most - (105.0 if config.model == "v51_baseline" else 100.0)) < 1e-9
        assert abs(min(sum(found["score"] for found in score["layers"]), 100.0) - score["ungated_score"]) <= 0.05 + 1e-9


@given(markets(), strategies())
@relaxed(max_examples=100)
def test_a_mirrored_market_gives_the_mirrored_direction_and_the_same_score(market: Snapshot, config: StrategyConfig) -> None:
    other_limit = {"both": "both", "long_only": "short_only", "short_only": "long_only"}[config.direction]
    here, there = judged(market, config), judged(mirrored(market, config.model), replace(config, direction=other_limit))
    opposite = {"LONG": "SHORT", "SHORT": "LONG", "NONE": "NONE"}
    assert there.score["direction"] == opposite[here.score["direction"]]
    same = ("score", "tier", "gate_passed", "warm", "regime", "signalled", "verdict", "missing_inputs", "layers")
    assert [there.score[name] for name in same] == [here.score[name] for name in same]
    assert [found["passed"] for found in there.score["gates"]] == [found["passed"] for found in here.score["gates"]]
    assert there.memory == replace(here.memory, may_hold={1: 2, 2: 1, 3: 3}[here.memory.may_hold])


@given(markets(), strategies(), st.sampled_from(GATES))
@relaxed(max_examples=100)
def test_switching_a_gate_off_never_lowers_the_score(market: Snapshot, config: StrategyConfig, gate: str) -> None:
    with_it = judged(market, replace(config, **{gate: True})).score
    without = judged(market, replace(config, **{gate: False})).score
    assert without["score"] >= with_it["score"]
    assert without["layers"] == with_it["layers"]  # gates judge; they do not count points


@given(markets(known_history=True), strategies(), st.sampled_from(FROM_OUTSIDE))
@relaxed(max_examples=100)
def test_a_missing_input_never_turns_into_a_number(market: Snapshot, config: StrategyConfig, name: str) -> None:
    score = judged(replace(market, **{name: None}), config).score
    assert name not in score["inputs"]
    if name not in MODELS[config.model].of(config).inputs:
        assert name not in score["missing_inputs"]
        return
    gates = {"obi": ("obi", config.gate_obi_enabled), "spot_perp_divergence": ("spot_perp", config.gate_spot_perp_enabled)}
    if name in gates and config.model not in ("v50_rules", "v51_baseline", "v52_8signals"):
        gate_name, enabled = gates[name]
        found = next(one for one in score["gates"] if one["name"] == gate_name)
        assert found["value"] is None
        blocks = enabled and not found["skipped"] and getattr(config, f"{gate_name}_on_missing") == "block"
        assert found["reason"] == (f"missing({name})" if blocks else None)
        assert (name in score["missing_inputs"]) == (enabled or (name == "obi" and config.fast_variant))
    else:
        assert name in score["missing_inputs"]
        neutral = {"open_interest_change": 7.0 if config.fast_variant else 10.0}
        neutral["long_short_ratio"] = 5.0 if config.model == "v51_baseline" else 7.0
        neutral |= {"top_trader_long_share": 5.0, "coinbase_premium": 2.0}
        part = {"open_interest_change": "open_interest", "top_trader_long_share": "top_trader_position"}.get(name, name)
        assert [found["parts"][part] for found in score["layers"] if part in found["parts"]] == [neutral[name]]


@given(markets(known_history=True), strategies(), st.lists(st.booleans(), min_size=2, max_size=10), st.integers(0, 30))
@relaxed(max_examples=100)
def test_entries_keep_their_distance_whatever_comes(market: Snapshot, config: StrategyConfig, turns: list[bool], minutes: int) -> None:
    least = 40.0 if config.model == "v50_rules" else 60.0
    config = replace(config, cooldown_minutes=minutes, entry_score=least, flip_threshold=least)
    memory, entries = StrategyMemory(), []
    for number, turned in enumerate(turns):
        shot = mirrored(market, config.model) if turned else market
        result = judged(replace(shot, time=T + number * 300_000), config, memory)
        memory = result.memory
        if result.signal is not None and result.signal["entry"]:
            entries.append(result.score["event_time"])
        elif result.signal is not None:
            # Held back by the cooldown, by the hour (V5.0), or by CVDs that do not agree (V5.1, V5.2).
            assert result.signal["flip"] and (result.score["cooldown"] or config.model in ("v50_rules", "v51_baseline", "v52_8signals"))
    assert all(later - earlier >= minutes * 60_000 for earlier, later in pairwise(entries))
    assert memory.last_entry_time == (entries[-1] if entries else None)


@given(markets(), strategies())
@relaxed(max_examples=50)
def test_the_same_input_gives_the_same_result_and_is_not_changed(market: Snapshot, config: StrategyConfig) -> None:
    before = repr((market, config))
    assert repr(judged(market, config)) == repr(judged(market, config))
    assert repr((market, config)) == before


@pytest.mark.parametrize("instrument", [BTC, ALT])
def test_without_a_whale_trade_the_strategy_decides_and_by_default_nothing_is_adverse(instrument: str) -> None:
    quiet = snapshot(**{**PERFECT_LONG, "instrument": instrument, "price": 50_000.0, "atr": 500.0, "large_trades": prints()})
    passing, strict = run(quiet, config(instrument=instrument)), run(quiet, config(instrument=instrument, whale_on_missing="block"))
    assert (gate(passing, "whale")["passed"], gate(passing, "whale")["value"]) == (True, None)
    assert not any("whale" in name for name in passing.score["missing_inputs"])
    assert (strict.score["gate_block"], strict.score["score"], strict.signal) == ("missing(whale_flow)", 0.0, None)
    assert (gate(strict, "whale")["passed"], gate(strict, "whale")["value"]) == (False, None)


def test_an_undefined_volatility_is_missing_not_zero() -> None:
    without = snapshot(price=0.0)
    strict, passing = run(without, config()), run(without, config(vol_on_missing="pass"))
    assert (strict.score["gate_block"], gate(strict, "volatility")["value"]) == ("missing(price)", None)
    assert (passing.score["gate_block"], gate(passing, "volatility")["passed"]) == ("no_risk_distance", True)
    assert run(snapshot(atr=0.0), config(vol_on_missing="pass")).score["gate_block"] == "low_vol(0<0.002)"  # zero is a value
