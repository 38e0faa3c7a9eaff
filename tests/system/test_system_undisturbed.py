"""The whole pipeline, undisturbed: the recordings' figures come out of the database, and the same input always gives the same bytes."""

from __future__ import annotations

from decimal import Decimal

import pytest

from stream_apps.replay.verify import read_results, replay_topics
from tests.system.system_lab import (
    BTC,
    LTC,
    PLACE,
    Kills,
    Lab,
    Reference,
    assert_same_tables,
    contents,
    copy_inputs,
    query,
    repeated_ids,
    settings_of,
    sound,
    table_contents,
    wait_until,
)

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

# What copy_inputs does not bring along: no input of the engine.
COPIED = ["agg_trades", "depth", "quotes", "funding", "instruments", "strategies", "progress"]
DERIVED = ["features", "bars", "scores", "signals", "labels", "worker_progress", "orders", "fills", "positions", "trades_closed"]


def test_the_golden_figures_come_out_of_the_database(reference: Reference) -> None:
    """Published figures of btcusdt_20240808 (deploy/demo/data/PROVENANCE.md), in exact decimals: doubles print the venue's decimal."""
    trades = query(
        reference.settings,
        "SELECT sum(last_trade_id - first_trade_id + 1), sum(quantity::text::numeric) FILTER (WHERE NOT buyer_is_maker),"
        " sum(quantity::text::numeric) FILTER (WHERE buyer_is_maker), max(quantity) FROM agg_trades WHERE instrument = 'BINANCE:BTCUSDT-PERP'",
    )
    count, buy, sell, _ = trades[0]
    assert (count, buy, sell, buy - sell) == (21_313, Decimal("1251.576"), Decimal("1177.790"), Decimal("73.786"))
    prices = "SELECT price FROM agg_trades WHERE instrument = 'BINANCE:BTCUSDT-PERP' ORDER BY agg_id {} LIMIT 1"
    assert query(reference.settings, prices.format("ASC")) == [(61800.30,)]
    assert query(reference.settings, prices.format("DESC")) == [(61659.80,)]
    # Trades are consecutive: no id is missing or covered twice.
    assert query(
        reference.settings,
        "SELECT count(*) FROM (SELECT first_trade_id - lag(last_trade_id) OVER (ORDER BY agg_id) AS step FROM agg_trades"
        " WHERE instrument = 'BINANCE:BTCUSDT-PERP') AS steps WHERE step <> 1",
    ) == [(0,)]


def test_the_last_book_equals_the_last_quote(reference: Reference) -> None:
    """Two independent streams of the recording: the book rebuilt from snapshot and diffs, and the venue's own best prices."""
    book = query(
        reference.settings,
        "SELECT bid_prices[1], bid_quantities[1], ask_prices[1], ask_quantities[1], state FROM depth"
        " WHERE instrument = 'BINANCE:BTCUSDT-PERP' ORDER BY last_update_id DESC, kafka_offset DESC LIMIT 1",
    )
    quote = query(
        reference.settings,
        "SELECT bid_price, bid_quantity, ask_price, ask_quantity FROM quotes WHERE instrument = 'BINANCE:BTCUSDT-PERP'"
        " ORDER BY update_id DESC LIMIT 1",
    )
    assert quote == [(61659.70, 1.486, 61659.80, 0.981)]
    assert book == [(*quote[0], "live")]


def test_nothing_is_missing_refused_or_doubled(reference: Reference) -> None:
    for table in ("gaps", "dead_letters"):
        assert query(reference.settings, f"SELECT count(*) FROM {table}") == [(0,)]
    assert repeated_ids(reference.settings) == {}
    # There is something in every result, or equal hashes would say nothing.
    counts = {topic: reference.contents[topic].total() for topic in ("features", "bars", "scores", "signals", "fills")}
    assert min(counts.values()) > 10 and reference.contents["trades_closed"].total() > 5, counts
    # Every LTC trade of the recording, by id ranges; a group ends at a hole in the recorded ids.
    assert query(
        reference.settings,
        "SELECT sum(last_trade_id - first_trade_id + 1), count(DISTINCT agg_id) - count(*) FROM agg_trades WHERE instrument = 'BINANCE:LTCUSDT'",
    ) == [(53_325, 0)]


def test_the_database_holds_exactly_what_the_topics_hold(reference: Reference) -> None:
    """No row was lost or doubled between Kafka and the tables."""
    written = read_results(reference.settings)
    assert {topic: reference.contents[topic].total() for topic in written.records} == written.counts()


def test_replay_in_process_gives_the_same_bytes(reference: Reference) -> None:
    report = replay_topics(reference.settings)
    assert report.differences == [], "\n".join(map(str, report.differences[:5]))
    assert report.results.hashes() == reference.hashes


@pytest.mark.parametrize(
    "workers, kills",
    [
        pytest.param(3, 2, id="three workers, one killed and started again"),
        pytest.param(3, 0, id="three workers", marks=pytest.mark.long),
        pytest.param(1, 2, id="a worker killed and started again", marks=pytest.mark.long),
    ],
)
def test_the_same_topics_give_the_same_bytes(lab: Lab, reference: Reference, workers: int, kills: int) -> None:
    with lab.environment() as variables, lab.pipeline([], workers=workers, environment=variables, strategies=False) as pipeline:
        settings = settings_of(variables)
        assert copy_inputs(reference.settings, settings) > 100_000
        pipeline.start_services()
        if kills:
            Kills(pipeline, seed=kills, longest=1.0, at_work=lambda: pipeline.progress.counts()["features"] > 0).run({"worker-1": kills})
        wait_until(lambda: pipeline.progress.evaluated() and pipeline.progress.executed() and pipeline.progress.written(), pipeline, 120)
        results = read_results(settings)
        assert sound(results) == reference.hashes
        starts = [pipeline.services[f"worker-{number}"].starts for number in range(1, workers + 1)]
        assert starts == [1 + kills] + [1] * (workers - 1)
        pipeline.stop()
        found = contents(settings)
        assert_same_tables(found, reference.contents, COPIED + DERIVED)
        steps = [table_contents(one, "worker_progress", PLACE | {"signals_offset"}) for one in (settings, reference.settings)]
        assert steps[0] == steps[1]  # of the same log the cuts are the same too
        assert repeated_ids(settings) == {}


# In CI the runs whose parts are killed show the same on the way: they play at their own speeds too, and end as this reference (test_system_kills).
@pytest.mark.long
def test_the_same_recordings_at_another_speed_give_the_same_bytes(lab: Lab, reference: Reference) -> None:
    """345 s in 25 s, and 12 hours in about as long, against both as fast as they can be read."""
    with lab.pipeline([BTC, LTC], speeds={"BTCUSDT": "14", "LTCUSDT": "1800"}, partitions=4) as pipeline:
        pipeline.start()
        pipeline.run_to_the_end(200)
        pipeline.stop()
        assert sound(read_results(pipeline.settings)) == reference.hashes
        assert_same_tables(contents(pipeline.settings), reference.contents)
