"""A strategy of several instruments: its rules and hash, and that it decides on each as a strategy of that instrument alone would."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from functools import cache
from typing import Any

import fastavro
import pytest

from schemas.codec.avro import Codec, plain_timestamps
from schemas.settings import Settings
from stream_apps.core.log.outputs import OutputRecord
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.paper.model import PaperBook
from stream_apps.core.signals.engine import SignalsEngine
from stream_apps.core.signals.strategy import StrategyConfig, StrategyError, config_hash
from stream_apps.core.signals.strategy_rules import MOST_INSTRUMENTS, strategy_from_record, succeeds, validate
from stream_apps.strategy_files import parse_strategy, strategy_text
from tests.support.markets.logs import CODEC, Log, decoded, run
from tests.support.markets.scoring_cases import of_model
from tests.support.paths import ROOT
from tests.support.trading.paper_cases import of, signal

GRID = 60_000
START = 1_749_945_600_000  # a midnight
MINUTES = 240
NAMES = ("BINANCE:LTCUSDT-PERP", "BINANCE:LTCUSDT", "BYBIT:LTCUSDT-PERP")
CONFIG = EngineConfig(grid_ms=GRID, lateness_ms=250, quantile_min_trades=50, quantile_history_ms=0, print_floor=10.0, whale_usd=200.0)
SEVERAL = of_model(
    "v54_factory", strategy_id="several", instrument=NAMES[0], instruments=NAMES[1:], cvd_fast_window="5m", cvd_slow_window="30m",
    entry_score=60.0, flip_threshold=60.0, cooldown_minutes=20, gate_vol_enabled=False, gate_whale_enabled=False, gate_obi_enabled=False,
)  # fmt: skip
ALONE = tuple(replace(SEVERAL, strategy_id=f"alone-{n}", instrument=name, instruments=()) for n, name in enumerate(NAMES))


# --- rules and hash -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruments", "says"),
    [
        ((NAMES[0],), "once; BINANCE:LTCUSDT-PERP"),
        ((NAMES[1], NAMES[1]), "once; BINANCE:LTCUSDT is"),
        (("LTCUSDT",), "instrument id"),
        (tuple(f"V{n}:LTCUSDT" for n in range(MOST_INSTRUMENTS + 1)), f"at most {MOST_INSTRUMENTS}"),
        ("BINANCE:LTCUSDT", "a list of texts"),
    ],
)
def test_the_rules_of_further_instruments(instruments: Any, says: str) -> None:
    with pytest.raises(StrategyError, match=says) as caught:
        validate(replace(SEVERAL, instruments=instruments))
    assert caught.value.field == "instruments"


@pytest.mark.parametrize(
    ("groups", "others", "apart"),
    [
        ("", ("BINANCE:BTCUSDT", "BYBIT:BTCPERP-PERP"), None),
        ("", ("BINANCE:BTCUSDT", "BINANCE:ETHUSDT-PERP"), "BINANCE:ETHUSDT-PERP is judged apart from BINANCE:BTCUSDT-PERP: ETH and BTC"),
        ("BTC+ETH", ("BINANCE:ETHUSDT-PERP",), None),
        ("SOL+ETH+BTC", ("BINANCE:ETHUSDT-PERP", "BYBIT:SOLUSDT"), None),
        ("SOL+ETH", ("BINANCE:ETHUSDT-PERP",), r"PERPFLOW_ASSET_GROUPS=BTC\+ETH makes one"),
    ],
)
def test_instruments_are_in_one_group_of_assets(groups: str, others: tuple[str, ...], apart: str | None) -> None:
    config = replace(SEVERAL, instrument="BINANCE:BTCUSDT-PERP", instruments=others)
    validate(config)
    engine = SignalsEngine(0, EngineConfig.from_settings(Settings(asset_groups=groups)), CODEC)
    if apart is None:
        engine.take_strategy(config)
        assert engine.strategies["several"][0] == config
        return
    with pytest.raises(StrategyError, match=apart) as caught:
        engine.take_strategy(config)
    assert caught.value.field == "instruments" and not engine.strategies


def test_instruments_may_change_and_the_main_one_may_not() -> None:
    fewer = replace(SEVERAL, revision=2, instruments=NAMES[1:2])
    assert succeeds(SEVERAL, fewer) and succeeds(SEVERAL, replace(fewer, instruments=()))
    with pytest.raises(StrategyError, match=r"^instrument: cannot change"):
        succeeds(SEVERAL, replace(fewer, instrument=NAMES[2]))


def test_the_hash_has_the_field_only_when_it_names_some() -> None:
    # The hash of the factory's defaults, of the releases without the field.
    plain = StrategyConfig(strategy_id="s", instrument="BINANCE:BTCUSDT-PERP", display_name="Test")
    assert config_hash(plain) == "5b635ea4b8294c42"
    hashes = {config_hash(replace(plain, instruments=names)) for names in ((), ("BINANCE:BTCUSDT",), ("BYBIT:BTCUSDT-PERP",))}
    assert len(hashes) == 3


def test_a_file_says_and_reads_them() -> None:
    assert parse_strategy(strategy_text(SEVERAL), "file").instruments == NAMES[1:]


def test_a_record_of_the_release_before_is_read_without_them() -> None:
    """Written by fastavro with that release's schema, so that nothing of today's writer takes part."""
    schema = json.loads((ROOT / "schemas/avro/earlier/strategies.3.avsc").read_text())
    record = ALONE[0].to_record()
    del record["instruments"]
    value = io.BytesIO()
    fastavro.schemaless_writer(value, fastavro.parse_schema(plain_timestamps(schema)), record)
    head = bytes.fromhex("c301") + bytes.fromhex(
        fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(schema), "CRC-64-AVRO")
    )
    assert strategy_from_record(Codec().decode("strategies", head + value.getvalue())) == ALONE[0]


# --- decisions ----------------------------------------------------------------------------------------------------------


@cache
def market(*strategies: StrategyConfig) -> Log:
    """Four hours of trades of three instruments, those of one author and those of another."""
    source = random.Random(11)
    log = Log(grid=GRID)
    for name in NAMES:
        log.instrument(name, name.partition(":")[0])
    for config in strategies:
        log.strategy({**config.to_record(), "event_time": 1, "receive_time": 1})
    ids, price, lean = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 10_000), dict.fromkeys(NAMES, 0.5)
    for minute in range(MINUTES):
        begin = START + minute * GRID
        for name in NAMES:
            if source.random() < 0.05:
                lean[name] = source.choice((0.15, 0.85))
        for time in sorted(source.sample(range(1, GRID), 12)):
            name = source.choice(NAMES)
            price[name] = min(10_400, max(9_600, price[name] + source.randint(-25, 25)))
            log.trade(begin + time, ids[name], price[name] / 100, source.choice((0.5, 1.0, 8.0)), source.random() > lean[name], name)
            ids[name] += 1
        for venue in ("BINANCE", "BYBIT"):
            log.mark(begin + GRID + 250, venue, venue)
    return log


def decisions(outputs: list[OutputRecord], topic: str, strategies: set[str]) -> dict[tuple[str, int], dict[str, Any]]:
    """(instrument, instant) -> the record, without the names by which the strategies differ."""
    named = {"score_id", "signal_id", "strategy_id", "config_hash", "receive_time"}
    records = [one for one in decoded(outputs, topic) if one["strategy_id"] in strategies]
    found = {(one["instrument"], one["event_time"]): {key: value for key, value in one.items() if key not in named} for one in records}
    assert len(found) == len(records)
    return found


def test_it_decides_on_each_instrument_as_a_strategy_of_that_one_alone() -> None:
    """Cooldown, flips and signals of one instrument do not touch those of another (D13, D19)."""
    outputs, engine = run(market(SEVERAL, *ALONE), CONFIG)
    alone = {one.strategy_id for one in ALONE}
    for topic in ("scores", "signals"):
        ours, theirs = decisions(outputs, topic, {"several"}), decisions(outputs, topic, alone)
        assert ours == theirs and {name for name, _ in ours} == set(NAMES), topic
    signals = [one for one in decoded(outputs, "signals") if one["strategy_id"] == "several"]
    assert all(one["signal_id"] == f"{one['instrument']}|several|{one['event_time']}" for one in signals)
    assert len(signals) > 10 and {one["config_hash"] for one in signals} == {config_hash(SEVERAL)}
    assert {one["verdict"] for one in decoded(outputs, "scores") if one["strategy_id"] == "several"} >= {"entry", "entry+flip", "cooldown"}
    assert engine.memories.keys() == {"several", *(f"several|{name}" for name in NAMES[1:]), *alone}


def test_kills_change_nothing() -> None:
    log = market(SEVERAL, *ALONE)
    plain, engine = run(log, CONFIG)
    killed, rebuilt = run(log, CONFIG, seed=5, restart_every=5, size=300)
    assert [decoded(killed, topic) for topic in ("scores", "signals")] == [decoded(plain, topic) for topic in ("scores", "signals")]
    assert rebuilt.memories == engine.memories


def test_a_state_of_the_release_before_goes_on_with_the_main_instrument() -> None:
    """That release kept memories by the strategy's id."""
    log = market(*ALONE)
    _, engine = run(log, CONFIG)
    meta, _ = engine.head()
    assert set(meta["memories"]) == {one.strategy_id for one in ALONE}
    engine = SignalsEngine.restore(0, CONFIG, CODEC, [(key, value) for key, value in engine.checkpoint() if value is not None])
    engine.take_strategy(replace(ALONE[0], revision=2, instruments=NAMES[1:]))
    leg, *others = [config for config, _ in engine._batch().strategies if config.strategy_id == ALONE[0].strategy_id]
    assert engine.memories[leg.slot].last_entry_time is not None and not any(one.slot in engine.memories for one in others)


# --- positions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("BINANCE:LTCUSDT", "BINANCE:LTCUSDT-PERP"), ("BINANCE:LTCUSDT-PERP", "BINANCE:LTCUSDT")])
def test_the_last_position_goes_to_the_signal_that_is_first_in_the_log(names: tuple[str, ...]) -> None:
    """A worker writes the signals of an instant by instrument: a spot pair, then its perpetual. Their ids sort the other way."""
    both = [signal(instrument=name, max_positions=1) for name in names]
    out = PaperBook().step(time=15_000, decided_at=15_250, instruments=names, trades={}, signals=both)
    assert {one["instrument"]: one["status"] for one in of("orders", out)} == {"BINANCE:LTCUSDT": "new", "BINANCE:LTCUSDT-PERP": "rejected"}
