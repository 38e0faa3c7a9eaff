"""Canonical payloads of every venue become the records written beside them; broken ones are refused and name the field.

The files and their format: ``tests/data/venues/README.md``.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from producers.venue.adapter.base import Adapter, BookDiff, BookSnapshot, Channel, Event, MappingError, Market, RejectedRow
from producers.venue.network.rest import Limiter, Rest, RestError
from schemas.codec.avro import Codec
from tests.support.paths import DATA

PAYLOADS = DATA / "venues"
# The lists of instruments are held by tests/schemas/test_assets.py.
FILES = sorted(path for path in PAYLOADS.glob("*/*.json") if path.stem != "instruments")
GARBAGE: tuple[Any, ...] = (
    None, "", "x", "NaN", "1_0", "-1", "1e999", "Infinity", "9" * 40, -1, 0, 1.5, 10**30, True, [], [None], [[]], {}, {"x": 1},
)  # fmt: skip
codec = Codec()


class File:
    """One file of canonical payloads."""

    def __init__(self, path: Path) -> None:
        self.name = f"{path.parent.name}/{path.stem}"
        self.content: dict[str, Any] = json.loads(path.read_text())
        self.kind: str = self.content["kind"]
        self.cases: list[dict[str, Any]] = self.content["cases"]
        module, _, name = self.content["adapter"].partition(":")
        self.kind_of_adapter: type[Adapter] = getattr(importlib.import_module(module), name)
        self.symbol: str = self.content["symbol"]

    @property
    def adapter(self) -> Adapter:
        """A fresh adapter: no case may lean on what another one taught it."""
        return self.kind_of_adapter()

    def markets(self) -> list[Market]:
        """Return fresh markets, that of ``symbol`` first."""
        return [
            Market(
                entry["symbol"],
                entry["facts"]["instrument"],
                dict(entry["facts"]),
                dict(entry.get("extra", {})),
                dict(entry.get("memory", {})),
            )
            for entry in (self.content, *self.content.get("markets", []))
        ]


LOADED = [File(path) for path in FILES]


def cases(kind: str, *, whole: bool = False) -> list[Any]:
    """Return (file, index of the case) as parameters; ``whole``: only those that can be broken further."""
    return [
        pytest.param(file, index, id=f"{file.name}-{case['name'].replace(' ', '_')}")
        for file in LOADED
        if file.kind == kind
        for index, case in enumerate(file.cases)
        if not whole or not ("error" in case or isinstance(case.get("frame"), str))
    ]


# --- messages ---------------------------------------------------------------------------------------------------------


def raw(frame: Any) -> bytes:
    return frame.encode() if isinstance(frame, str) else json.dumps(frame).encode()


def heard(file: File, market: Market, frame: bytes, received: int) -> tuple[list[tuple[Channel, Event]], list[int], list[str]]:
    """Return the events about the market, the clocks of all parts, and the streams of parts about something else."""
    adapter = file.adapter
    streams = {adapter.wire_name(market.symbol, channel): channel for channel in adapter.channels}
    events: list[tuple[Channel, Event]] = []
    clocks, others = [], []
    for part in adapter.split(frame, received):
        assert type(part.clock) is int
        clocks.append(part.clock)
        channel = streams.get(part.stream)
        if channel is None:
            others.append(part.stream)
        else:
            events += [(channel, event) for event in adapter.take(channel, part.data, market, received)]
    return events, clocks, others


def before(file: File, index: int) -> Market:
    """Return the market as the cases before ``index`` leave it."""
    market = file.markets()[0]
    for case in file.cases[:index]:
        if "memory" in case:
            market.memory = copy.deepcopy(case["memory"])
        if "expect" in case:
            heard(file, market, raw(case["frame"]), case["received"])
    if "memory" in file.cases[index]:
        market.memory = copy.deepcopy(file.cases[index]["memory"])
    return market


def plain(said: Any) -> Any:
    """Return a book as the files write it."""
    if not isinstance(said, BookDiff | BookSnapshot):
        return said
    book = said._asdict()
    for key in ("checksum", "texts"):
        if book[key] is None:
            del book[key]
    if book.get("texts"):
        book["texts"] = {str(price): text for price, text in book["texts"].items()}
    book["bids"], book["asks"] = [list(level) for level in said.bids], [list(level) for level in said.asks]
    return {"book": "diff" if isinstance(said, BookDiff) else "snapshot", **book}


def fits(topic: str, record: Any) -> None:
    """Raise unless a record can be written to its topic."""
    if isinstance(record, BookDiff):
        assert (
            topic == "depth"
            and 0 <= record.time < 2**63
            and all(0 <= value < 2**63 for value in record[1:3])
            and -1 <= record.previous < 2**63
        )
    elif isinstance(record, BookSnapshot):
        assert topic == "depth" and 0 <= record.last < 2**63 and (record.time is None or 0 <= record.time < 2**63)
    else:
        record = dict(record)
        if topic == "agg_trades":
            identity = record.pop("venue_trade_id", "x")
            assert type(identity) is str and identity
        decoded = codec.decode(topic, codec.encode(topic, record))
        assert decoded == {**decoded, **record}


@pytest.mark.parametrize(("file", "index"), cases("frame"))
def test_a_message_becomes_its_records(file: File, index: int) -> None:
    case = file.cases[index]
    market = before(file, index)
    if "error" in case:
        with pytest.raises(MappingError) as caught:
            heard(file, market, raw(case["frame"]), case["received"])
        assert caught.value.field == case["error"]["field"]
        assert caught.value.record == case["error"].get("record", caught.value.record)
        return
    memory = copy.deepcopy(market.memory)
    events, clocks, others = heard(file, market, raw(case["frame"]), case["received"])
    assert [[topic, plain(record)] for _, (topic, record) in events] == case["expect"]
    for _, (topic, record) in events:
        fits(topic, record)
    assert others == case.get("others", [])
    if "clock" in case:
        assert clocks and set(clocks) == {case["clock"]}
    if not isinstance(case["frame"], str):
        market.memory = memory
        again, _, _ = heard(file, market, raw(with_unknown_fields(case["frame"])), case["received"])
        assert again == events, "an unknown field changed what was said"


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every field and element; of long lists the first three elements."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


def with_unknown_fields(value: Any) -> Any:
    if isinstance(value, dict):
        return {"zzNew": {"a": [1]}, **{key: with_unknown_fields(inner) for key, inner in value.items()}, "zzOther": "1"}
    return [with_unknown_fields(inner) for inner in value] if isinstance(value, list) else value


def without(value: Any, path: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return changed


def replaced(value: Any, path: tuple[Any, ...], garbage: Any) -> Any:
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = garbage
    return changed


def mutations(value: Any) -> Iterator[Any]:
    """Yield the value with each field removed and with each field replaced by each kind of garbage."""
    for path in paths(value):
        yield without(value, path)
        for garbage in GARBAGE:
            yield replaced(value, path, garbage)


def steps(path: str) -> tuple[Any, ...]:
    return tuple(int(step) if step.isdigit() else step for step in path.split("."))


@pytest.mark.parametrize(("file", "index"), cases("frame", whole=True))
def test_a_broken_message_is_refused_or_says_less_and_nothing_else(file: File, index: int) -> None:
    case = file.cases[index]
    known = before(file, index).memory
    market = file.markets()[0]
    for frame in mutations(case["frame"]):
        market.memory = copy.deepcopy(known)
        try:
            events, _, _ = heard(file, market, raw(frame), case["received"])
        except MappingError as error:
            assert error.field and error.reason
        else:
            for _, (topic, record) in events:
                fits(topic, record)
    for path in case.get("mandatory", []):
        market.memory = copy.deepcopy(known)
        with pytest.raises(MappingError) as caught:
            heard(file, market, raw(without(case["frame"], steps(path))), case["received"])
        assert caught.value.field == [step for step in path.split(".") if not step.isdigit()][-1], path


@pytest.mark.parametrize("frame", [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"[[1]]", b'{"data":' + b"[" * 5000])
def test_a_frame_that_is_no_message_is_refused(frame: bytes) -> None:
    for adapter in {type(file.adapter): file.adapter for file in LOADED}.values():
        with pytest.raises(MappingError):
            adapter.split(frame, 1_800_000_000_000)


# --- REST -------------------------------------------------------------------------------------------------------------


async def ask(file: File, case: dict[str, Any], rest: Any) -> Any:
    """Do the call of a case; returns its answer as the files write it."""
    adapter, markets, received, args = file.adapter, file.markets(), case.get("received", 0), case.get("args", {})
    call: str = case["call"]
    if call == "server_time":
        return await adapter.server_time(rest)
    if call == "facts":
        found = await adapter.facts(rest, "author")
        return {symbol: {"record": facts.record, "extra": facts.extra} for symbol, facts in found.items()}
    if call == "volumes":
        return await adapter.volumes(rest)
    if call == "snapshot":
        return plain(await adapter.snapshot(rest, file.symbol))
    if call in ("trades_from", "trades_since"):
        given = args["first"] if call == "trades_from" else args["since"]
        found, last = await getattr(adapter, call)(rest, markets[0], given, received)
        for row in found:
            assert not isinstance(row, RejectedRow) or (row.raw and row.error.reason)
        return [[{"refused": row.error.field} if isinstance(row, RejectedRow) else row for row in found], last]
    if call == "klines":
        bars = await adapter.klines(rest, markets[0], args["first"], args["last"], received)
        for row in bars:
            assert not isinstance(row, RejectedRow) or (row.raw and row.error.reason)
        return [{"refused": row.error.field} if isinstance(row, RejectedRow) else row for row in bars]
    if call == "first_trade":
        return await adapter.first_trade(rest, markets[0], args["since"])
    if call == "history":
        return [list(row) for row in await adapter.history(rest, markets[0], args["since"], args["until"])]
    poll = {poll.name: poll for poll in adapter.polls()}[call.removeprefix("poll:")]
    return [list(found) for found in await poll.fetch(rest, markets, received)]


def check_rest_records(call: str, said: Any) -> None:
    """Raise unless every record of an answer fits its topic."""
    if call == "facts":
        for facts in said.values():
            fits("instruments", {**facts["record"], "event_time": 0, "receive_time": 0})
    elif call == "volumes":
        assert all(type(value) is float and 0.0 <= value < float("inf") for value in said.values())
    elif call in ("trades_from", "trades_since"):
        assert type(said[1]) is bool
        for record in said[0]:
            if "refused" not in record:
                fits("agg_trades", record)
    elif call == "klines":
        for record in said:
            if "refused" not in record:
                fits("klines", record)
                assert record["low"] <= min(record["open"], record["close"]) and max(record["open"], record["close"]) <= record["high"]
    elif call == "history":
        for topic, record in said:
            fits(topic, {**record, "instrument": "X:Y-PERP"})
    elif call.startswith("poll:"):
        for _, topic, record in said:
            fits(topic, {**record, "instrument": "X:Y-PERP"})


class Answers:
    """The venue's answers of a case, given to those who ask rightly, each once."""

    def __init__(self, answers: list[dict[str, Any]]) -> None:
        self.waiting = list(answers)

    def to(self, path: str, query: dict[str, str], body: Any) -> Any:
        """Return the answer; raises KeyError when the case has none for this request."""
        for index, answer in enumerate(self.waiting):
            asked = {**query, **(body if isinstance(body, dict) else {})}
            said = {**{key: str(value) for key, value in answer.get("query", {}).items()}, **answer.get("body", {})}
            if answer["path"] == path and said.items() <= asked.items():
                return self.waiting.pop(index)["answer"]
        raise KeyError(f"{path} {query} {body}")


