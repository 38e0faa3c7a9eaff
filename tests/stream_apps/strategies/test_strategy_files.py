"""Strategy files, and what the ones in the repository promise."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_apps.core.market.snapshot import Prints, Snapshot
from stream_apps.core.market.windows import FAST_WINDOWS, WINDOWS
from stream_apps.core.signals.scoring import StrategyMemory, evaluate
from stream_apps.core.signals.strategy import BOOKKEEPING, StrategyConfig, StrategyError, config_hash
from stream_apps.core.signals.strategy_grid import grid
from stream_apps.strategy_files import (
    default_files,
    generated_files,
    load_strategy_edits,
    load_strategy_files,
    parse_strategy,
    recorded_files,
    strategy_text,
)

LEAST = 'strategy_id = "s"\ninstrument = "BINANCE:BTCUSDT-PERP"\ndisplay_name = "Test"\n'


def test_what_a_file_leaves_out_takes_the_default() -> None:
    expected = StrategyConfig(strategy_id="s", instrument="BINANCE:BTCUSDT-PERP", display_name="Test", entry_score=70.0)
    assert parse_strategy(LEAST + "entry_score = 70\n", "a.toml") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LEAST + "leverage = 3\n", "a.toml: leverage: is not a field of a strategy"),
        (LEAST + "revision = 0\n", "a.toml: revision: must be from 1 to"),
        (LEAST + 'edited_by = "me"\n', "a.toml: edited_by: is set when the strategy is written"),
        (LEAST + "event_time = 3\n", "a.toml: event_time: is set when the strategy is written"),
        (LEAST + "entry_score = 10\n", "a.toml: entry_score: must be from 60 to 95, got 10"),
        (LEAST + 'entry_score = "70"\n', "a.toml: entry_score: must be a number, got '70'"),
        (LEAST + "[gates]\n", "a.toml: gates: is not a field of a strategy"),
        ('display_name = "x"\n', "a.toml: strategy_id: must be given"),
        (LEAST + "entry_score == 70\n", "a.toml: (syntax): not TOML"),
    ],
)
def test_an_error_names_file_field_and_rule(text: str, message: str) -> None:
    with pytest.raises(StrategyError, match="^" + re.escape(message)):
        parse_strategy(text, "a.toml")


def test_two_files_may_not_describe_one_strategy(tmp_path: Path) -> None:
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(LEAST)
    with pytest.raises(StrategyError, match=r"b\.toml: strategy_id: 's' is also in .*a\.toml"):
        load_strategy_files([tmp_path / "a.toml", tmp_path / "b.toml"])


def test_only_a_file_that_names_a_revision_is_an_edit_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(LEAST + "revision = 7\n")
    (tmp_path / "b.toml").write_text(LEAST.replace('"s"', '"t"'))
    configs, named = load_strategy_edits([tmp_path / "a.toml", tmp_path / "b.toml"])
    assert ([config.revision for config in configs], named) == ([7, 1], {"s": 7})


@given(
    description=st.none() | st.text(max_size=200).filter(lambda text: text.isascii() or text.encode("utf-8", "ignore").decode() == text),
    tags=st.lists(st.text(min_size=1, max_size=9, alphabet=st.characters(codec="utf-8"))),
    entry=st.floats(60, 80),
    pause=st.booleans(),
)
def test_an_exported_strategy_comes_back_equal(description: str | None, tags: list[str], entry: float, pause: bool) -> None:
    strategy = StrategyConfig(
        strategy_id="s", instrument="BINANCE:BTCUSDT-PERP", display_name="Téßt \"x\"", revision=3, entry_score=entry, description=description,
        tags=tuple(tags), status="paused" if pause else "running", event_time=5, receive_time=5, edited_by="ann", note="n",
    )  # fmt: skip
    back = parse_strategy(strategy_text(strategy), "x.toml")
    assert back == replace(strategy, event_time=0, receive_time=0, edited_by="", note=None)


# --- the bootstrap grid (S1 7.6) ------------------------------------------------------------------------------------


def test_the_grid_is_the_54_of_the_specification() -> None:
    """Read off the document once more, by hand: names, windows, weights, thresholds, gates, targets."""
    made = {config.display_name: config for config in grid()}
    assert len(made) == len({config.strategy_id for config in made.values()}) == 54
    windows = ("5x30m", "5x1h", "15x1h", "15x4h", "30x1h", "30x4h")
    assert set(made) == {
        f"{coin}_CVD{pair}_TP{profile}"
        for coin in ("ETH", "XRP", "SOL")
        for pair in windows
        for profile in ("conservative", "balanced", "aggressive")
    }
    targets = {"conservative": (0.75, 1.5), "balanced": (1.0, 2.0), "aggressive": (1.5, 2.5)}
    for name, config in made.items():
        coin, pair, profile = name.split("_")
        fast, slow = pair.removeprefix("CVD").split("x")
        assert config.instrument == f"BINANCE:{coin}USDT-PERP"
        assert (config.cvd_fast_window, config.cvd_slow_window) == (f"{fast}m", slow)
        assert (config.tp1_ratio, config.tp2_ratio) == targets[profile.removeprefix("TP")]
        gates = (
            config.vol_atr_pct_min,
            config.whale_usd_threshold,
            config.whale_flow_pct,
            config.obi_threshold,
            config.spot_perp_threshold,
        )
        weights = (config.weight_direction, config.weight_env, config.weight_aux, config.weight_momentum)
        assert (gates, weights, config.entry_score) == TABLE[config.instrument]
        assert (config.sl_atr_multiplier, config.timeout_minutes, config.flip_threshold, config.direction) == (2.0, 240, 80.0, "both")
        on = (
            config.gate_vol_enabled,
            config.gate_cvd_enabled,
            config.gate_whale_enabled,
            config.gate_obi_enabled,
            config.gate_spot_perp_enabled,
        )
        assert on == (True, True, True, True, False)
        assert config.fast_variant == (coin == "SOL")
    btc = grid(["BTC"], "BYBIT")
    assert len(btc) == 18 and {config.instrument for config in btc} == {"BYBIT:BTCUSDT-PERP"}
    assert {
        (config.weight_direction, config.weight_env, config.weight_aux, config.weight_momentum, config.entry_score) for config in btc
    } == {(38, 32, 28, 2, 71.0)}, "S2 8.6: the 18 BTC control strategies enter at 71"


# S1 3.5: vol_atr_pct_min, whale_usd, whale_flow_pct, obi, spot_perp; S1 7.6: weights and entry score.
TABLE = {
    "BINANCE:BTCUSDT-PERP": ((0.002, 100_000, 0.5, 0.30, 0.003), (38, 32, 28, 2), 75),
    "BINANCE:ETHUSDT-PERP": ((0.003, 50_000, 0.5, 0.35, 0.005), (51, 18, 28, 3), 75),
    "BINANCE:SOLUSDT-PERP": ((0.004, 20_000, 0.5, 0.45, 0.008), (38, 42, 8, 12), 65),
    "BINANCE:XRPUSDT-PERP": ((0.0025, 30_000, 0.5, 0.40, 0.006), (58, 8, 32, 2), 80),
}


def test_the_default_set_is_one_strategy_a_symbol_with_the_documented_numbers() -> None:
    configs = load_strategy_files(default_files())
    assert {
        config.instrument: (
            (config.vol_atr_pct_min, config.whale_usd_threshold, config.whale_flow_pct, config.obi_threshold, config.spot_perp_threshold),
            (config.weight_direction, config.weight_env, config.weight_aux, config.weight_momentum),
            config.entry_score,
        )
        for config in configs
    } == TABLE
    assert len(configs) == len(TABLE)
    for config in configs:
        gates = (config.gate_vol_enabled, config.gate_cvd_enabled, config.gate_whale_enabled, config.gate_obi_enabled)
        assert (gates, config.gate_spot_perp_enabled, config.timeout_minutes, config.flip_threshold) == ((True,) * 4, False, 240, 80.0)


# Read by v50_rules with several instruments only.
_OF_SEVERAL = ("gate_correlation_enabled", "correlation_max", "correlation_on_missing")


def test_files_in_the_repository_say_every_number_themselves() -> None:
    files = [*default_files(), *recorded_files(), *generated_files()]
    configs = load_strategy_files(files)
    for path, config in zip(files, configs, strict=True):
        stated = set(tomllib.loads(path.read_text(encoding="utf-8")))
        assert set(config.to_record()) - stated == {"status", "added_balance", "instruments", *_OF_SEVERAL, *BOOKKEEPING}


def best(config: StrategyConfig, *, large: bool = True, accel: float = 1.0, obi: float | None = None) -> Snapshot:
    """The best market for LONG that trades (and a book) alone can show."""
    trades = Prints(np.array([100.0]), np.array([1e4]), np.array([True])) if large else Prints()
    return Snapshot(
        config.instrument,
        1_700_000_010_000,
        1_700_000_010_250,
        100.0,
        cvd=dict.fromkeys(WINDOWS, 5.0),
        volume=dict.fromkeys(WINDOWS, 100.0),
        slope=dict.fromkeys(FAST_WINDOWS, 1.0),
        acceleration=dict.fromkeys(FAST_WINDOWS, accel),
        atr=1.0,
        quantity_p99=10.0,
        large_trades=trades,
        whale_prints=trades,
        obi=obi,
    )


def of(instrument: str, name: str) -> StrategyConfig:
    return next(
        one for one in load_strategy_files([*default_files(), *recorded_files()]) if (one.instrument, one.strategy_id) == (instrument, name)
    )


def score(config: StrategyConfig, market: Snapshot) -> float:
    return float(evaluate(market, config, config_hash(config), StrategyMemory()).score["score"])


@pytest.mark.parametrize(("name", "reach"), [("btcusdt", 66.0), ("ethusdt", 68.4), ("solusdt", 78.7), ("xrpusdt", 68.4)])
def test_the_reach_that_the_default_files_state(name: str, reach: float) -> None:
    config = of(f"BINANCE:{name.upper()}-PERP", f"default-{name}")
    assert score(config, best(config, obi=0.9)) == reach
    path = next(one for one in default_files() if one.stem == name)
    assert f"Reach: {reach} points" in path.read_text(encoding="utf-8")


def test_the_trades_only_strategy_can_signal_from_trades_alone() -> None:
    config = of("BINANCE:LTCUSDT", "recorded-ltcusdt-trades-only")
    assert (config.gate_obi_enabled, config.gate_spot_perp_enabled) == (False, False)
    assert score(config, best(config)) == 82.9 >= config.flip_threshold
    assert config.entry_score <= score(config, best(config, accel=0.0)) == 77.0 < config.flip_threshold
    assert score(config, best(config, large=False)) == 71.0 < config.entry_score
    result = evaluate(best(config), config, config_hash(config), StrategyMemory())
    assert result.signal is not None and result.score["gate_passed"]
    assert result.score["missing_inputs"] == ["open_interest_change", "long_short_ratio", "top_trader_long_share", "coinbase_premium"]


def test_the_capture_strategy_needs_the_book() -> None:
    config = of("BINANCE:BTCUSDT-PERP", "recorded-btcusdt-capture")
    blocked = evaluate(best(config), config, config_hash(config), StrategyMemory())
    assert blocked.score["gate_block"] == "missing(obi)"
    cold = evaluate(replace(best(config), atr=None), config, config_hash(config), StrategyMemory())
    assert not cold.score["warm"]
