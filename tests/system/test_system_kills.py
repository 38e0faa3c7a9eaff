"""kill -9 of any part at any moment: what the database holds in the end is what an undisturbed run leaves."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import pytest

from deploy.demo.pipeline.pipeline import Pipeline
from schemas.catalogue import field_names
from stream_apps.replay.verify import read_results
from tests.system.system_lab import (
    BTC,
    LTC,
    PLACE,
    Kills,
    Lab,
    Reference,
    assert_same_tables,
    contents,
    query,
    repeated_ids,
    set_speed,
    sound,
    table_contents,
)

pytestmark = pytest.mark.stack

BTC_ID, LTC_ID = "BINANCE:BTCUSDT-PERP", "BINANCE:LTCUSDT"
# Both recordings last minutes; when everything was killed they go on as fast as they are read.
SLOW = {"BTCUSDT": "2.5", "LTCUSDT": "320"}
SLOWER = {"BTCUSDT": "0.8", "LTCUSDT": "100"}


@contextlib.contextmanager
def disturbed(lab: Lab, victims: dict[str, int], seed: int, speeds: dict[str, str]) -> Iterator[Pipeline]:
    """A run whose parts were killed so many times each, when all its data is written. Few kills come soon one after another, many at any distance."""
    longest = 3.0 if speeds is SLOWER else 1.5
    with lab.pipeline([BTC, LTC], speeds=speeds, partitions=4) as pipeline:
        pipeline.start()
        kills = Kills(pipeline, seed, longest=longest, at_work=lambda: pipeline.progress.counts()["features"] > 30)
        kills.run(victims)
        assert not pipeline.produced(), "the recordings were over before the last kill"
        set_speed(pipeline, "max")
        pipeline.run_to_the_end(300)
        starts = {name: pipeline.services[name].starts - 1 for name in victims}
        assert starts == dict(kills.done)
        pipeline.stop()
        yield pipeline


# Columns of features: the instant, and what trades alone decide.
MADE_OF_TRADES = ["event_time", "price"] + [name for name in field_names("features") if name.startswith(("cvd", "volume", "vwap", "slope"))]

SERVICES = {"worker-1": 3, "sink": 3, "executor": 3}
PRODUCERS = {"producer-btcusdt-perp": 3, "producer-ltcusdt-spot": 3}


def _services_killed(lab: Lab, reference: Reference, victims: dict[str, int], seed: int, speeds: dict[str, str]) -> None:
    with disturbed(lab, victims, seed, speeds) as pipeline:
        assert sound(read_results(pipeline.settings)) == reference.hashes
        assert_same_tables(contents(pipeline.settings), reference.contents)
        assert repeated_ids(pipeline.settings) == {}


@pytest.mark.timeout(480)
def test_worker_sink_and_executor_killed(lab: Lab, reference: Reference) -> None:
    _services_killed(lab, reference, SERVICES, 1, SLOW)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("service", SERVICES)
def test_20_kills_of_a_service(lab: Lab, reference: Reference, service: str) -> None:
    _services_killed(lab, reference, {service: 20}, 20, SLOWER)


def _producers_killed(lab: Lab, reference: Reference, victims: dict[str, int], seed: int, speeds: dict[str, str]) -> None:
    """What must hold.

    Trades are fetched again by their ids, so of what is made of trades alone (LTC) everything is the same to the last byte; only the mark
    ``backfilled`` tells that something happened. Of books and quotes (BTC) what the venue sent while nobody listened is gone, and features of them
    differ; but every trade is there once, and so is everything that is made of trades: windows, bars, prices. No instant is left out. When the book is
    back it is the right one again.
    """
    with disturbed(lab, victims, seed, speeds) as pipeline:
        settings = pipeline.settings
        assert repeated_ids(settings) == {}
        fetched_again = PLACE | {"receive_time", "backfilled"}
        made_of_trades = ("bars", "features", "scores", "signals", "orders", "fills", "positions", "trades_closed")
        found, expected = {}, {}
        for environment, side in ((settings, found), (reference.settings, expected)):
            side["agg_trades"] = table_contents(environment, "agg_trades", fetched_again)
            for table in made_of_trades:
                side[table] = table_contents(environment, table, instrument=LTC_ID)
            side["bars of BTC"] = table_contents(environment, "bars", instrument=BTC_ID)
            rows = query(environment, f"SELECT ROW({', '.join(MADE_OF_TRADES)})::text FROM features WHERE instrument = %s", BTC_ID)
            side["trade windows of BTC"] = Counter(row[0] for row in rows)
        assert_same_tables(found, expected, list(found))
        last = (
            "SELECT bid_prices[1], bid_quantities[1], ask_prices[1], ask_quantities[1], state FROM depth ORDER BY kafka_offset DESC LIMIT 1"
        )
        assert query(settings, last) == query(reference.settings, last)
        assert query(settings, "SELECT count(*) FROM dead_letters") == [(0,)]
        assert query(settings, "SELECT count(*) FROM gaps WHERE stream = 'agg_trades' AND NOT repaired") == [(0,)]


# In the long tier: tests/producers kills producers too, and the pipeline under kills is shown by the test above.
@pytest.mark.long
@pytest.mark.timeout(300)
def test_producers_killed(lab: Lab, reference: Reference) -> None:
    _producers_killed(lab, reference, PRODUCERS, 2, SLOW)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("producer", PRODUCERS)
def test_20_kills_of_a_producer(lab: Lab, reference: Reference, producer: str) -> None:
    _producers_killed(lab, reference, {producer: 20}, 21, SLOWER)