class InProcess:
    """Stands for ``Rest`` where a thousand broken answers are tried: no socket, but the same refusals."""

    def __init__(self, adapter: Adapter, answers: Answers) -> None:
        self._adapter = adapter
        self._answers = answers

    async def get(self, path: str, weight: int = 1, **params: Any) -> Any:
        return self._say(path, {key: str(value) for key, value in params.items()}, None)

    async def post(self, path: str, body: Any, weight: int = 1) -> Any:
        return self._say(path, {}, body)

    def _say(self, path: str, query: dict[str, str], body: Any) -> Any:
        try:
            answer = copy.deepcopy(self._answers.to(path, query, body))
        except KeyError as error:  # a broken cursor asks for what is not there
            raise RestError(f"HTTP 404: {error}") from error
        if (refusal := self._adapter.refusal(answer)) is not None:
            raise RestError(refusal[0])
        return answer


async def over_http(file: File, case: dict[str, Any], answers: Answers) -> Any:
    """Do the call of a case against a server on this machine, through the real client."""

    async def serve(request: web.Request) -> web.Response:
        body = await request.json() if request.method == "POST" else None
        try:
            return web.json_response(answers.to(request.path, dict(request.query), body))
        except KeyError as error:
            return web.Response(status=404, text=f"the case has no answer for {error}")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    limiter = Limiter(f"test-{file.adapter.venue}", file.adapter.limits)
    rest = Rest(file.adapter.venue, f"http://127.0.0.1:{port}", limiter, refusal=file.adapter.refusal, attempts=1)
    try:
        return await ask(file, case, rest)
    finally:
        await rest.close()
        await runner.cleanup()


