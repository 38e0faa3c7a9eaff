"""Each declared fault does what its name says, on messages that only the seed and their place decide."""

from __future__ import annotations

import orjson
import pytest

from producers.simulated.wire.faults import Fault, FaultPlan
from producers.simulated.wire.limits import REFUSALS_BEFORE_BAN, WeightLimiter

NAMES = [f'{{"E":{n},"p":"{n}.0"}}'.encode() for n in range(40)]


def played(*faults: str, seed: int = 1, stream: str = "aggTrade", step_ms: int = 10) -> list[bytes]:
    """Return what a plan makes of forty messages, ``step_ms`` apart."""
    plan = FaultPlan(list(faults), seed)
    sent: list[bytes] = []
    for ordinal, data in enumerate(NAMES):
        clock = ordinal * step_ms
        sent += [held for _, held in plan.due("XUSDT", clock)]
        sent += plan.frames("XUSDT", stream, ordinal, clock, data)
    return sent + [held for _, held in plan.end("XUSDT")]


def numbers(frames: list[bytes]) -> list[int]:
    return [NAMES.index(frame) for frame in frames]


def test_runs_begin_where_they_are_told() -> None:
    assert numbers(played("drop:at=3")) == [n for n in range(40) if n != 3]
    assert numbers(played("drop:at=3,n=2")) == [n for n in range(40) if n not in (3, 4)]
    assert numbers(played("gap:at=5")) == [n for n in range(40) if not 5 <= n < 15]
    assert numbers(played("silence:at=5,n=20")) == [n for n in range(40) if not 5 <= n < 25]
    assert numbers(played("silence:at=5,ms=100")) == [n for n in range(40) if not 5 <= n < 15]
    assert numbers(played("drop:")) == list(range(1, 40))


def test_duplicates_and_swaps_lose_nothing() -> None:
    assert numbers(played("duplicate:at=3")) == [0, 1, 2, 3, 3, *range(4, 40)]
    assert numbers(played("reorder:at=3")) == [0, 1, 2, 4, 3, *range(5, 40)]
    assert numbers(played("reorder:at=39")) == list(range(40))


def test_a_delay_holds_the_stream_in_order() -> None:
    plan = FaultPlan(["delay:at=3,ms=50"], 0)
    now: dict[int, list[int]] = {}
    for ordinal, data in enumerate(NAMES):
        sent = [held for _, held in plan.due("XUSDT", ordinal * 10)] + plan.frames("XUSDT", "aggTrade", ordinal, ordinal * 10, data)
        now[ordinal] = numbers(sent)
    assert [now[n] for n in range(3, 10)] == [[], [], [], [], [], [3, 4, 5, 6, 7, 8], [9]]
    assert numbers(played("delay:at=3,ms=50")) == list(range(40))


def test_garbage_is_broken_in_the_way_asked_for() -> None:
    cut, typed, missing = (played(f"garbage:at=3,form={form}")[3] for form in ("json", "type", "field"))
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(cut)
    assert not isinstance(orjson.loads(typed)["E"], int)
    assert orjson.loads(missing) == {}
    inserted = played("garbage:at=3,mode=insert")
    assert len(inserted) == 41 and inserted[3] not in NAMES and numbers(inserted[:3] + inserted[4:]) == list(range(40))
    forms = {len(frame) for frame in played("garbage:rate=1.0")}
    assert len(forms) > 2  # all three forms come up


def test_hits_are_a_function_of_seed_stream_and_ordinal() -> None:
    hits = numbers(played("drop:rate=0.3"))
    assert hits == numbers(played("drop:rate=0.3")) and 15 < len(hits) < 38
    assert hits != numbers(played("drop:rate=0.3", seed=2))
    assert hits != numbers(played("drop:rate=0.3", stream="bookTicker"))
    one, other = FaultPlan(["drop:rate=0.3"], 1), FaultPlan(["drop:rate=0.3"], 1)
    alone = [bool(one.frames("XUSDT", "aggTrade", n, n, NAMES[n])) for n in range(40)]
    mixed = []
    for n in range(40):  # another stream in between changes nothing
        other.frames("YUSDT", "aggTrade", n, n, NAMES[n])
        mixed.append(bool(other.frames("XUSDT", "aggTrade", n, n, NAMES[n])))
    assert alone == mixed


def test_faults_meet_only_their_stream_and_symbol() -> None:
    whole = list(range(40))
    assert numbers(played("drop:stream=depth,rate=1.0")) == whole
    assert played("drop:stream=depth,rate=1.0", stream="depth@100ms") == []
    assert numbers(played("drop:stream=depth@0ms,rate=1.0", stream="depth@100ms")) == whole
    assert numbers(played("drop:symbol=YUSDT,rate=1.0")) == whole


