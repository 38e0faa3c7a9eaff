"""Every venue end to end: its simulated protocol on real sockets, its adapter, the shared producer, a real broker.

The simulator and the adapters were written from the venues' documents apart from each other; what the simulator's markets hold is the truth.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import pairwise, repeat
from typing import Any

import pytest

from producers.simulated.market.generated import Making
from producers.simulated.recording.recording import Recording
from producers.simulated.venue import RecordedVenue
from producers.venues import adapter_of
from schemas import metrics
from schemas.settings import Settings
from tests.producers.venue.venue_runs import VENUES, WITHOUT, Run, check_trades, run, shorten, turnover
from tests.support.markets.recorded_client import BTC_2024, head

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("name", VENUES)
def test_every_stream_of_a_venue_reaches_its_topic(environment: Settings, topics: list[str], name: str) -> None:
    found = run(environment, name, {"generated": Making(3, 2000.0, 5000)})
    log = found.log
    assert not log["dead_letters"] and not log["gaps"]
    assert "live" in found.states and not {"stale", "invalid"} & set(found.states)
    without = WITHOUT.get(name, set())
    assert len(found.markets) == 3
    for symbol, market in found.markets.items():
        check_trades(found, symbol)
        for topic in ("depth", "quotes", "funding", "liquidations"):
            records = found.of(topic, symbol)
            assert bool(records) is (topic not in without) or topic == "liquidations", topic
            assert all(record["receive_time"] >= record["event_time"] - 1000 for record in records)
        assert market.quote is not None
        best = tuple(float(market.quote[field]) for field in ("b", "B", "a", "A"))
        last = found.of("quotes", symbol)[-1]
        if name != "COINBASE":  # whose quotes come with trades
            assert (last["bid_price"], last["bid_quantity"], last["ask_price"], last["ask_quantity"]) == pytest.approx(best)
        assert last["bid_price"] < last["ask_price"]
        if "depth" not in without:
            book = found.of("depth", symbol)
            assert {record["state"] for record in book} == {"live"} and {record["epoch"] for record in book} == {1}
            for record in book:
                assert record["bid_prices"] == sorted(record["bid_prices"], reverse=True)
                assert record["ask_prices"] == sorted(record["ask_prices"])
                assert record["bid_prices"][0] < record["ask_prices"][0]
        if "funding" not in without:
            newest = [record for record in found.of("funding", symbol) if record["mark_price"] is not None][-1]
            assert market.mark is not None and newest["mark_price"] == pytest.approx(float(market.mark["p"]), rel=1e-3)
            schedule = [record for record in found.of("funding", symbol) if record["next_funding_time"] is not None]
            assert schedule and all(record["next_funding_time"] > record["event_time"] for record in schedule)
            assert {record["interval_hours"] for record in schedule} <= {1, 2, 4, 8}
    # Asked for symbol by symbol: a short run may end before all had their turn.
    assert "funding" in without or any(record["settled_rate"] is not None for record in log["funding"])
    assert name in ("COINBASE", "BINANCE_SPOT") or "open_interest" in {record["indicator"] for record in log["market_indicators"]}
    sides = Counter(record["side"] for record in log["liquidations"])
    assert "liquidations" in without or set(sides) == {"LONG", "SHORT"}
    facts = {record["instrument"]: record for record in log["instruments"]}
    assert len(facts) == 3 and all(record["recorded"] or record["venue"] for record in facts.values())
    # The marks say that all of it is there.
    marks = [mark for mark in log["progress"] if mark["author"] == found.producer.author]
    assert marks and max(mark["event_time"] for mark in marks) >= max(record["event_time"] for record in log["agg_trades"])


@pytest.mark.parametrize("name", [name for name in VENUES if name != "COINBASE"])
def test_the_recorded_book_in_every_protocol(environment: Settings, topics: list[str], tmp_path: Any, name: str) -> None:
    """Diffs and best quotes are two streams of the recording: the book rebuilt from one ends where the other says."""
    recording = Recording(head(BTC_2024, 9_000, tmp_path / "btcusdt"), "BTCUSDT", "spot" if name == "BINANCE_SPOT" else "perp")
    found = run(environment, name, {"recordings": [recording], "speed": None}, streams="agg_trades,depth,quotes", poll_recorded=False)
    (symbol,) = found.markets
    assert not found.log["dead_letters"] and not found.log["gaps"]
    check_trades(found, symbol)
    quotes, books = found.of("quotes", symbol), found.of("depth", symbol)
    assert len(books) > 50 and len(quotes) > 100
    by_price = {(quote["bid_price"], quote["ask_price"]) for quote in quotes}
    # The streams are cut at different moments; nearly every best price of the book was once the best quote.
    agree = sum((book["bid_prices"][0], book["ask_prices"][0]) in by_price for book in books)
    assert agree >= 0.95 * len(books)


# Faults by what a stream carries; ``at`` counts messages of each symbol's stream.
def menu(gaps: int, cuts: int, garbage: int, silence: int) -> list[str]:
    found = [f"gap:stream=trades,at={60 + 40 * number},n=5" for number in range(gaps)]
    found += [f"gap:stream=depth,at={50 + 45 * number},n=3" for number in range(gaps)]
    found += [f"cut:after=900,times={cuts}"]
    found += [f"garbage:mode=insert,at={30 + 11 * number},n=1" for number in range(garbage)]
    found += [f"duplicate:stream=trades,at={45 + 60 * number},n=2" for number in range(gaps)]
    found += [f"silence:stream=quotes,at={40},n={silence}"]
    return found


def check_faults(found: Run, name: str) -> None:
    """No wrong book, every trade that the venue still serves, every hole told."""
    log = found.log
    without = WITHOUT.get(name, set())
    adapter = found.producer.adapter
    anew = 0
    assert log["dead_letters"] and all(letter["value"] and letter["reason"] for letter in log["dead_letters"])
    for symbol in found.markets:
        records = found.of("agg_trades", symbol)
        ids = [record["agg_id"] for record in records]
        assert len(set(ids)) == len(ids), "doubled"
        if adapter.consecutive_ids:
            assert sorted(ids) == list(range(min(ids), max(ids) + 1)), "lost"
            check_trades(found, symbol)
            # What came over REST was missing on the stream: a gap row says so, but for what the end of the stream cut off.
            told = [(gap["from_id"], gap["to_id"]) for gap in found.of("gaps", symbol) if gap["from_id"] is not None]
            last = max(one["agg_id"] for one in records if not one["backfilled"])
            mended = [one["agg_id"] for one in records if one["backfilled"] and one["agg_id"] < last]
            assert all(any(first <= number <= end for first, end in told) for number in mended), "a hole that no gap row tells"
        if "depth" not in without:
            books = found.of("depth", symbol)
            epochs = [record["epoch"] for record in books]
            assert epochs == sorted(epochs)
            if adapter.book_mode != "full":
                begun = [before["state"] for before, after in pairwise(books) if after["epoch"] != before["epoch"]]
                anew += begun.count("live")
            for record in books:
                if record["state"] == "live":
                    assert record["bid_prices"][0] < record["ask_prices"][0]
    # Between a break and the new epoch nothing is live; a venue may begin a live book anew of itself, which breaks nothing.
    assert anew <= (found.resyncs if adapter.book_mode == "stream" else 0)
    gaps = Counter((gap["stream"], gap["kind"]) for gap in log["gaps"])
    if adapter.consecutive_ids:
        assert gaps["agg_trades", "id_gap"] > 0
    if "depth" not in without and adapter.book_mode != "full":
        assert gaps["depth", "sequence_gap"] + gaps["depth", "checksum"] > 0
    assert any(kind == "disconnect" for _, kind in gaps)
    if adapter.consecutive_ids:
        holes = [gap for gap in log["gaps"] if gap["stream"] == "agg_trades"]
        mended = {(gap["instrument"], gap["from_id"], gap["to_id"]) for gap in holes if gap["repaired"]}
        # What was mended only later was noted as open first, and as mended then.
        assert {(gap["instrument"], gap["from_id"], gap["to_id"]) for gap in holes} == mended


@pytest.mark.parametrize("name", VENUES)
def test_faults_of_every_venue(environment: Settings, topics: list[str], name: str) -> None:
    started = time.monotonic()
    making = Making(2, 1500.0, 6000)
    found = run(environment, name, {"generated": making, "faults": menu(4, 2, 25, 200)}, rest_hold_s=2.0)
    check_faults(found, name)
    assert time.monotonic() - started < 50


@pytest.mark.parametrize("name", ["BINANCE", "BYBIT", "OKX", "COINBASE"])
def test_rotation_under_load_loses_and_doubles_nothing(environment: Settings, topics: list[str], name: str) -> None:
    found = run(environment, name, {"generated": Making(2, 2000.0, 12_000)}, rotate_after_s=1.5, overlap_s=1.0, poll_recorded=False)
    assert sum(found.reconnects.values()) >= 2 and set(found.reconnects) == {"rotation"}
    assert not found.log["dead_letters"] and not found.log["gaps"]
    for symbol in found.markets:
        check_trades(found, symbol)
        times = [quote["event_time"] for quote in found.of("quotes", symbol)]
        assert times == sorted(times)
        books = [record for record in found.of("depth", symbol)]
        assert {record["state"] for record in books} <= {"live"}
        ids = [(record["epoch"], record["last_update_id"]) for record in books]
        assert len(set(ids)) == len(ids)


def test_a_named_contract_that_is_delisted_is_closed_and_the_others_go_on(environment: Settings, topics: list[str]) -> None:
    """Bybit leaves it out of its list: the name that the user gave is no error then."""
    options = {"generated": Making(2, 600.0, 2400), "faults": ["delist=ETHUSDT@1"]}
    found = run(environment, "BYBIT", options, symbols="BTCUSDT,ETHUSDT", refresh_s=0.3, poll_recorded=False)
    assert [record["status"] for record in found.log["instruments"] if record["symbol"] == "ETHUSDT"] == ["trading", "closed"]
    assert [record["status"] for record in found.log["instruments"] if record["symbol"] == "BTCUSDT"] == ["trading"]
    check_trades(found, "BTCUSDT")


def test_listings_and_delistings_are_followed_without_a_restart(environment: Settings, topics: list[str]) -> None:
    faults = ["list=NEWUSDT@1", "delist=SOLUSDT@2"]
    found = run(environment, "BYBIT", {"generated": Making(3, 800.0, 4800), "faults": faults}, refresh_s=0.4, poll_recorded=False)
    states: dict[str, list[str]] = {}
    for record in found.log["instruments"]:
        states.setdefault(record["symbol"], []).append(record["status"])
    assert states["SOLUSDT"] == ["trading", "closed"] and states["NEWUSDT"][0] == "trading"
    assert set(states) == {"BTCUSDT", "ETHUSDT", "SOLUSDT", "NEWUSDT"}
    news = [record for record in found.log["agg_trades"] if record["instrument"] == "BYBIT:NEWUSDT-PERP"]
    check_trades(found, "NEWUSDT")
    assert len(news) > 10 and not found.log["dead_letters"]
    assert "closed" in found.states and "stale" not in found.states  # a contract that is gone is not silent
    partitions = {mark["cut"].get("agg_trades") is not None for mark in found.log["progress"]}
    assert partitions == {True}


def test_the_busiest_are_chosen(environment: Settings, topics: list[str]) -> None:
    found = run(environment, "OKX", {"generated": Making(6, 600.0, 900)}, symbols="top:2", poll_recorded=False)
    volumes = {symbol: turnover(market) for symbol, market in found.markets.items()}
    busiest = sorted(volumes, key=lambda symbol: -volumes[symbol])[:2]
    assert {record["symbol"] for record in found.log["instruments"]} == set(busiest)


def test_a_producer_that_is_behind_thins_out_books_and_quotes_and_nothing_else(environment: Settings, topics: list[str]) -> None:
    before = metrics.CONFLATED.labels("BYBIT", "quotes")._value.get()
    found = run(environment, "BYBIT", {"generated": Making(1, 1500.0, 4500)}, conflate_after_s=0.0001, poll_recorded=False)
    (symbol,) = found.markets
    check_trades(found, symbol)
    quotes, books = found.of("quotes", symbol), found.of("depth", symbol)
    assert 4 < len(quotes) < 60 and 4 < len(books) < 60  # three seconds, four a second, and what was not behind
    assert found.producer.feeds.thinned > 300
    assert metrics.CONFLATED.labels("BYBIT", "quotes")._value.get() - before > 300


@pytest.mark.parametrize("name", ["BINANCE", "BYBIT", "HYPERLIQUID"])
def test_a_silent_stream_is_alarmed_within_its_limit(
    environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The moment of the alarm is measured."""
    shorten(monkeypatch, name, 0.6)
    faults = ["silence:stream=quotes,at=60,n=300"]
    found = run(environment, name, {"generated": Making(1, 1000.0, 6000), "faults": faults}, poll_recorded=False)
    assert "stale" in found.states and found.alarm_s is not None
    assert found.alarm_s < 0.6  # a round of the watch, and what a busy machine adds
    assert any(gap["stream"] == "quotes" and gap["kind"] == "silence" and not gap["certain"] for gap in found.log["gaps"])