@pytest.mark.parametrize(("file", "index"), cases("rest"))
def test_an_answer_becomes_its_records(file: File, index: int) -> None:
    case = file.cases[index]
    answers = Answers(case["answers"])
    if "error" in case:
        with pytest.raises((MappingError, RestError)) as caught:
            asyncio.run(over_http(file, case, answers))
        if "rest" in case["error"]:
            assert isinstance(caught.value, RestError) and case["error"]["rest"] in str(caught.value)
        else:
            assert isinstance(caught.value, MappingError) and caught.value.field == case["error"]["field"]
        return
    said = asyncio.run(over_http(file, case, answers))
    assert said == case["expect"]
    assert answers.waiting == [], "not everything was asked for"
    check_rest_records(case["call"], said)
    strange = copy.deepcopy(case["answers"])
    for answer in strange:
        answer["answer"] = with_unknown_fields(answer["answer"])
    if case.get("unknown_fields", True):
        again = asyncio.run(ask(file, case, InProcess(file.adapter, Answers(strange))))
        assert again == said, "an unknown field changed what was said"


@pytest.mark.parametrize(("file", "index"), cases("rest", whole=True))
def test_a_broken_answer_is_refused_or_says_less_and_nothing_else(file: File, index: int) -> None:
    case = file.cases[index]

    async def tried() -> None:
        for which, answer in enumerate(case["answers"]):
            for broken in mutations(answer["answer"]):
                changed = [*case["answers"][:which], {**answer, "answer": broken}, *case["answers"][which + 1 :]]
                try:
                    said = await ask(file, case, InProcess(file.adapter, Answers(changed)))
                except RestError:
                    continue
                except MappingError as error:
                    assert error.field and error.reason
                    continue
                check_rest_records(case["call"], said)
        for path in case.get("mandatory", []):
            which, *rest = steps(path)
            answer = case["answers"][which]
            changed = [
                *case["answers"][:which],
                {**answer, "answer": without(answer["answer"], tuple(rest))},
                *case["answers"][which + 1 :],
            ]
            with pytest.raises(MappingError) as caught:
                await ask(file, case, InProcess(file.adapter, Answers(changed)))
            assert caught.value.field == [step for step in path.split(".") if not step.isdigit()][-1], path

    asyncio.run(tried())


