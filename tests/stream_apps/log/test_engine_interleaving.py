"""Records leave a producer as its connections bring them, in any interleaving; what the engine decides is the same to the byte."""

from __future__ import annotations

import random

import pytest

from producers.output.sequencer import Sequencer
from stream_apps.core.market.config import EngineConfig
from tests.support.markets.logs import CODEC, LTC, Log, decoded, ltc_trades, run

PERP, OTHER = "BINANCE:LTCUSDT-PERP", "BINANCE:LTCUSDC"
STEP, GRID, LATENESS = 250, 15_000, 250


def connections(trades):
    """Return three connections: (clock, topic, record) in the order of each. Some records come seconds after their time, some seconds of the clock pass
    without a record, and the connections run at different delays."""
    source = random.Random(5)
    spot, perp, other = [], [], []
    clock = 0
    for time, agg_id, price, quantity, maker in trades:
        clock = max(clock, time) + (source.randint(0, 3) if source.random() < 0.97 else source.randint(0, 4_000))
        spot.append((clock, "agg_trades", trade(LTC, time, agg_id, price, quantity, maker)))
        if source.random() < 0.7:
            late = source.choice((0, 1, 40, 300, 900)) if source.random() < 0.9 else source.randint(1, 40_000)
            perp.append((time + 10, "quotes", quote(PERP, time + 10 - late, agg_id, price)))
        if source.random() < 0.5:
            other.append(
                (
                    time - 20,
                    "agg_trades",
                    trade(OTHER, time - 20 - source.choice((0, 0, 15, 600)), agg_id, price + 0.01, quantity, not maker),
                )
            )
    # Ids of the third one are consecutive as a venue's are.
    other = [(at, topic, {**record, "agg_id": n, "first_trade_id": n, "last_trade_id": n}) for n, (at, topic, record) in enumerate(other)]
    return [spot, perp, other]


def trade(name, time, agg_id, price, quantity, maker):
    return {
        "instrument": name, "event_time": time, "receive_time": time + 3, "agg_id": agg_id, "first_trade_id": agg_id, "last_trade_id": agg_id,
        "price": price, "quantity": quantity, "buyer_is_maker": maker, "backfilled": False,
    }  # fmt: skip


def quote(name, time, update_id, price):
    return {
        "instrument": name, "event_time": time, "receive_time": time + 3, "update_id": update_id, "bid_price": round(price - 0.01, 2), "bid_quantity": 5.0,
        "ask_price": round(price + 0.01, 2), "ask_quantity": 7.0,
    }  # fmt: skip


def log_of(sources, seed, burst):
    """Write what the producer writes when the connections' messages come in bursts of up to ``burst``, in random turns."""
    source = random.Random(seed)
    log = Log()
    for name in (LTC, PERP, OTHER):
        log.instrument(name)
    sequencer = Sequencer(STEP, GRID, LATENESS)
    for rank in range(len(sources)):
        sequencer.join(str(rank), rank)

    def write(steps):
        for step in steps:
            for topic, record in step.items:
                log.append(topic, record)
            if step.time is not None:
                log.mark(step.time)

    at = [0] * len(sources)
    while pending := [rank for rank in range(len(sources)) if at[rank] < len(sources[rank])]:
        rank = source.choice(pending)
        for clock, topic, record in sources[rank][at[rank] : at[rank] + source.randint(1, burst)]:
            at[rank] += 1
            if sequencer.advance(str(rank), clock):
                write(sequencer.release())
            sequencer.push(str(rank), (topic, record), record["event_time"], 0)
        if source.random() < 0.5:
            write(sequencer.release())
        if at[rank] == len(sources[rank]):
            sequencer.leave(str(rank))
    write(sequencer.release())
    write(sequencer.finish())
    return log


@pytest.fixture(scope="module")
def sources():
    return connections(list(ltc_trades(4_000)))


@pytest.fixture(scope="module")
def plain(sources):
    return results(log_of(sources, 0, 1))


def results(log, seed=None):
    # Quantiles after few trades, so that large trades are judged early and often.
    outputs, engine = run(log, EngineConfig(grid_ms=GRID, lateness_ms=LATENESS, quantile_min_trades=50, quantile_history_ms=0), seed=seed)
    assert decoded(outputs, "dead_letters") == []
    return {topic: decoded(outputs, topic) for topic in ("features", "bars")}, engine.counts


@pytest.mark.parametrize(("seed", "burst"), [(1, 7), (2, 300), (3, 4_000)])
def test_the_interleaving_of_connections_decides_nothing(sources, plain, seed, burst):
    log = log_of(sources, seed, burst)
    assert results(log, seed) == plain
    features, counts = plain
    assert counts["late"] > 20 and len(features["features"]) > 300  # there is something late, and something decided


def test_the_logs_differ_though_the_decisions_do_not(sources):
    one, other = (log_of(sources, seed, 300) for seed in (1, 2))
    assert one.topics["agg_trades"] != other.topics["agg_trades"]
    assert [m[1] for m in one.topics["progress"]] == [m[1] for m in other.topics["progress"]]
    streams = [[value for _, _, key, value in log.topics["agg_trades"] if key == OTHER.encode()] for log in (one, other)]
    assert streams[0] == streams[1]
    assert CODEC.decode("agg_trades", streams[0][0])["agg_id"] == 0
