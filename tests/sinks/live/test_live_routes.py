"""The routing table re-estimated beside a live executor: from its own trades, written before it holds, kept over restarts, switched off by the policy."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from sinks.executor.journal import FencedError
from sinks.live.rerouter import Rerouter, newest_routes
from stream_apps.core.execution.account.execution_book import ExecutionBook
from stream_apps.core.execution.settings.policy import EntryPolicy, LivePolicy, RoutingPolicy
from stream_apps.core.execution.settings.routes import DEFAULT_ROUTES, route_for
from tests.support.trading.live_lab import ACCOUNT, ROOMY, D, Lab, prepare, wait_for

pytestmark = pytest.mark.stack

OFTEN = RoutingPolicy(every_ms=300)
# What the lab's signals ask for.
NOTIONAL = D(501)


@pytest.fixture
def lab(environment, topics):
    prepare(environment)
    with Lab(environment) as made:
        yield made


def plant(lab: Lab, count: int) -> None:
    """Journal copies of the closed trade of which the last half waited in vain and was filled 10 bps worse."""
    with psycopg.connect(lab.settings.database_url, autocommit=True) as connection:
        ((account, state, over_at),) = connection.execute("SELECT account, state, over_at FROM live_trades").fetchall()
        for number in range(count):
            copy: dict[str, Any] = json.loads(json.dumps(state))
            copy["key"] = f"{copy['key']}-{number}"
            if number >= count // 2:
                copy["entry"]["timed_out"] = 1
                for fill in copy["fills"]:
                    if fill["leg"] == "entry":
                        fill["price"] = str(D(fill["reference"]) * D("1.001"))
            connection.execute(
                "INSERT INTO live_trades (account, trade_key, state, over_at) VALUES (%s, %s, %s, %s)",
                (account, copy["key"], json.dumps(copy), over_at),
            )


def estimations(lab: Lab) -> list[Any]:
    return lab.query("SELECT changed, routes, found FROM live_routes ORDER BY estimated_at")


def waits(executor: Any) -> dict[int, int]:
    return {int(one.from_notional): one.maker_wait_ms for one in executor.book.policy.entry.routes}


def test_costs_move_the_table_once_and_it_holds_after_a_restart(lab):
    policy = LivePolicy(entry=EntryPolicy(style="routed"), budget=ROOMY, routing=OFTEN)
    default = {int(one.from_notional): one.maker_wait_ms for one in DEFAULT_ROUTES}
    with lab.running(replace(policy, entry=EntryPolicy(style="market"))) as executor:
        lab.signal()
        wait_for(lambda: len(lab.stops()) == 1, 30, "protected")
        lab.price(49_700)
        wait_for(lambda: lab.query("SELECT count(*) FROM live_trades WHERE over_at IS NOT NULL") == [(1,)], 30, "stopped out")
        wait_for(lambda: len(estimations(lab)) >= 2, 30, "estimated again and again")
        assert not any(changed for changed, _, _ in estimations(lab)) and waits(executor) == default, "one trade is no statistic"
        lab.price(50_000)
    plant(lab, 40)
    moved = default | {500: 1875}
    with lab.running(policy) as executor:
        # One trade of the 41 ended before: the table is that of its base, and moves by one step of a quarter.
        wait_for(lambda: waits(executor) == moved, 30, "moved")
        known = len(estimations(lab))
        wait_for(lambda: len(estimations(lab)) >= known + 2, 30, "estimated again")
        assert waits(executor) == moved, "the same entries do not move it twice"
        ((_, routes, found),) = [one for one in estimations(lab) if one[0]]
        assert [one["maker_wait_ms"] for one in routes] == list(moved.values())
        (seen,) = [one for one in found if one["from_notional"] == "500"]
        assert seen["entries"] == 41 and "wait less" in seen["why"][0] and seen["timeouts"] == pytest.approx(20 / 41)
        # The next entry waits by it.
        lab.signal()
        wait_for(lambda: lab.query("SELECT 1 FROM live_trades WHERE over_at IS NULL") == [(1,)], 30, "entered")
        entered = next(one for one in lab.journal() if not one.is_over)
        assert entered.entry.wait_ms == route_for(NOTIONAL, executor.book.policy.entry.routes).maker_wait_ms == 1875
        lab.price(49_500)
        wait_for(lambda: lab.query("SELECT count(*) FROM live_trades WHERE over_at IS NULL") == [(0,)], 30, "over")
    # A long period: what holds is what was loaded at the start.
    slow = replace(policy, routing=RoutingPolicy())
    with lab.running(slow) as executor:
        assert waits(executor) == moved
    with lab.running(replace(slow, routing=RoutingPolicy(automatic=False))) as executor:
        assert waits(executor) == default, "switched off, the policy's table holds"
    other = tuple(replace(one, maker_wait_ms=1000) for one in DEFAULT_ROUTES)
    with psycopg.connect(lab.settings.database_url) as connection:
        name = f"{lab.settings.topic_prefix}{ACCOUNT.name}"
        assert newest_routes(connection, name, DEFAULT_ROUTES) is not None and newest_routes(connection, name, other) is None


def test_one_that_lost_the_account_writes_no_table_and_a_database_that_is_away_puts_it_off(lab):
    book = ExecutionBook(ACCOUNT, LivePolicy(routing=OFTEN), {})
    lab.query(f"INSERT INTO live_accounts VALUES ('{ACCOUNT.name}', 7, '{{}}', 0) RETURNING account")

    async def run(url: str, epoch: int) -> None:
        rerouter = Rerouter(url, ACCOUNT.name, ACCOUNT.mode, book)
        if epoch:
            await rerouter.load(epoch)
        async with asyncio.timeout(1):
            await rerouter.run()

    with pytest.raises(FencedError):
        asyncio.run(run(lab.settings.database_url, 6))
    assert estimations(lab) == []
    with pytest.raises(TimeoutError):
        asyncio.run(run(lab.settings.database_url, 7))
    known = len(estimations(lab))
    assert known >= 2
    with pytest.raises(TimeoutError):
        asyncio.run(run("postgresql://127.0.0.1:1/nowhere", 0))
    assert len(estimations(lab)) == known
