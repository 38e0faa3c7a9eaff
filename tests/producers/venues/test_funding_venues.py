"""Lighter and GRVT: what the payload files cannot show (subscriptions, histories, the schedule through time)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from producers.grvt.adapter import TICKER, Grvt
from producers.lighter.adapter import STATS, Lighter
from producers.lighter.mapping import hours_between, settled
from producers.venue.adapter.base import MappingError, Market
from producers.venue.state.funding_schedule import HOUR_MS, FundingSchedule, Rule

HOUR = 1_763_532_000_000  # 2025-11-19 06:00 UTC


class Asked:
    """Answers in order; keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, Any]] = []

    async def get(self, path: str, weight: int = 1, **params: Any) -> Any:
        self.requests.append((path, params))
        return self.answers.pop(0)

    async def post(self, path: str, body: Any, weight: int = 1) -> Any:
        self.requests.append((path, body))
        return self.answers.pop(0)


def market(symbol: str, instrument: str, **extra: Any) -> Market:
    return Market(symbol, instrument, {"instrument": instrument}, extra)


def test_lighter_asks_once_for_all_markets_and_answers_the_servers_pings():
    adapter = Lighter()
    (plan,) = adapter.plans("ws://x", [("ETH", STATS), ("BTC", STATS)])
    assert plan.url == "ws://x/stream" and len(plan.streams) == 2
    assert [json.loads(text) for text in plan.opening] == [{"type": "subscribe", "channel": "market_stats/all"}]
    assert adapter.plans("ws://x", []) == []
    assert adapter.heartbeat is not None and json.loads(adapter.heartbeat.text) == {"type": "pong"} and adapter.heartbeat.every_s < 60


def test_lighter_learns_the_numbers_of_its_markets_from_their_list():
    adapter = Lighter()
    row = {
        "symbol": "1000PEPE", "market_id": 4, "status": "active", "supported_price_decimals": 6, "supported_size_decimals": 0, "min_quote_amount": "10.0",
    }  # fmt: skip
    facts = asyncio.run(adapter.facts(Asked({"code": 200, "order_book_details": [row, {"symbol": "BAD"}, None]}), "me"))  # type: ignore[arg-type]
    assert list(facts) == ["1000PEPE"] and facts["1000PEPE"].record["base_asset"] == "PEPE"
    frame = b'{"type":"update/market_stats","channel":"market_stats:4","market_stats":{"market_id":4,"mark_price":"0.01"}}'
    assert [part.stream for part in adapter.split(frame, HOUR)] == ["market_stats:1000PEPE"]


