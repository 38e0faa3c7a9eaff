"""The live stream on a real broker and a real server: what is in the topics is what clients get."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from typing import Any

import httpx
import pytest

from schemas import metrics
from schemas.process.service import summed
from schemas.settings import Settings
from sinks.console.live.live import LiveOptions
from tests.sinks.console.live.live_lab import BTC, ETH, LTC, T0, Server, greeted, in_topic, instrument, produce, record, trade, until

pytestmark = pytest.mark.stack
MINUTE = 60_000


def signals(first: int, last: int, name: str = BTC) -> list[dict[str, Any]]:
    return [
        record("signals", signal_id=f"{name}|s|{number}", instrument=name, event_time=T0 + number * 15_000, score=number + 0.5)
        for number in range(first, last)
    ]


def test_events_of_all_clients_equal_the_topics(environment: Settings, topics: list[str]) -> None:
    """Two clients of all instruments and one of ETH, against a consumer of its own; each record once, in the order of its partition."""
    with Server(environment) as server, greeted(server, "signals,orders") as one, greeted(server, "signals:*,orders") as two:
        with greeted(server, f"signals:{ETH}") as eth:
            for begin in range(0, 60, 20):
                for name in (BTC, ETH, LTC):
                    produce(environment, "signals", *signals(begin, begin + 20, name))
                produce(environment, "orders", *(record("orders", order_id=f"o{n}", status="new") for n in range(begin, begin + 20)))
            until("all events", lambda: all(len(browser.of("signals")) >= 180 for browser in (one, two)), 30)
            until("all orders", lambda: len(one.of("orders")) >= 60, 30)
        truth = in_topic(environment, "signals")
        for browser in (one, two, eth):
            mine = [record for record in truth if browser is not eth or record["instrument"] == ETH]
            got = browser.of("signals")
            for name in (BTC, ETH, LTC):
                expected = [(r["signal_id"], r["score"], r["event_time"]) for r in mine if r["instrument"] == name]
                assert [(r["signal_id"], r["score"], r["event_time_ms"]) for r in got if r["instrument"] == name] == expected
        assert [one["order_id"] for one in two.of("orders")] == [f"o{n}" for n in range(60)]
        assert one.of("signals")[0]["event_time"] == "2024-09-10T20:27:00.000Z"


def test_candles_and_cvd_are_the_exact_sums_of_the_trades(environment: Settings, topics: list[str]) -> None:
    """A plain Decimal sum of the topic is the truth: for trades before the client came, and after; the worker's bar then holds."""
    produce(environment, "instruments", instrument(), instrument(ETH))
    chance = random.Random(1)
    tape = [
        trade(n, T0 + 1 + n * 371, round(60_000 + chance.uniform(-50, 50), 1), chance.randint(1, 900) / 1000, chance.random() < 0.5)
        for n in range(400)
    ]
    produce(environment, "agg_trades", *tape[:250], trade(1, T0 + 5, 3000.0, 1.0, instrument=ETH))
    with Server(environment) as server, greeted(server, f"candles:{BTC}:1m,candles:{BTC}:5m,cvd:{BTC}") as browser:
        until("the first trades", lambda: bool(browser.of("cvd")))
        produce(environment, "agg_trades", tape[249], *tape[250:])  # one of them a second time
        until("the last trade", lambda: browser.of("cvd")[-1]["time_ms"] == tape[-1]["event_time"])
        until("its candle", lambda: any(c["timeframe"] == "1m" and c["candles"][-1]["trades"] for c in browser.of("candles")[-2:]))
        until("all of them", lambda: newest(browser, "1m")["trades"] == len(of_minute(tape, tape[-1])))
        minute, mine = newest(browser, "1m"), of_minute(tape, tape[-1])
        assert (minute["open"], minute["close"]) == (mine[0]["price"], mine[-1]["price"])
        assert (minute["high"], minute["low"]) == (max(t["price"] for t in mine), min(t["price"] for t in mine))
        assert Decimal(str(minute["volume"])) == sum(Decimal(str(t["quantity"])) for t in mine)
        assert Decimal(str(minute["cvd"])) == delta(mine)
        assert not minute["partial"] and not minute["closed"]
        last = browser.of("cvd")[-1]
        since = [t for t in tape if t["event_time"] > last["since_ms"]]
        assert Decimal(str(last["total"])) == delta(since) and len(since) > 100
        assert Decimal(str(last["minute_cvd"])) == delta(mine) and last["price"] == tape[-1]["price"]

        start = minute["start_ms"]
        produce(
            environment,
            "bars",
            record(
                "bars", event_time=start, timeframe="1m", open=1.0, high=2.0, low=0.5, close=1.5, volume=9.5, cvd=-1.25, source="trades"
            ),
        )
        until("the worker's bar", lambda: previous(browser)["volume"] == 9.5)
        assert previous(browser) == {
            "start_ms": start - MINUTE, "end_ms": start, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 9.5, "cvd": -1.25,
            "trades": 1, "closed": True, "partial": False,
        }  # fmt: skip


