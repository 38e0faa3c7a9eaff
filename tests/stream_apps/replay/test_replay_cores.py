"""Engine, scorer and paper model together over one log: signals and closed trades, the same however the log is cut."""

from __future__ import annotations

import random

import pytest

from stream_apps.core.market.config import EngineConfig
from stream_apps.replay.results import ResultSet, differences
from stream_apps.replay.run import PartitionReplay
from stream_apps.strategy_files import load_strategy_files
from tests.support.markets.logs import CODEC, Log, ltc_trades, pieces
from tests.support.paths import RECORDINGS, ROOT

STRATEGIES = ROOT / "stream_apps" / "default_strategies" / "recorded"


def replay(log: Log, seed: int | None = None, size: int = 5000) -> tuple[ResultSet, list]:
    source = random.Random(seed) if seed is not None else None
    run = PartitionReplay(0, EngineConfig(quantile_history_ms=0), CODEC)
    results, everything = ResultSet(CODEC), []
    feeds = {topic: list(pieces(messages, source, size)) for topic, messages in log.topics.items()}
    while feeds:
        topic = source.choice(sorted(feeds)) if source else next(iter(feeds))
        for result in run.feed(topic, feeds[topic].pop(0)):
            everything.append(result)
            results.add(result.topic, result.value)
        if not feeds[topic]:
            del feeds[topic]
    return results, everything


@pytest.fixture(scope="module")
def log() -> Log:
    assert RECORDINGS.exists()
    log = Log()
    log.instrument()
    for config in load_strategy_files([STRATEGIES / "ltcusdt_trades_only.toml"]):
        log.strategy({**config.to_record(), "event_time": 1, "receive_time": 1, "revision": 1})
    log.trades(ltc_trades(50_000))
    return log


def test_trades_at_a_venue_are_no_results_of_a_replay(log):
    """A live executor writes its trades to the same topic; a comparison with a replay must not miss them there."""
    one, _ = replay(log)
    closed = [CODEC.decode("trades_closed", value) for value in one.records["trades_closed"].values()]
    before = one.hashes()
    for mode in ("simulated", "testnet", "live"):
        one.add("trades_closed", CODEC.encode("trades_closed", {**closed[0], "trade_id": f"{mode}|x", "mode": mode}))
    assert closed[0]["mode"] == "paper" and one.hashes() == before
    one.add("trades_closed", CODEC.encode("trades_closed", {**closed[0], "trade_id": "x"}))
    assert one.counts()["trades_closed"] == len(closed) + 1


def test_the_recorded_day_gives_signals_and_closed_trades_and_every_cut_gives_the_same(log):
    one, everything = replay(log)
    two, _ = replay(log, seed=5, size=4000)
    counts = one.counts()
    assert counts["signals"] > 0 and counts["trades_closed"] > 0
    assert counts["scores"] == counts["features"] > 2_500
    assert one.hashes() == two.hashes()
    assert differences(one, two) == [] and not one.conflicts
    closed = [CODEC.decode("trades_closed", value) for value in one.records["trades_closed"].values()]
    for trade in closed:
        assert trade["net_r"] == pytest.approx(trade["gross_r"] - trade["fee_r"] - trade["funding_r"], abs=1e-9)
        assert trade["entry_time"] >= trade["signal_time"] + 500  # decided 250 ms after the instant, latency 250 ms more
    signals = {CODEC.decode("signals", value)["signal_id"] for value in one.records["signals"].values()}
    assert {trade["signal_id"] for trade in closed} <= signals
    fills = [CODEC.decode("fills", result.value) for result in everything if result.topic == "fills"]
    assert len({fill["fill_id"] for fill in fills}) == len(fills) >= 2 * len(closed)


def test_the_first_difference_names_record_and_field(log):
    one, _ = replay(log)
    two, _ = replay(log)
    identity, value = next(iter(two.records["features"].items()))
    changed = {**CODEC.decode("features", value), "cvd_5m": 1.25}
    two.records["features"][identity] = CODEC.encode("features", changed)
    gone = next(iter(two.records["scores"]))
    del two.records["scores"][gone]
    found = differences(one, two)
    assert [(d.topic, d.field) for d in found] == [("features", "cvd_5m"), ("scores", None)]
    assert "1.25" in str(found[0]) and "missing in the replay" in str(found[1])


def test_no_look_ahead_the_future_does_not_change_the_past(log):
    short = Log({topic: list(messages) for topic, messages in log.topics.items()})
    cut = len(short.topics["progress"]) * 2 // 3
    short.topics["progress"] = short.topics["progress"][:cut]
    whole, _ = replay(log)
    part, _ = replay(short)
    for topic in ("features", "scores", "signals"):
        assert part.records[topic].items() <= whole.records[topic].items()
        assert part.records[topic]