def test_faults_added_at_run_time_begin_with_the_next_message() -> None:
    plan = FaultPlan()
    assert not plan.active
    assert plan.frames("XUSDT", "aggTrade", 0, 0, NAMES[0]) == [NAMES[0]]
    plan.add(["drop:n=2"])
    assert plan.active
    assert [len(plan.frames("XUSDT", "aggTrade", n, n, NAMES[n])) for n in (1, 2, 3)] == [0, 0, 1]
    assert plan.applied == {"drop": 2}
    plan.clear()
    assert not plan.active


def test_cuts_fall_on_every_so_many_messages_of_a_route() -> None:
    plan = FaultPlan(["cut:after=10,times=2,route=market,code=1001"])
    assert [n for n in range(1, 100) if plan.cut("XUSDT", "market", n)] == [10, 20]
    assert not any(plan.cut("XUSDT", "public", n) for n in range(1, 100))
    plan.add(["cut:after=3,route=public"])
    assert [n for n in range(50, 100) if plan.cut("XUSDT", "public", n)] == [52]


def test_rest_faults_answer_the_next_requests() -> None:
    plan = FaultPlan(["rest:429,n=2,retry_after=7", "rest:418,path=/depth"])
    first = plan.rest("/fapi/v1/time")
    assert first is not None and (first.status, first.retry_after) == (429, 7)
    assert plan.rest("/fapi/v1/time") and plan.rest("/fapi/v1/time") is None
    banned = plan.rest("/fapi/v1/depth")
    assert banned is not None and banned.status == 418 and plan.rest("/fapi/v1/depth") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("explode", "unknown kind"),
        ("drop:rte=1", "no option 'rte'"),
        ("drop:rate=often", "rate: expected float"),
        ("drop:rate=2", "rate: expected 0 to 1"),
        ("gap:n=0", "n: expected 1 or more"),
        ("cut:route=private", "route: expected"),
        ("garbage:form=rhyme", "form: expected"),
        ("rest:200", "status: expected"),
        ("delay:ms=0", "ms: expected"),
        ("snapshot:form=wrong", "form: expected stale or crossed"),
        ("list:s=1", "symbol: is missing"),
        ("delist=XUSDT@soon", "s: expected float"),
        ("list=XUSDT@-1", "s: expected 0 or more"),
    ],
)
def test_a_wrong_fault_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Fault.parse(text)
    plan = FaultPlan()
    with pytest.raises(ValueError, match=problem):
        plan.add(["drop:at=1", text])
    assert plan.faults == []


def test_weights_are_refused_then_banned_and_forgiven() -> None:
    now = [600.0]
    limiter = WeightLimiter(lambda: now[0], limit=100)
    assert [limiter.ask(40).status for _ in range(3)] == [200, 200, 429]
    assert limiter.ask(1).retry_after == 61
    assert {limiter.ask(1).status for _ in range(REFUSALS_BEFORE_BAN)} == {429, 418}
    now[0] = 660.0
    assert limiter.ask(1).status == 418
    now[0] = 721.0
    assert limiter.ask(1) == type(limiter.ask(0))(200, 1)


def test_listings_are_no_faults_of_messages() -> None:
    plan = FaultPlan(["list=XUSDT@1.5", "delist=Y-USDT-SWAP"])
    assert [(one.kind, one.symbol, one.s) for one in plan.listings] == [("list", "XUSDT", 1.5), ("delist", "Y-USDT-SWAP", 0.0)]
    assert not plan.active


def test_a_stream_is_meant_by_any_of_its_names_and_spoiled_in_its_own_fields() -> None:
    plan = FaultPlan(
        ["garbage:stream=trades,form=type,n=2"],
        vital=("ts", "px", "coin"),
        names=lambda stream: (stream, {"trade": "trades"}.get(stream, "")),
    )
    assert plan.frames("X", "books", 0, 0, b'{"px":"1"}') == [b'{"px":"1"}']
    (broken,) = plan.frames("X", "trade", 0, 0, b'{"data":[{"px":"1","sz":"2"}],"ts":3}')
    assert orjson.loads(broken) == {"data": [{"px": ["1"], "sz": "2"}], "ts": {"not": "a time"}}
    assert plan.frames("X", "trade", 1, 0, b'{"coin":"BTC","ctx":1}') == [b'{"ctx":1}']  # without time and price
