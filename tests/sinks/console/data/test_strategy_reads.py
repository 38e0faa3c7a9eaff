"""Strategies, rates and scores as the API reads them: the period of the statistics, jsonb, filters, the form of times, what is not there."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.settings import Settings
from sinks.commands.strategies import edits
from sinks.console.data.records import iso, ms_of, shown, times
from tests.sinks.console.live.live_lab import BTC, ETH, record
from tests.support.console.market import insert
from tests.support.console.server import console

DAY = 86_400_000
FIRST = 1_700_000_000_000
HUGE = 1e300
SECOND = "BINANCE:BTCUSDC-PERP"


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[httpx.Client]:
    """A console over three strategies: evaluations and trades of 40 days long ago, none ever, evaluations on the second instrument alone."""
    url = settings.database_url
    with psycopg.connect(url, autocommit=True) as connection:
        for name, extra in (("old", {"huge": HUGE}), ("idle", {}), ("two", {"instruments": [SECOND]})):
            config = {**edits.new(name, BTC, "v54_factory", {}).to_record(), **extra}
            connection.execute(
                "INSERT INTO strategy_registry VALUES (%s, 1, %s, %s, 'running', 'v54_factory', 'h', %s, now(), now(), NULL, NULL, 'ann', NULL, 0, 0)",
                (name, BTC, name, json.dumps(config)),
            )
    insert(url, "scores", *(
        record("scores", score_id=f"{BTC}|{who}|{at}", instrument=BTC, strategy_id=who, event_time=at)
        for who, at in (("old", FIRST), ("old", FIRST + 40 * DAY), ("another", FIRST + 90 * DAY))
    ), *(
        record("scores", score_id=f"{SECOND}|two|{at}", instrument=SECOND, strategy_id="two", event_time=at) for at in (FIRST, FIRST + 3 * DAY)
    ))  # fmt: skip
    trade = {"instrument": BTC, "strategy_id": "old", "mode": "paper"}
    insert(url, "trades_closed", *(
        record(
            "trades_closed", trade_id=f"t{day}", entry_time=FIRST + day * DAY, event_time=FIRST + day * DAY + 60_000,
            net_pnl=100.0 if day % 3 else -150.0, net_r=1.0 if day % 3 else -1.5, **trade,
        )
        for day in range(1, 37)
    ))  # fmt: skip
    rates = {"receive_time": FIRST, "mark_price": 100.0, "interval_hours": 8}
    for name, status in (("BINANCE:BTCUSDT-PERP", "trading"), ("BINANCE:ETHUSDT-PERP", "closed")):
        insert(url, "instruments", record("instruments", instrument=name, kind="perp", status=status))
        insert(url, "funding", record("funding", instrument=name, event_time=FIRST, estimated_rate=0.0002, **rates))
    with console(settings) as found:
        yield found


def get(client: httpx.Client, path: str, **query: Any) -> Any:
    response = client.get(f"/api/v1{path}", params=query)
    assert response.status_code == 200, response.text
    return response.json()


def test_rates_of_what_trades(api: httpx.Client) -> None:
    """An instrument that was closed has an old rate; it is not listed."""
    (rate,) = get(api, "/rates")["rates"]
    assert (rate["instrument"], rate["mark_price"], rate["event_time_ms"]) == (BTC, 100.0, FIRST)
    assert rate["annualised_pct"] == pytest.approx(0.0002 * 3 * 365 * 100, rel=1e-12)
    assert ETH != BTC


def test_the_period_of_the_statistics_is_the_data_not_the_clock(api: httpx.Client) -> None:
    found = get(api, "/paper/statistics", strategy_id="old")
    assert (found["start_ms"], found["end_ms"]) == (FIRST, FIRST + 40 * DAY)
    # One trade a day on 36 of 41 days: the years since then are no days without a result.
    money, returns = edits.new("old", BTC, "v54_factory", {}).initial_balance, []
    for day in range(41):
        result = 0.0 if not 1 <= day <= 36 else 100.0 if day % 3 else -150.0
        returns.append(result / money)
        money += result
    sharpe = statistics.mean(returns) / statistics.stdev(returns) * math.sqrt(365)
    assert found["all"]["trades"]["value"] == 36
    assert found["all"]["sharpe"]["value"] == pytest.approx(sharpe, rel=1e-9)
    curve = get(api, "/paper/equity", strategy_id="old")
    assert curve["time_ms"][0] == FIRST and len(curve["time_ms"]) == 37
    idle = get(api, "/paper/statistics", strategy_id="idle")
    assert idle["start"] is None and idle["start_ms"] is None and idle["end_ms"] is None
    assert all(one["value"] in (None, 0) for one in idle["all"].values())
    assert idle["all"]["win_rate"]["reason"] == "no closed trades"


def test_a_large_number_of_jsonb_survives(api: httpx.Client) -> None:
    """PostgreSQL writes it as an integer of 301 digits, which no JSON writer of ours would take."""
    (one,) = [row for row in get(api, "/strategies")["strategies"] if row["strategy_id"] == "old"]
    assert one["config"]["huge"] == HUGE


def test_one_card_of_the_plaza(api: httpx.Client) -> None:
    every = get(api, "/plaza")["cards"]
    assert [card["strategy_id"] for card in every] == ["idle", "old", "two"]
    assert get(api, "/plaza", strategy_id="old")["cards"] == [every[1]]
    assert get(api, "/plaza", strategy_id="none")["cards"] == []


def test_every_instrument_of_a_strategy_counts(api: httpx.Client) -> None:
    """Its main instrument was never evaluated: period and newest score are those of the other one."""
    found = get(api, "/paper/statistics", strategy_id="two")
    assert (found["start_ms"], found["end_ms"]) == (FIRST, FIRST + 3 * DAY)
    (card,) = get(api, "/plaza", strategy_id="two")["cards"]
    assert card["instruments"] == [BTC, SECOND] and card["last_score_ms"] == FIRST + 3 * DAY


def test_a_score_that_is_not_there(api: httpx.Client) -> None:
    missing = f"{BTC}|old|{FIRST + 1}"
    response = api.get(f"/api/v1/scores/{missing}")
    assert response.status_code == 503 and response.headers["content-type"] == "application/problem+json"  # the topic does not exist
    found = get(api, f"/scores/{BTC}|old|{FIRST}")
    assert found["found_in"] == "database"
    assert (found["score"]["event_time_ms"], found["score"]["event_time"]) == (FIRST, "2023-11-14T22:13:20.000Z")


@pytest.mark.usefixtures("topics")
def test_a_score_that_is_nowhere(environment: Settings) -> None:
    from deploy.database import migrate as database

    database.migrate(environment.database_url)
    with console(environment) as client:
        response = client.get(f"/api/v1/scores/{BTC}|old|{FIRST}")
        assert response.status_code == 404 and response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"] == f"no score {BTC}|old|{FIRST} (topic: not there; database: not there)"


@given(st.integers(0, 221_845_000_000_000))
def test_a_time_has_one_form(ms: int) -> None:
    """From a datetime and from milliseconds, exact to the millisecond (a float of seconds loses some)."""
    at = datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    assert ms_of(at) == ms and iso(at) == iso(ms)
    assert iso(ms) == at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert shown({"event_time": at}) == times(event_time=at) == times(event_time=ms) == {"event_time": iso(ms), "event_time_ms": ms}


def test_a_time_that_no_calendar_has() -> None:
    assert times(at=2**62, none=None) == {"at": str(2**62), "at_ms": 2**62, "none": None, "none_ms": None}