@pytest.mark.long
@pytest.mark.parametrize("name", VENUES)
def test_two_hundred_gaps_fifty_disconnects_twenty_silences_a_thousand_broken_frames(
    environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shorten(monkeypatch, name, 0.4)
    # Fifty outages in minutes would else be waited for for half an hour.
    monkeypatch.setattr("producers.venue.network.connection.backoff_delays", lambda *_: repeat(0.3))
    faults = [f"gap:stream=trades,symbol={{symbol}},at={60 + 70 * number},n=5" for number in range(100)]
    faults += [f"gap:stream=depth,at={50 + 100 * number},n=3" for number in range(50)]
    faults += [f"garbage:mode=insert,at={30 + 12 * number},n=1" for number in range(700)]
    # More than are asked for: a silence into which a cut falls ends with the new connection, and is told as a disconnect.
    faults += [f"silence:stream=quotes,at={100 + 600 * number},n=300" for number in range(25)]
    faults += ["cut:after=600,times=80"]
    symbols = list(run_symbols(name))
    plan = [fault.format(symbol=symbol) for fault in faults for symbol in (symbols if "{symbol}" in fault else [""])]
    found = run(
        environment, name, {"generated": Making(2, 1200.0, 130_000), "faults": plan}, limit_s=590, rest_hold_s=2.0, poll_recorded=False
    )
    check_faults(found, name)
    gaps = Counter((gap["stream"], gap["kind"]) for gap in found.log["gaps"])
    print(name, dict(gaps), dict(found.reconnects), found.faults, len(found.log["dead_letters"]), found.alarm_s, found.producer.numbers())
    assert found.faults["gap"] >= 5 * 200 and found.faults["cut"] >= 50 and found.faults["garbage"] >= 1000  # gaps in messages
    assert sum(found.reconnects.values()) >= 50
    assert len(found.log["dead_letters"]) >= 1000
    assert gaps["quotes", "silence"] >= 20
    if adapter_of(name).consecutive_ids:
        assert gaps["agg_trades", "id_gap"] >= 150  # a disconnect swallows some
    assert found.alarm_s is not None and found.alarm_s < 0.6
    # Nothing is left behind in memory.
    producer = found.producer
    assert producer.pipeline.sequencer.held == 0 and producer.out.idle and not producer.gap_repair._tasks
    for feed in producer.feeds.feeds.values():
        assert len(feed.recent) <= 10_000 and not feed.ids.missing and feed.snapshot is None


def run_symbols(name: str) -> list[str]:
    """Return the symbols of a venue's first two made-up markets."""

    async def ask() -> list[str]:
        async with RecordedVenue([], venue=name, generated=Making(2, 1.0)) as venue:
            return list(venue.markets)

    return asyncio.run(ask())
