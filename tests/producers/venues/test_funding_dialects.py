"""Lighter and GRVT, of which the product follows the state of contracts: simulated venue, adapter, shared producer, real sockets, a real broker.

The truth is what the simulator's engine knew before any dialect put it into words: every mark and open interest that it made.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from typing import Any

import aiohttp
import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from producers.simulated.dialects.lighter import market_id
from producers.simulated.market.generated import Making
from producers.simulated.market.market import Market
from producers.simulated.recording.events import INTEREST, MARK, Event
from producers.simulated.recording.recording import Recording
from producers.simulated.venue import RecordedVenue
from schemas.settings import Settings
from tests.producers.simulated.dialect_readers import FUNDING_READERS
from tests.producers.venue.venue_runs import Run, run, shorten
from tests.support.markets.recorded_client import BTC_2023, DATA, get, head

NAMES = list(FUNDING_READERS)
KINDS = ("markPrice", "openInterest")
HOUR_MS = 3_600_000


class Truth:
    """What the engine's markets knew after each message, by symbol: (time, mark, index, rate, next, open interest in quote units)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: dict[str, list[tuple[Any, ...]]] = {}
        take = Market.take

        def noting(market: Market, event: Event) -> None:
            take(market, event)
            if market.listed and event.kind in (MARK, INTEREST) and market.mark is not None:
                mark = market.mark
                interest = Decimal(market.interest["openInterest"]) * Decimal(mark["p"]) if market.interest is not None else None
                state = (event.clock, float(mark["p"]), float(mark["i"]), float(mark["r"]), mark["T"], interest)
                self.states.setdefault(market.symbol, []).append(state)

        monkeypatch.setattr(Market, "take", noting)


def marks(found: Run, symbol: str) -> list[dict[str, Any]]:
    return [record for record in found.of("funding", symbol) if record["mark_price"] is not None and record["settled_rate"] is None]


def check_marks(found: Run, truth: Truth, symbol: str) -> list[dict[str, Any]]:
    """Every record that the stream made is the state that the engine had then; what a subscription begins with is the newest state before it."""
    records = marks(found, symbol)
    states = truth.states[symbol]
    known = {state[:5] for state in states}
    opening = 0
    for record in records:
        said = (record["event_time"], *(record[name] for name in ("mark_price", "index_price", "estimated_rate", "next_funding_time")))
        assert record["interval_hours"] == found.markets[symbol].funding_interval_hours
        if said[0] >= states[0][0] and said not in known:
            opening += 1
            # The same figures may have come again since.
            assert any(state[1:5] == said[1:] and 0 <= said[0] - state[0] < 5000 for state in states)
    assert opening <= sum(found.reconnects.values())
    assert [record["event_time"] for record in records] == sorted(record["event_time"] for record in records)
    return records


