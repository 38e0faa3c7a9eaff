"""A flip is signalled only while the other side may be open: what is left out would have closed nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stream_apps.core.market.config import EngineConfig
from stream_apps.core.signals.scoring import StrategyMemory
from stream_apps.replay.results import ResultSet
from stream_apps.replay.run import PartitionReplay
from stream_apps.strategy_files import load_strategy_files
from tests.support.markets.logs import CODEC, Log, ltc_trades, pieces
from tests.support.paths import ROOT

FILE = ROOT / "stream_apps" / "default_strategies" / "recorded" / "ltcusdt_trades_only.toml"


def replayed(log: Log) -> dict[str, list[dict[str, Any]]]:
    replay = PartitionReplay(0, EngineConfig(quantile_history_ms=0), CODEC)
    results = ResultSet(CODEC)
    for topic, messages in log.topics.items():
        for records in pieces(messages, None):
            for result in replay.feed(topic, records):
                results.add(result.topic, result.value)
    return {topic: [CODEC.decode(topic, value) for value in results.records[topic].values()] for topic in ("signals", "trades_closed")}


def test_signals_left_out_would_have_closed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    log.instrument()
    (config,) = load_strategy_files([FILE])
    # Thresholds at which directions change within the cooldown, and one without a cooldown.
    for n, (entry, flip, cooldown) in enumerate(((60.0, 60.0, 0), (64.0, 70.0, 10), (60.0, 64.0, 30))):
        one = replace(config, strategy_id=f"s{n}", entry_score=entry, flip_threshold=flip, cooldown_minutes=cooldown)
        log.strategy({**one.to_record(), "event_time": 1, "receive_time": 1})
    log.trades(ltc_trades(20_000))
    ours = replayed(log)
    plain = StrategyMemory.after

    def forgetful(self: StrategyMemory, time: int, direction: int, entry: bool, flip: bool) -> StrategyMemory:
        return replace(plain(self, time, direction, entry, flip), may_hold=3)

    monkeypatch.setattr(StrategyMemory, "after", forgetful)
    always = replayed(log)
    assert ours["trades_closed"] == always["trades_closed"]
    assert sum(trade["exit_reason"] == "flip" for trade in ours["trades_closed"]) >= 3
    flips = [[signal for signal in one["signals"] if not signal["entry"]] for one in (ours, always)]
    assert 0 < len(flips[0]) < len(flips[1]) / 3
