"""All strategies at once give, byte for byte, what the plain way gives one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec.avro import Codec
from stream_apps.core.market.kernels.print_kernels import flow_of, pairwise_sum
from stream_apps.core.market.snapshot import Prints, Snapshot, whale_flow
from stream_apps.core.signals.scoring import MODELS, StrategyMemory, evaluate
from stream_apps.core.signals.scoring.batch import Batch, Scored
from stream_apps.core.signals.scoring.kernel import tenths
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from tests.support.markets.scoring_cases import ALT, BTC, T, large, market, markets, of_model, relaxed, strategies
from tests.support.markets.scoring_rows import market_of

CODEC = Codec()
SETS = st.sampled_from([ALT, BTC]).flatmap(
    lambda instrument: st.integers(1, 8).flatmap(
        lambda n: st.tuples(*(strategies(strategy_id=f"s{i}", instrument=instrument) for i in range(n)))
    )
)


def batch_of(configs: Iterable[StrategyConfig]) -> Batch:
    """A batch without memories."""
    return Batch([(config, config_hash(config)) for config in configs], CODEC, {})


def results_of(batch: Batch, shot: Snapshot) -> list[Scored]:
    """What a batch says of one instrument."""
    return batch.evaluate([(place, 0) for place in batch.of(shot.instrument)], market_of([shot]))


@given(SETS, st.lists(markets(), min_size=1, max_size=3), st.integers(1, 50))
@relaxed(max_examples=150)
def test_a_batch_equals_its_strategies_one_by_one(configs: tuple[StrategyConfig, ...], shots: list[Snapshot], panes: int) -> None:
    batch = batch_of(configs)
    plain: dict[str, StrategyMemory] = {}
    together: dict[str, StrategyMemory] = {}
    for n, shot in enumerate(shots):
        now = replace(shot, instrument=configs[0].instrument, time=T + n * panes * 15_000)
        results = results_of(batch, now)
        assert [result.slot for result in results] == [config.strategy_id for config in configs]
        for config, result in zip(configs, results, strict=True):
            one = evaluate(now, config, config_hash(config), plain.get(config.strategy_id, StrategyMemory()))
            plain[config.strategy_id] = one.memory
            if result.memory is not None:
                together[config.strategy_id] = result.memory
            assert result.score == CODEC.encode("scores", one.score)
            assert result.signal == one.signal
            assert together.get(config.strategy_id, StrategyMemory()) == one.memory
        # A worker that was restarted goes on from what was remembered.
        batch = Batch([(config, config_hash(config)) for config in configs], CODEC, together) if n % 2 else batch


@given(st.lists(st.tuples(strategies(), markets()), min_size=2, max_size=5))
@relaxed(max_examples=50)
def test_instruments_of_one_instant_are_told_apart(pairs: list[tuple[StrategyConfig, Snapshot]]) -> None:
    configs = [replace(config, strategy_id=f"s{n}", instrument=f"BINANCE:C{n}USDT-PERP") for n, (config, _) in enumerate(pairs)]
    shots = [replace(shot, instrument=config.instrument) for config, (_, shot) in zip(configs, pairs, strict=True)]
    asked = [(place, place) for place in reversed(range(len(configs)))]
    for (place, _), result in zip(asked, batch_of(configs).evaluate(asked, market_of(shots)), strict=True):
        one = evaluate(shots[place], configs[place], config_hash(configs[place]), StrategyMemory())
        assert result.score == CODEC.encode("scores", one.score) and result.signal == one.signal


@given(st.one_of(st.floats(0.0, 200.0), st.integers(0, 4000).map(lambda n: n / 20), st.integers(0, 2**20).map(lambda n: n / 2**13)))
@relaxed(max_examples=2000)
def test_tenths_are_rounded_as_python_rounds(value: float) -> None:
    for near in (value, np.nextafter(value, 0.0), np.nextafter(value, 300.0)):
        assert tenths(near) == round(float(near), 1)


@given(
    st.lists(st.tuples(st.floats(0.001, 1e6), st.floats(1e-8, 1e6), st.booleans()), max_size=600),
    st.sampled_from([1e-9, 10.0, 1000.0, 1e9]),
)
@relaxed(max_examples=300)
def test_the_flow_of_prints_has_the_bits_of_the_plain_one(trades: list[tuple[float, float, bool]], least: float) -> None:
    prints = Prints(np.array([t[0] for t in trades]), np.array([t[1] for t in trades]), np.array([t[2] for t in trades], dtype=np.bool_))
    flow = flow_of(np.where(prints.taker_buy, 1.0, -1.0) * prints.notional(), least)
    assert (None if np.isnan(flow) else flow) == whale_flow(prints, least)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 127, 128, 129, 136, 255, 256, 257, 1000, 5000])
def test_a_sum_has_the_bits_of_numpys(size: int) -> None:
    values = np.random.default_rng(size).lognormal(0.0, 8.0, size)
    assert pairwise_sum(values) == values.sum()


def test_strategies_that_differ_in_one_field_only_are_kept_apart() -> None:
    """Every field that a gate or a weight reads: a batch that forgot one would judge two strategies as one."""
    base = of_model("v54_factory", gate_spot_perp_enabled=True)
    shot = market(obi=-0.33, spot_perp_divergence=-0.004, atr=0.15, coinbase_premium=0.001, open_interest_change=0.04)
    changes = [
        {"gate_vol_enabled": False},
        {"vol_atr_pct_min": 0.001},
        {"gate_cvd_enabled": False},
        {"gate_obi_enabled": False},
        {"obi_threshold": 0.3},
        {"gate_spot_perp_enabled": False},
        {"spot_perp_threshold": 0.003},
        {"whale_usd_threshold": 1000.0},
        {"whale_on_missing": "block"},
        {"vol_on_missing": "pass"},
        {"weight_direction": 50, "weight_env": 30},
        {"fast_variant": True},
        {"cvd_fast_window": "5m"},
        {"entry_score": 60.0},
    ]
    configs = [base, *(replace(base, strategy_id=f"s{n}", **change) for n, change in enumerate(changes))]
    calm = replace(shot, atr=0.5, obi=0.2)
    sold = replace(calm, large_trades=large(0, 1))  # 30,000: a whale by 1,000, none by 50,000
    for state in (shot, replace(shot, atr=0.5), replace(shot, atr=0.5, obi=None), calm, sold, replace(calm, price=0.0)):
        results = results_of(batch_of(configs), state)
        for config, result in zip(configs, results, strict=True):
            assert result.score == CODEC.encode("scores", evaluate(state, config, config_hash(config), StrategyMemory()).score)


def test_every_model_is_in_the_random_sets() -> None:
    seen: set[str] = set()

    @given(SETS)
    @relaxed(max_examples=60)
    def collect(configs: tuple[StrategyConfig, ...]) -> None:
        seen.update(config.model for config in configs)

    collect()
    assert seen == set(MODELS)


def test_ids_of_any_length() -> None:
    name = f"BINANCE:{'X' * 1500}USDT-PERP"
    config = of_model("v54_factory", instrument=name, strategy_id="\u00e9" * 64)
    shot = market(instrument=name)
    (result,) = results_of(batch_of([config]), shot)
    assert result.score == CODEC.encode("scores", evaluate(shot, config, config_hash(config), StrategyMemory()).score)