@pytest.mark.stack
@pytest.mark.parametrize("name", NAMES)
def test_the_states_of_all_contracts_reach_their_topics(
    environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    truth = Truth(monkeypatch)
    found = run(environment, name, {"generated": Making(3, 150.0, 450, kinds=KINDS)}, history_hours=24.0)
    log = found.log
    assert not log["dead_letters"] and not log["agg_trades"] and not log["depth"]
    assert not log["gaps"]  # a cold start: settlements are asked for on and on, and states have no past that could have a hole
    assert "live" in found.states and not {"stale", "invalid"} & set(found.states)
    assert len(found.markets) == 3 == len(log["instruments"])
    for symbol, market in found.markets.items():
        records, states = check_marks(found, truth, symbol), truth.states[symbol]
        heard = {record["event_time"] for record in records}
        if name == "LIGHTER":  # every change is told
            assert {state[0] for state in states} <= heard and len(states) > 100
            assert {record["schedule_source"] for record in records} == {"rule"}
        else:  # one in each half second
            assert {state[0] // 500 for state in states} <= {time // 500 for time in heard} and len(heard) > 4
            assert {record["schedule_source"] for record in records} == {"venue"}
        interests = {state[0]: state[5] for state in states}
        said = [one for one in found.of("market_indicators", symbol) if one["event_time"] in interests]
        assert {"open_interest", "volume_24h"} <= {one["indicator"] for one in said}
        for one in said:
            if one["indicator"] == "open_interest":
                assert one["value"] == pytest.approx(float(interests[one["event_time"]]), rel=1e-9)
        day = market.statistics.day()
        assert day is not None
        volumes = {one["value"] for one in said if one["indicator"] == "volume_24h"}
        assert volumes and all(volume == pytest.approx(day.quote, rel=1e-9) for volume in volumes)
        settled = {(one["event_time"], one["settled_rate"]) for one in found.of("funding", symbol) if one["settled_rate"] is not None}
        assert settled and settled <= {(row["fundingTime"], float(row["fundingRate"])) for row in market.funding}
    assert ("long_short_ratio" in {one["indicator"] for one in log["market_indicators"]}) is (name == "GRVT")
    assert [mark for mark in log["progress"] if mark["author"] == found.producer.author]


@pytest.mark.stack
@pytest.mark.parametrize("name", NAMES)
def test_disconnects_and_garbage_cost_only_themselves(
    environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    truth = Truth(monkeypatch)
    monkeypatch.setattr("producers.venue.network.connection.backoff_delays", lambda *_: iter([0.05] * 100))
    stride, rate, messages = (60, 300.0, 900) if name == "LIGHTER" else (2, 100.0, 900)
    symbol = FUNDING_READERS[name][1]
    faults = [f"garbage:mode=insert,form={form},symbol={symbol},at={2 + number}" for number, form in enumerate(("json", "type", "field"))]
    faults += [f"cut:symbol={symbol},after={stride * 3},times=2"]
    found = run(environment, name, {"generated": Making(2, rate, messages, kinds=KINDS), "faults": faults}, poll_recorded=False)
    assert found.faults == {"garbage": 3, "cut": 2} and sum(found.reconnects.values()) >= 2
    letters = found.log["dead_letters"]
    assert len(letters) == 3 and all(letter["value"] and letter["reason"] for letter in letters)
    down = Counter(gap["instrument"] for gap in found.log["gaps"] if gap["kind"] == "disconnect" and gap["stream"] == "funding")
    assert set(down) == {found.producer.feeds.feeds[one].instrument for one in found.markets}
    for one in found.markets:
        records, states = check_marks(found, truth, one), truth.states[one]
        assert abs(records[-1]["event_time"] - states[-1][0]) <= 500  # it went on to the end
        heard = {record["event_time"] for record in records}
        if one != symbol:
            continue
        good = [state[0] for state in states][:stride]  # before the first cut: the garbage took no good message with it
        missed = [time for time in good if time not in heard] if name == "LIGHTER" else []
        assert not missed


@pytest.mark.stack
@pytest.mark.parametrize("name", NAMES)
def test_silence_is_alarmed_within_the_limit(environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The connection has no other stream: the alarm makes it anew, and what a subscription begins with ends a silence of five seconds early."""
    shorten(monkeypatch, name, 0.8, "funding")
    monkeypatch.setattr("producers.venue.network.connection.backoff_delays", lambda *_: iter([0.05] * 100))
    at, length = (150, 500) if name == "LIGHTER" else (3, 10)
    making = Making(1, 100.0, 700, kinds=KINDS)
    found = run(environment, name, {"generated": making, "faults": [f"silence:stream=ticker,at={at},n={length}"]}, poll_recorded=False)
    assert found.faults["silence"] >= length // 2 and sum(found.reconnects.values()) >= 2
    told = [gap for gap in found.log["gaps"] if gap["stream"] == "funding"]
    assert len(told) >= 2 and not any(gap["certain"] for gap in told)
    assert all(gap["to_time"] - gap["from_time"] < 3000 for gap in told)
    heard = [record["event_time"] for record in marks(found, next(iter(found.markets)))]
    assert max(after - before for before, after in pairwise(heard)) < 3000


@pytest.mark.stack
@pytest.mark.parametrize("name", NAMES)
def test_contracts_come_and_go_without_a_restart(environment: Settings, topics: list[str], name: str) -> None:
    spelled = {"LIGHTER": "{}", "GRVT": "{}_USDT_Perp"}[name].format
    faults = [f"list={spelled('NEW')}@1", f"delist={spelled('SOL')}@2"]
    making = Making(3, 150.0, 900, kinds=KINDS)
    found = run(environment, name, {"generated": making, "faults": faults}, refresh_s=0.4, poll_recorded=False)
    states: dict[str, list[str]] = {}
    for record in found.log["instruments"]:
        states.setdefault(record["symbol"], []).append(record["status"])
    assert states[spelled("SOL")] == ["trading", "closed"] and states[spelled("NEW")][0] == "trading"
    assert set(states) == {spelled(base) for base in ("BTC", "ETH", "SOL", "NEW")}
    assert len(marks(found, spelled("NEW"))) > 3 and "stale" not in found.states and not found.log["dead_letters"]


@pytest.mark.parametrize("name", NAMES)
def test_a_client_of_the_venues_documents_hears_what_the_engine_knew(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A second reader, of a few lines: also when a stream is asked for again, and no other contract is heard."""
    truth = Truth(monkeypatch)

    async def work() -> None:
        kind, symbol = FUNDING_READERS[name]
        reader: Any = kind(symbol)
        async with (
            RecordedVenue(venue=name, generated=Making(2, 200.0, 400, kinds=KINDS), settle_s=0.1) as serving,
            connect(serving.ws_url + kind.path, compression=None) as socket,
        ):
            for text in reader.subscribe():
                await socket.send(text)
            try:
                async for frame in socket:
                    reader.take(str(frame))
            except ConnectionClosed:
                pass
            assert not reader.refused and reader.gaps == 0
            heard = [(time, float(mark), float(index), float(rate), until) for time, mark, index, rate, _, until in reader.marks]
            states = truth.states[symbol]
            assert {one for one in heard if one[0] >= states[0][0]} <= {state[:5] for state in states}
            every = {state[0] if name == "LIGHTER" else state[0] // 500 for state in states}
            assert every <= {one[0] if name == "LIGHTER" else one[0] // 500 for one in heard}
            interest = {state[0]: state[5] for state in states}
            assert all(float(one[4]) == pytest.approx(float(interest[one[0]])) for one in reader.marks if one[0] in interest)

    asyncio.run(asyncio.wait_for(work(), 60))


def shape(value: Any) -> Any:
    """Return the fields of a message and their JSON types."""
    return {name: shape(one) for name, one in value.items()} if isinstance(value, dict) else type(value).__name__


def test_frames_and_rows_have_the_fields_and_types_of_the_documents() -> None:
    """Against payloads that others collected: every field that they show is there, as the same JSON type."""

    def documents(name: str, file: str) -> list[dict[str, Any]]:
        return list(orjson.loads((DATA / "venues" / name.lower() / file).read_bytes())["cases"])

    async def first(name: str, path: str, opening: str, wanted: str) -> dict[str, Any]:
        async with (
            RecordedVenue(venue=name, generated=Making(2, 100.0, kinds=KINDS), settle_s=0.05) as serving,
            connect(serving.ws_url + path, compression=None) as socket,
        ):
            await socket.send(opening)
            while True:
                frame: dict[str, Any] = orjson.loads(await socket.recv())
                if wanted in frame:
                    return frame

    async def rows(name: str, path: str, body: Any) -> Any:
        async with RecordedVenue(venue=name, generated=Making(2, 100.0)) as serving:
            if body is None:
                return (await get(serving.rest_url + path))[1]
            async with aiohttp.ClientSession() as client, client.post(serving.rest_url + path, json=body) as answer:
                return await answer.json()

    async def work() -> None:
        opening = '{"type":"subscribe","channel":"market_stats/all"}'
        lighter = await first("LIGHTER", "/stream", opening, "market_stats")
        shown = documents("LIGHTER", "market_stats.json")[0]["frame"]
        (row, *_) = lighter.pop("market_stats").values()
        assert shape(shown["market_stats"]["0"]).items() <= shape(row).items()
        assert shape({**shown, "market_stats": 0}).items() <= shape({**lighter, "market_stats": 0}).items()
        reader = FUNDING_READERS["GRVT"][0]("BTC_USDT_Perp")
        grvt = await first("GRVT", "/ws/full", reader.subscribe()[0], "feed")
        shown = documents("GRVT", "ticker.json")[0]["frame"]
        assert shape(shown.pop("feed")).items() <= shape(grvt.pop("feed")).items() and shape(shown).items() <= shape(grvt).items()
        answer = await rows("LIGHTER", "/api/v1/orderBookDetails", None)
        shown = documents("LIGHTER", "rest.json")[1]["answers"][0]["answer"]["order_book_details"][0]
        assert shape(shown).items() <= shape(answer["order_book_details"][0]).items()
        answer = await rows("GRVT", "/full/v1/all_instruments", {"is_active": True})
        shown = documents("GRVT", "rest.json")[1]["answers"][0]["answer"]["result"][0]
        assert shape(shown).items() <= shape(answer["result"][0]).items()

    asyncio.run(asyncio.wait_for(work(), 60))


def test_one_market_by_its_number_and_refusals_and_limits() -> None:
    async def work() -> None:
        making = Making(2, 200.0, kinds=KINDS)
        async with RecordedVenue(venue="LIGHTER", generated=making, settle_s=0.05) as serving:
            number = market_id(serving.markets["ETH"])
            async with connect(serving.ws_url + "/stream", compression=None) as socket:
                text = orjson.dumps({"type": "subscribe", "channel": f"market_stats/{number}"}).decode()
                await socket.send(text)
                for kind in ("subscribed/market_stats", "update/market_stats"):
                    message = orjson.loads(await socket.recv())
                    assert (message["type"], message["channel"], message["market_stats"]["symbol"]) == (
                        kind,
                        f"market_stats:{number}",
                        "ETH",
                    )
                await socket.send(text)
                while "error" not in message:
                    message = orjson.loads(await socket.recv())
                assert message["error"]["message"].startswith("Already Subscribed")
            now = serving.now()
            path = f"/api/v1/fundings?market_id={number}&resolution=1h&start_timestamp={now // 1000 - 4 * 3600}&end_timestamp={now // 1000}&count_back="
            status, answer, _ = await get(serving.rest_url + path + "3")
            rows = serving.markets["ETH"].settled(None, None)[-3:]
            assert status == 200 and [one["timestamp"] * 1000 for one in answer["fundings"]] == [row["fundingTime"] for row in rows]
            assert (await get(f"{serving.rest_url}/api/v1/fundings?market_id=1&resolution=1h"))[0] == 400
            for _ in range(60):
                status, answer, headers = await get(serving.rest_url + "/")
            assert (status, answer["code"]) == (429, 23000) and int(headers["Retry-After"]) > 0
        async with RecordedVenue(venue="GRVT", generated=making, settle_s=0.05) as serving, aiohttp.ClientSession() as client:
            async with client.post(serving.rest_url + "/full/v1/ticker", json={"instrument": "NOPE"}) as refused:
                assert (refused.status, (await refused.json())["code"]) == (400, 2020)
            asked = {"instrument": "BTC_USDT_Perp", "limit": 2}
            async with client.post(serving.rest_url + "/full/v1/funding", json=asked) as answered:
                times = [int(row["funding_time"]) // 10**6 for row in (await answered.json())["result"]]
            assert times == [row["fundingTime"] for row in reversed(serving.markets["BTC_USDT_Perp"].settled(None, None)[-2:])]

    asyncio.run(asyncio.wait_for(work(), 60))


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_says_its_marks_in_either_dialect(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, name: str) -> None:
    """A recording of Binance has marks and no open interest, which is then left out."""
    truth = Truth(monkeypatch)

    async def work() -> None:
        kind, symbol = FUNDING_READERS[name]
        recording = Recording(head(BTC_2023, 20_000, tmp_path / "btcusdt"), "BTCUSDT")
        heard: list[Any] = []
        async with (
            RecordedVenue([recording], venue=name, speed=None, settle_s=0.1) as serving,
            connect(serving.ws_url + kind.path, compression=None) as socket,
        ):
            for text in kind(symbol).subscribe():
                await socket.send(text)
            async for frame in socket:
                message = orjson.loads(frame)
                heard += [message["feed"]] if "feed" in message else list(message.get("market_stats", {}).values())
        assert symbol in truth.states and len(heard) >= len({state[0] // 500 for state in truth.states[symbol]}) > 3
        assert not any("open_interest" in row for row in heard)
        assert {float(row["mark_price"]) for row in heard} <= {state[1] for state in truth.states[symbol]}

    asyncio.run(asyncio.wait_for(work(), 60))
