"""All strategies at once give, byte for byte, what the plain way gives one by one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from scoring_cases import ALT, BTC, T, large, market, markets, of_model, relaxed, strategies

from schemas.codec import Codec
from stream_apps.core.scoring import MODELS, StrategyMemory, evaluate
from stream_apps.core.scoring.batch import Batch
from stream_apps.core.snapshot import Snapshot
from stream_apps.core.strategy import StrategyConfig, config_hash

CODEC = Codec()
SETS = st.sampled_from([ALT, BTC]).flatmap(
    lambda instrument: st.integers(1, 8).flatmap(
        lambda n: st.tuples(*(strategies(strategy_id=f"s{i}", instrument=instrument) for i in range(n)))
    )
)


@given(SETS, st.lists(markets(), min_size=1, max_size=3), st.integers(1, 50))
@relaxed(max_examples=150)
def test_a_batch_equals_its_strategies_one_by_one(configs: tuple[StrategyConfig, ...], shots: list[Snapshot], panes: int) -> None:
    batch = Batch([(config, config_hash(config)) for config in configs], CODEC)
    plain: dict[str, StrategyMemory] = {}
    together: dict[str, StrategyMemory] = {}
    for n, shot in enumerate(shots):
        now = replace(shot, instrument=configs[0].instrument, time=T + n * panes * 15_000)
        before = dict(together)
        results = batch.evaluate(now, together)
        assert together == before
        assert [result.strategy_id for result in results] == [config.strategy_id for config in configs]
        for config, result in zip(configs, results, strict=True):
            one = evaluate(now, config, config_hash(config), plain.get(config.strategy_id, StrategyMemory()))
            plain[config.strategy_id] = one.memory
            if result.memory is not None:
                together[config.strategy_id] = result.memory
            assert result.score == CODEC.encode("scores", one.score)
            assert result.signal == one.signal
            assert together.get(config.strategy_id, StrategyMemory()) == one.memory


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
        {"weight_direction": 50, "weight_env": 30},
        {"fast_variant": True},
        {"cvd_fast_window": "5m"},
        {"entry_score": 60.0},
    ]
    configs = [base, *(replace(base, strategy_id=f"s{n}", **change) for n, change in enumerate(changes))]
    calm = replace(shot, atr=0.5, obi=0.2)
    sold = replace(calm, large_trades=large(0, 1))  # 30,000: a whale by 1,000, none by 50,000
    for state in (shot, replace(shot, atr=0.5), replace(shot, atr=0.5, obi=None), calm, sold):
        results = Batch([(config, config_hash(config)) for config in configs], CODEC).evaluate(state, {})
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
    (result,) = Batch([(config, config_hash(config))], CODEC).evaluate(shot, {})
    assert result.score == CODEC.encode("scores", evaluate(shot, config, config_hash(config), StrategyMemory()).score)