# --- every stream is there ---------------------------------------------------------------------------------------------


def test_every_channel_and_poll_of_every_adapter_has_a_case_that_gives_a_record() -> None:
    assert LOADED
    channels: dict[Adapter, set[str]] = defaultdict(set)
    calls: dict[Adapter, set[str]] = defaultdict(set)
    adapters: dict[type[Adapter], Adapter] = {}
    for file in LOADED:
        adapter = adapters.setdefault(type(file.adapter), file.adapter)
        for index, case in enumerate(file.cases):
            if "expect" not in case:
                continue
            if file.kind == "rest":
                if case["expect"]:
                    calls[adapter].add(case["call"])
            else:
                events, _, _ = heard(file, before(file, index), raw(case["frame"]), case["received"])
                for channel, (topic, _) in events:
                    channels[adapter].add(channel.name)
                    calls[adapter].add(f"{channel.name} gives {topic}")
    for adapter in adapters.values():
        assert channels[adapter] == {channel.name for channel in adapter.channels}, type(adapter)
        for channel in adapter.channels:
            assert f"{channel.name} gives {channel.topic}" in calls[adapter], type(adapter)
        # The premium's poll asks another venue: test_coinbase_reference.py.
        assert {f"poll:{poll.name}" for poll in adapter.polls()} - {"poll:premium"} <= calls[adapter], type(adapter)
        assert {"server_time", "facts", "volumes"} <= calls[adapter], type(adapter)
        assert ("klines" in calls[adapter]) is (adapter.kline_page > 0), type(adapter)
        # An adapter that follows trades knows their past and their bars.
        if any(channel.topic == "agg_trades" for channel in adapter.channels):
            assert (
                adapter.kline_page and ({"trades_from", "first_trade"} if adapter.consecutive_ids else {"trades_since"}) <= calls[adapter]
            )