def newest(browser: Any, timeframe: str) -> dict[str, Any]:
    found: dict[str, Any] = [c for c in browser.of("candles") if c["timeframe"] == timeframe][-1]["candles"][-1]
    return found


def previous(browser: Any) -> dict[str, Any]:
    found: dict[str, Any] = [c for c in browser.of("candles") if c["timeframe"] == "1m"][-1]["candles"][-2]
    return found


def of_minute(tape: list[dict[str, Any]], last: dict[str, Any]) -> list[dict[str, Any]]:
    begin = (last["event_time"] - 1) // MINUTE
    return [one for one in tape if (one["event_time"] - 1) // MINUTE == begin]


def delta(trades: list[dict[str, Any]]) -> Decimal:
    return sum((Decimal(str(t["quantity"])) * (-1 if t["buyer_is_maker"] else 1) for t in trades), Decimal(0))


def test_states_of_a_client_end_as_the_newest_records(environment: Settings, topics: list[str]) -> None:
    with Server(environment) as server:
        channels = f"books:{BTC},quotes:{ETH},scores:*,scores:{BTC}:b,features:{ETH},funding,positions,risk,risk_events,health"
        with greeted(server, channels) as browser:
            produce(environment, "depth", *(
                record("depth", event_time=T0 + n, last_update_id=n, state="live", bid_prices=[10.0, 9.0], bid_quantities=[n + 0.5, 2.0],
                       ask_prices=[11.0], ask_quantities=[3.0]) for n in range(300)
            ))  # fmt: skip
            produce(
                environment,
                "quotes",
                *(record("quotes", instrument=ETH, update_id=n, bid_price=n + 0.0, ask_price=n + 2.0) for n in range(300)),
            )
            scores = [record("scores", score_id=f"{s}{n}", strategy_id=s, score=n + 0.0, event_time=T0 + n) for n in range(5) for s in "ab"]
            produce(environment, "scores", *scores)
            produce(environment, "features", record("features", instrument=ETH, obi=0.25), record("features", instrument=BTC, obi=1.0))
            position = {"instrument": ETH, "position_id": "p1", "direction": "SHORT", "entry_price": 310.0, "open_quantity": 2.0}
            produce(
                environment,
                "positions",
                record("positions", status="open", realised_pnl=4.0, risk_amount=10.0, risk_multiple=2.0, **position),
            )
            produce(environment, "positions", record("positions", position_id="p0", status="closed"))
            produce(
                environment,
                "funding",
                record("funding", instrument=LTC, mark_price=61.5),
                record("funding", instrument=LTC, estimated_rate=1e-4),
            )
            state = {"account": "BINANCE-paper", "block_entries": False, "close_all": False}
            produce(environment, "risk_state", record("risk_state", sequence=1, state="normal", **state))
            produce(environment, "risk_state", record("risk_state", sequence=2, state="normal", **state))
            produce(environment, "risk_state", record("risk_state", sequence=3, state="halted", **state))
            until("the book", lambda: bool(browser.of("books")) and browser.of("books")[-1]["last_update_id"] == 299)
            assert browser.of("books")[-1]["bids"] == [[10.0, 299.5], [9.0, 2.0]] and browser.of("books")[-1]["asks"] == [[11.0, 3.0]]
            until("the quote", lambda: browser.of("quotes")[-1]["ask_price"] == 301.0)
            until("the scores", lambda: {s["strategy_id"]: s["score"] for s in browser.of("scores")} == {"a": 4.0, "b": 4.0})
            until("the features", lambda: [f["obi"] for f in browser.of("features")] == [0.25])
            until("the value", lambda: bool(browser.of("positions")) and browser.of("positions")[-1]["price"] == 300.0)
            value = browser.of("positions")[-1]
            assert (value["price_source"], value["unrealised_pnl"], value["r"]) == ("mid", 20.0, 24.0 / 20.0)
            until("both rates", lambda: bool(browser.of("funding")) and browser.of("funding")[-1]["estimated_rate"] == 1e-4)
            assert browser.of("funding")[-1]["mark_price"] == 61.5
            until("the guard", lambda: browser.of("risk")[-1]["sequence"] == 3)
            until("its change", lambda: [(e["kind"], e["state"]) for e in browser.of("risk_events")] == [("state", "halted")])
            assert "memory" not in browser.of("risk")[-1]
            assert browser.of("health")[-1]["kafka"] == "ok"
            with greeted(server, "positions,scores:*") as later:
                until("what is known already", lambda: {s["score"] for s in later.of("scores")} == {4.0} and bool(later.of("positions")))
            produce(environment, "positions", record("positions", status="closed", realised_pnl=24.0, **position))
            until("the end", lambda: browser.of("positions")[-1]["status"] == "closed")
            with greeted(server, "positions,signals") as later:
                produce(environment, "signals", *signals(0, 1))
                until("a later event", lambda: bool(later.of("signals")))
                assert not later.of("positions")  # ended positions are no news for a new client


def test_a_record_that_cannot_be_read_is_counted_and_costs_nothing_else(environment: Settings, topics: list[str]) -> None:
    bad = (b"garbage", environment.codec.header("signals") + b"\xff\xff", b"")
    before = {topic: summed(metrics.CONSOLE_REFUSED, topic=topic) for topic in ("signals", "agg_trades", "positions")}
    with Server(environment) as server, greeted(server, f"signals,candles:{BTC}:1m,positions") as browser:
        for number, one in enumerate(bad):
            produce(environment, "signals", one, *signals(number, number + 1))
            produce(environment, "agg_trades", one, trade(number, T0 + 1 + number, 100.0 + number, 1.0))
            produce(environment, "positions", one, record("positions", position_id=f"p{number}", status="open", entry_price=1.0))
        until("the signals", lambda: [one["score"] for one in browser.of("signals")] == [0.5, 1.5, 2.5])
        until("the candle", lambda: bool(browser.of("candles")) and newest(browser, "1m")["trades"] == 3)
        until("the positions", lambda: {one["position_id"] for one in browser.of("positions")} == {"p0", "p1", "p2"})
    for topic, count in before.items():
        assert summed(metrics.CONSOLE_REFUSED, topic=topic) - count == 3, topic


@pytest.mark.parametrize(
    ("channels", "reason"),
    [
        ("prices", "no channel has this name"),
        ("", ""),
        ("signals,", "an empty channel"),
        (f"candles:{BTC}", "timeframe: expected one of"),
        (f"candles:{BTC}:15M", "timeframe: expected one of"),
        ("candles:*", "expected candles:VENUE:SYMBOL:TIMEFRAME"),
        ("books:BTCUSDT", "expected books:VENUE:SYMBOL"),
        ("books:BINANCE:NOTHING", "no known quote asset"),
        (f"books:{BTC}:x", "expected books:VENUE:SYMBOL"),
        ("risk:BINANCE:BTCUSDT", "selects no instrument"),
        (",".join(f"scores:{BTC}:s{n}" for n in range(5)), "at most 4"),
    ],
)
def test_a_channel_that_cannot_be_selected_is_named_with_its_reason(environment: Settings, channels: str, reason: str) -> None:
    with Server(environment, LiveOptions(channels=4)) as server:
        answer = httpx.get(server.url(channels))
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert answer.json()["errors"][0]["field"] == "query.channels" and reason in answer.json()["errors"][0]["reason"]


def test_more_clients_than_the_limit_are_refused_until_one_leaves(environment: Settings, topics: list[str]) -> None:
    before = summed(metrics.CONSOLE_TURNED_AWAY)
    with Server(environment, LiveOptions(clients=2)) as server, greeted(server, "signals"):
        with greeted(server, "signals"):
            refused = httpx.get(server.url("signals"))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert refused.json()["detail"] == "2 live streams are open, which is the limit"
        until("one has left", lambda: server.live.health()["clients"] == 1)
        with greeted(server, "signals") as again:
            assert again.of("hello")
    assert summed(metrics.CONSOLE_TURNED_AWAY) - before == 1
    assert Counter() == Counter(name for name, _ in again.events if name == "reset")
