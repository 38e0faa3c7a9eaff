"""A venue that drops, cuts, delays, doubles, reorders, leaves gaps, talks garbage, falls silent and refuses REST: through the whole pipeline."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import pytest

from deploy.demo.pipeline.pipeline import Pipeline, RecordedFeed
from schemas.settings import Settings
from tests.support.paths import RECORDINGS
from tests.system.system_lab import (
    PLACE,
    Contents,
    Lab,
    capture_slice,
    instants,
    metric,
    query,
    repeated_ids,
    table_contents,
    venue_url,
)

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

CAPTURE = RECORDINGS / "binance_usdm_raw" / "btcusdt_20230405.gz"
SECONDS = 75.0
SPEED = "10"
# Venues that play at the same time: more would only wait for each other on a small machine.
TOGETHER = 4

# Name of the symbol -> faults of its venue. PLAIN has none: it is what the others are compared with.
FAULTS = {
    "PLAIN": [],
    # Not the first one: a producer without a past begins with what it hears first.
    "DROPTRADES": ["drop:stream=aggTrade,rate=0.02,at=1"],
    "DROPBOOK": ["drop:stream=depth,at=600,n=2", "drop:stream=bookTicker,rate=0.02", "drop:stream=markPrice,rate=0.1"],
    "CUTTRADES": ["cut:after=400,times=2,route=market"],
    "CUTBOOK": ["cut:after=3000,route=public"],
    "DELAY": ["delay:stream=aggTrade,at=300,ms=2000", "delay:stream=bookTicker,at=2000,ms=1500", "delay:stream=depth,at=400,ms=800"],
    "DOUBLE": ["duplicate:rate=0.05"],
    "REORDER": ["reorder:stream=aggTrade,rate=0.02", "reorder:stream=bookTicker,rate=0.02", "reorder:stream=depth,at=500"],
    "GAP": ["gap:stream=aggTrade,at=400,n=60", "gap:stream=depth,at=700,n=20"],
    "GARBAGE": [
        "garbage:stream=depth,at=300,n=6,form=any",
        "garbage:stream=bookTicker,at=1000,n=12,form=any",
        "garbage:stream=markPrice@1s,at=20,n=4,form=any",
        "garbage:stream=aggTrade,at=350,n=5,form=any",
    ],
    "SILENCE": [
        "silence:stream=aggTrade,at=300,ms=20000",
        "silence:stream=depth,at=500,ms=20000",
        "silence:stream=bookTicker,at=900,ms=20000",
    ],
    "LIMITED": ["rest:429,n=3", "gap:stream=aggTrade,at=400,n=30", "rest:429,n=2,path=aggTrades"],
    "BANNED": ["rest:418,n=2", "gap:stream=aggTrade,at=400,n=30", "rest:418,n=1,path=aggTrades"],
}
# Nothing tells that a quiet stream has lost something or that a message is on its way: instants fire without it, and what comes after is late.
# The instants that this may concern lie so many ms of venue time apart.
LATE = {"SILENCE": 30_000, "DELAY": 15_000}
# Marks wait for a lost connection for some seconds: on a machine so busy that opening it anew takes longer, what it missed is late too.
LATE_WHEN_BUSY = {"CUTTRADES": 30_000}
FAULTY = [name for name in FAULTS if name != "PLAIN"]


@dataclass
class Outcome:
    """What became of a run of all venues.

    Attributes:
        applied: Symbol -> kind -> times that its venue misbehaved.
        refused: Symbol -> the producer's counter of dead letters, as last seen.
    """

    settings: Settings
    applied: dict[str, dict[str, int]] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)

    def trades(self, name: str) -> Counter[str]:
        """Return the trades of a symbol, whichever way they came."""
        ignored = PLACE | {"receive_time", "backfilled", "instrument"}
        return table_contents(self.settings, "agg_trades", ignored, instrument_of(name))

    def panes(self, name: str) -> list[tuple[int, float, int, int]]:
        """Return (instant in ms UTC, price of the newest trade, trades of the pane, trades so far that came too late for theirs), by of time."""
        statement = (
            "SELECT (extract(epoch FROM event_time) * 1000)::bigint, price, pane_trades, late_trades FROM features WHERE instrument = %s"
        )
        return [(row[0], row[1], row[2], row[3]) for row in query(self.settings, f"{statement} ORDER BY 1", instrument_of(name))]

    def bars(self, name: str) -> Counter[str]:
        """Return the bars of a symbol: what all trades of a time make together."""
        return table_contents(self.settings, "bars", PLACE | {"instrument"}, instrument_of(name))

    def market_data(self, name: str) -> Contents:
        """Return the market data of a symbol."""
        ignored = PLACE | {"receive_time", "instrument"}
        return {
            table: table_contents(self.settings, table, ignored, instrument_of(name))
            for table in ("agg_trades", "depth", "quotes", "funding")
        }

    def gaps(self, name: str) -> list[tuple[str, str, bool]]:
        """Return (stream, kind, repaired) of the gap rows of a symbol, in order."""
        statement = "SELECT stream, kind, repaired FROM gaps WHERE instrument = %s ORDER BY kafka_offset"
        return [(stream, kind, repaired) for stream, kind, repaired in query(self.settings, statement, instrument_of(name))]

    def last_book(self, name: str) -> tuple[object, ...]:
        """Return the last depth row of a symbol."""
        statement = "SELECT event_time, state, last_update_id, bid_prices, bid_quantities, ask_prices, ask_quantities FROM depth"
        return query(self.settings, f"{statement} WHERE instrument = %s ORDER BY kafka_offset DESC LIMIT 1", instrument_of(name))[0]


def instrument_of(name: str) -> str:
    """Return the instrument of a symbol of FAULTS."""
    return f"BINANCE:{name}USDT-PERP"


def _watch(playing: list[RecordedFeed], outcome: Outcome) -> None:
    for played in playing:
        name = played.recording.symbol.removesuffix("USDT")
        with urllib.request.urlopen(f"{venue_url(played)}/control/status", timeout=5) as answer:
            outcome.applied[name] = json.loads(answer.read())["faults_applied"]
        with contextlib.suppress(OSError, HTTPException):  # it may have ended meanwhile
            assert played.producer is not None
            outcome.refused[name] = metric(played.producer, "perpflow_dead_letters_total")


def _play(pipeline: Pipeline, names: list[str], folder: Path, outcome: Outcome) -> None:
    """Play some symbols side by side, each with its faults, to their end."""
    playing = [pipeline.add_venue(capture_slice(CAPTURE, folder / f"{name}.gz", f"{name}USDT", SECONDS), FAULTS[name]) for name in names]
    for played in playing:
        pipeline.start_producer(played)
    deadline = time.monotonic() + 90
    while not all(played.producer is not None and played.producer.finished for played in playing):
        assert pipeline.supervise() == [], "a part of the pipeline died"
        assert time.monotonic() < deadline, [played.producer.log_tail() for played in playing if played.producer]
        _watch(playing, outcome)
        time.sleep(0.2)
    _watch(playing, outcome)
    for played in playing:
        played.venue.stop()


@pytest.fixture(scope="module")
def outcome(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """All venues through one pipeline: what any of them does must not stop the others either."""
    folder = tmp_path_factory.mktemp("slices")
    with lab.environment() as variables:
        variables["PERPFLOW_BAN_WAIT_S"] = "1"  # a real ban lasts minutes
        with lab.pipeline([], environment=variables) as pipeline:
            pipeline.speed = SPEED
            pipeline.start_services()
            found = Outcome(pipeline.settings)
            names = list(FAULTS)
            for start in range(0, len(names), TOGETHER):
                _play(pipeline, names[start : start + TOGETHER], folder, found)
            pipeline.run_to_the_end(120)
            pipeline.stop()
            yield found


@pytest.mark.parametrize("name", FAULTY)
def test_every_trade_is_there_once_and_instants_go_on_to_the_end(outcome: Outcome, name: str) -> None:
    applied = outcome.applied[name]
    assert {fault.partition(":")[0] for fault in FAULTS[name]} == set(applied), "the venue did not misbehave as told"
    plain = outcome.trades("PLAIN")
    assert plain.total() > 1000 and outcome.trades(name) == plain
    times = instants(outcome.settings, instrument_of("PLAIN"))
    assert instants(outcome.settings, instrument_of(name)) == times
    panes, expected = outcome.panes(name), outcome.panes("PLAIN")
    if name not in LATE and (panes == expected or name not in LATE_WHEN_BUSY):
        assert panes == expected
        assert outcome.bars(name) == outcome.bars("PLAIN")
        return
    # Instants fired without them, were told of them later, and everything counts once.
    late_in_the_end = panes[-1][3]
    assert late_in_the_end > 0
    assert sum(own for _, _, own, _ in panes) + late_in_the_end == sum(own for _, _, own, _ in expected)
    disturbed = [one[0] for one, other in zip(panes, expected, strict=True) if one[:3] != other[:3]]
    assert disturbed[-1] - disturbed[0] <= (LATE | LATE_WHEN_BUSY)[name], "before and after the fault all is as if there had been none"


def test_no_record_is_there_twice(outcome: Outcome) -> None:
    assert repeated_ids(outcome.settings) == {}


def test_the_plain_venue_left_no_gap_and_no_dead_letter(outcome: Outcome) -> None:
    assert outcome.gaps("PLAIN") == []
    assert query(outcome.settings, "SELECT count(*) FROM dead_letters WHERE instrument = %s", instrument_of("PLAIN")) == [(0,)]
    times = instants(outcome.settings, instrument_of("PLAIN"))
    assert len(times) >= SECONDS // 15 and times == list(range(times[0], times[-1] + 1, 15_000))
    last = "SELECT extract(epoch FROM max(event_time)) * 1000 FROM agg_trades WHERE instrument = %s"
    assert times[-1] >= query(outcome.settings, last, instrument_of("PLAIN"))[0][0]
    assert outcome.bars("PLAIN").total() > 0


def test_doubles_leave_no_trace(outcome: Outcome) -> None:
    assert outcome.applied["DOUBLE"]["duplicate"] > 100
    assert outcome.market_data("DOUBLE") == outcome.market_data("PLAIN")
    assert outcome.gaps("DOUBLE") == []


@pytest.mark.parametrize("name", ["DROPTRADES", "GAP", "SILENCE", "CUTTRADES", "LIMITED", "BANNED"])
def test_holes_in_trades_are_noted_and_mended(outcome: Outcome, name: str) -> None:
    rows = [row for row in outcome.gaps(name) if row[0] == "agg_trades"]
    assert rows and all(kind == "id_gap" for _, kind, _ in rows)
    # The last word on every hole is that it is mended; before it there may be one that says that it is not yet.
    holes = query(
        outcome.settings,
        "SELECT bool_or(repaired) FROM gaps WHERE instrument = %s AND stream = 'agg_trades' GROUP BY from_id, to_id",
        instrument_of(name),
    )
    assert all(mended for (mended,) in holes)
    backfilled = query(outcome.settings, "SELECT count(*) FROM agg_trades WHERE instrument = %s AND backfilled", instrument_of(name))
    assert backfilled[0][0] > 0


@pytest.mark.parametrize("name", ["DROPBOOK", "GAP", "SILENCE", "CUTBOOK", "REORDER"])
def test_a_broken_book_is_noted_and_right_again_at_the_end(outcome: Outcome, name: str) -> None:
    rows = [row for row in outcome.gaps(name) if row[0] == "depth"]
    assert ("depth", "sequence_gap", False) in rows
    assert rows[-1] == ("depth", "sequence_gap", True)
    invalid = "SELECT count(*) FROM depth WHERE instrument = %s AND state = 'invalid'"
    assert query(outcome.settings, invalid, instrument_of(name))[0][0] > 0
    assert outcome.last_book(name)[1] == "live"
    assert outcome.last_book(name) == outcome.last_book("PLAIN")


def test_what_may_be_missing_after_a_cut_is_noted(outcome: Outcome) -> None:
    """Streams without ids cannot tell what was missed; the row says so instead of nothing."""
    assert outcome.applied["CUTTRADES"]["cut"] == 2 and outcome.applied["CUTBOOK"]["cut"] == 1
    assert ("funding", "disconnect", False) in outcome.gaps("CUTTRADES")
    assert ("quotes", "disconnect", False) in outcome.gaps("CUTBOOK")


def test_garbage_is_kept_with_its_bytes_and_counted(outcome: Outcome) -> None:
    sent = outcome.applied["GARBAGE"]["garbage"]
    rows = query(
        outcome.settings, "SELECT value, reason, service, source FROM dead_letters WHERE source LIKE '%garbageusdt%' OR source = 'frame'"
    )
    assert sent == 27 and len(rows) == sent
    assert all(value and reason and service == "produce-binance" for value, reason, service, _ in rows)
    # Each is the frame as it came: its stream is in it, and it is no market data.
    assert all(b'{"stream":"garbageusdt@' in bytes(value) for value, *_ in rows)
    assert outcome.refused["GARBAGE"] == sent
    assert query(outcome.settings, "SELECT count(*) FROM dead_letters") == [(sent,)], "nobody else refused anything"