def test_lighters_next_time_is_the_next_full_hour_through_a_day_of_a_raw_time_that_is_the_last_settlement():
    adapter, eth = Lighter(), market("ETH", "LIGHTER:ETH-PERP")
    common = FundingSchedule(Rule(**adapter.schedule_rule() or {}), 1)
    for minute in range(0, 24 * 60, 7):
        now = HOUR + minute * 60_000
        raw = now // HOUR_MS * HOUR_MS + 4  # the settlement of this hour, as the audit saw it
        ((_, record),) = adapter.take(STATS, (now, {"market_id": 0, "current_funding_rate": "0.0012", "funding_timestamp": raw}), eth, now)
        assert isinstance(record, dict)
        for said in (record, common.apply(record)):
            assert said["next_funding_time"] == (now // HOUR_MS + 1) * HOUR_MS
            assert (said["schedule_source"], said["interval_hours"]) == ("rule", 1)


def test_lighters_settlements_have_the_sign_of_who_paid():
    rows = [
        {"timestamp": HOUR // 1000 + 3600, "value": "0.1", "rate": "0.0107", "direction": "short"},
        {"timestamp": HOUR // 1000, "value": "0.1", "rate": "0.0012", "direction": "long"},
        {"timestamp": HOUR // 1000 - 3600, "value": "0.1", "rate": "0.0012", "direction": "long"},
    ]
    rest = Asked({"code": 200, "fundings": rows})
    found = asyncio.run(Lighter().history(rest, market("ETH", "x", market_id=0), HOUR, HOUR + 2 * HOUR_MS))  # type: ignore[arg-type]
    assert [(topic, record["event_time"], record["settled_rate"]) for topic, record in found] == [
        ("funding", HOUR, 0.000012), ("funding", HOUR + HOUR_MS, -0.000107),
    ]  # fmt: skip
    asked = {
        "market_id": 0, "resolution": "1h", "start_timestamp": HOUR // 1000, "end_timestamp": HOUR // 1000 + 7200, "count_back": 3,
    }  # fmt: skip
    assert rest.requests == [("/api/v1/fundings", asked)]
    assert asyncio.run(Lighter().history(Asked(), market("ETH", "x"), HOUR, HOUR)) == []  # type: ignore[arg-type]
    with pytest.raises(MappingError, match="direction"):
        settled({"timestamp": 1, "rate": "0.1", "direction": "up"}, HOUR)
    with pytest.raises(MappingError, match="seconds"):
        settled({"timestamp": HOUR, "rate": "0.1", "direction": "long"}, HOUR)
    assert [hours_between(HOUR, HOUR), hours_between(HOUR + 1, HOUR + 1), hours_between(HOUR, HOUR + HOUR_MS)] == [1, 0, 2]


def test_settlements_are_said_once_each_as_they_come():
    """Of both venues: a day at first; what comes later from the newest on; lighter is not asked before its next hour has come."""
    rows = [{"timestamp": (HOUR + n * HOUR_MS) // 1000, "rate": "0.0012", "direction": "long"} for n in range(3)]
    lighter, (poll,), eth = (
        Asked(*({"code": 200, "fundings": rows[:n]} for n in (2, 2, 3))),
        Lighter().polls(),
        market("ETH", "x", market_id=0),
    )
    said = [asyncio.run(poll.fetch(lighter, [eth], HOUR + minutes * 60_000)) for minutes in (61, 70, 119, 120, 121)]  # type: ignore[arg-type]
    assert [[(symbol, record["event_time"]) for symbol, _, record in found] for found in said] == [
        [("ETH", HOUR), ("ETH", HOUR + HOUR_MS)], [], [], [], [("ETH", HOUR + 2 * HOUR_MS)],
    ]  # fmt: skip
    assert [asked["count_back"] for _, asked in lighter.requests] == [24, 1, 1] and poll.topic == "funding"

    times = [HOUR * 1_000_000, (HOUR + 8 * HOUR_MS) * 1_000_000]
    settled_rows = [{"instrument": "BTC_USDT_Perp", "funding_rate": "0.01", "funding_time": str(time)} for time in times]
    grvt, (poll,), btc = Asked(*({"result": settled_rows[:n]} for n in (1, 1, 2))), Grvt().polls(), market("BTC_USDT_Perp", "x")
    said = [asyncio.run(poll.fetch(grvt, [btc], HOUR + hours * HOUR_MS)) for hours in (1, 2, 9)]  # type: ignore[arg-type]
    assert [[record["event_time"] for _, _, record in found] for found in said] == [[HOUR], [], [HOUR + 8 * HOUR_MS]]
    assert [asked["start_time"] for _, asked in grvt.requests][1:] == [f"{HOUR + 1}000000"] * 2


def test_grvt_subscribes_in_batches_and_spreads_over_connections():
    adapter = Grvt()
    wanted = [(f"X{number}_USDT_Perp", TICKER) for number in range(130)]
    plans = adapter.plans("wss://x", wanted)
    assert [(plan.url, len(plan.streams), len(plan.opening)) for plan in plans] == [("wss://x/ws/full", 100, 4), ("wss://x/ws/full", 30, 2)]
    said = [selector for plan in plans for text in plan.opening for selector in json.loads(text)["params"]["selectors"]]
    assert said == [f"X{number}_USDT_Perp@500" for number in range(130)]
    assert {json.loads(text)["params"]["stream"] for plan in plans for text in plan.opening} == {"v1.ticker.s"}


def test_grvts_boundaries_stand_in_until_a_ticker_says_when():
    adapter, btc = Grvt(), market("BTC_USDT_Perp", "GRVT:BTC_USDT_Perp-PERP")
    common = FundingSchedule(Rule(**adapter.schedule_rule() or {}), 8)

    def heard(at: int, **fields: Any) -> tuple[int, int, str]:
        feed = {"event_time": str(at * 1_000_000), "instrument": "BTC_USDT_Perp", "mark_price": "1.5", **fields}
        ((_, record),) = adapter.take(TICKER, feed, btc, at)
        assert isinstance(record, dict)
        said = common.apply(record)
        return said["next_funding_time"], said["interval_hours"], said["schedule_source"]

    eight = HOUR // (8 * HOUR_MS) * (8 * HOUR_MS) + 8 * HOUR_MS
    assert heard(HOUR) == (eight, 8, "rule")
    assert heard(HOUR + 1000, next_funding_time=str((eight - 4 * HOUR_MS) * 1_000_000), funding_interval_hours=4) != (eight, 8, "rule")
    assert heard(HOUR + 2000, next_funding_time=str(eight * 1_000_000)) == (eight, 4, "venue")
    assert heard(eight + 1) == (eight + 4 * HOUR_MS, 4, "venue")


def test_grvts_settlements_are_percentage_points_at_nanoseconds():
    rows = [
        {
            "instrument": "BTC_USDT_Perp",
            "funding_rate": "-0.0035",
            "funding_time": str((HOUR + 8 * HOUR_MS) * 1_000_000),
            "mark_price": "87439.4",
        },
        {"instrument": "BTC_USDT_Perp", "funding_rate": "0.01", "funding_time": str(HOUR * 1_000_000)},
        {"instrument": "BTC_USDT_Perp", "funding_rate": "x", "funding_time": str(HOUR * 1_000_000)},
        {"instrument": "BTC_USDT_Perp", "funding_rate": "0.01", "funding_time": str((HOUR - 1) * 1_000_000)},
    ]
    rest = Asked({"result": rows, "next": ""})
    found = asyncio.run(Grvt().history(rest, market("BTC_USDT_Perp", "x"), HOUR, HOUR + 10 * HOUR_MS))  # type: ignore[arg-type]
    assert [(record["event_time"], record["settled_rate"], record["mark_price"]) for _, record in found] == [
        (HOUR, 0.0001, None), (HOUR + 8 * HOUR_MS, -0.000035, 87439.4),
    ]  # fmt: skip
    assert rest.requests[0][1]["start_time"] == f"{HOUR}000000"
