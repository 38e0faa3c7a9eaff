"""Lists: every row exactly once over pages of any size, and clear errors for what is no query."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.console.market import INSTRUMENT, Trade


def pages(client: httpx.Client, path: str, **query: Any) -> list[dict[str, Any]]:
    """All records of a list, page by page."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        response = client.get(f"/api/v1{path}", params={**query, **({"cursor": cursor} if cursor else {})})
        assert response.status_code == 200, response.text
        page = response.json()
        assert len(page["records"]) <= query.get("limit", 100)
        found += page["records"]
        cursor = page["next"]
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [7, 100, 1000])
def test_every_row_once_newest_first(client: httpx.Client, trades: list[Trade], limit: int) -> None:
    """Many trades share a millisecond: a cursor by time alone would lose or repeat some."""
    wanted = trades[:400]
    end = wanted[-1].time + 1
    wanted = [trade for trade in trades if trade.time < end]
    found = pages(client, "/trades", instrument=INSTRUMENT, end=end, limit=limit)
    assert [row["agg_id"] for row in found] == list(range(len(wanted) - 1, -1, -1))
    assert [row["event_time_ms"] for row in found] == [trade.time for trade in reversed(wanted)]
    assert found[0]["event_time"].endswith("Z") and found[0]["price"] == float(wanted[-1].price)


def test_filters_and_bounds(client: httpx.Client, trades: list[Trade]) -> None:
    start, end = trades[100].time, trades[900].time
    found = pages(client, "/trades", instrument=INSTRUMENT, start=start, end=end, buyer_is_maker=True, limit=1000)
    assert len(found) == sum(start <= trade.time < end and trade.sold for trade in trades)
    assert pages(client, "/trades", instrument="X:NOTHING") == []


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/trades", {}, "query.instrument"),
        ("/trades", {"instrument": INSTRUMENT, "limit": 0}, "query.limit"),
        ("/trades", {"instrument": INSTRUMENT, "limit": "many"}, "query.limit"),
        ("/trades", {"instrument": INSTRUMENT, "start": "yesterday"}, "query.start"),
        ("/trades", {"instrument": INSTRUMENT, "start": "99999999999999999"}, "query.start"),
        ("/trades", {"instrument": INSTRUMENT, "cursor": "rubbish"}, "query.cursor"),
        ("/trades", {"instrument": INSTRUMENT, "cursor": "WzEsMiwzXQ' OR 1=1"}, "query.cursor"),
        ("/trades", {"instrument": INSTRUMENT, "symbol": "BTC"}, "query.symbol"),
        ("/trades", {"instrument": "A\x00B"}, "query.instrument"),
        ("/candles", {"instrument": INSTRUMENT, "start": 0, "end": 1, "timeframe": "15M"}, "query.timeframe"),
        ("/candles", {"instrument": INSTRUMENT, "start": 5, "end": 5}, "query.end"),
        ("/trades/heatmap", {"instrument": INSTRUMENT, "start": 0, "end": 864000000}, "query.end"),
    ],
)
def test_an_error_names_the_field(client: httpx.Client, path: str, query: dict[str, Any], field: str) -> None:
    response = client.get(f"/api/v1{path}", params=query)
    assert response.status_code == 422 and response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == 422 and field in [one["field"] for one in problem["errors"]] and problem["errors"][0]["reason"]


def test_sql_in_a_filter_is_a_value(client: httpx.Client, trades: list[Trade]) -> None:
    assert pages(client, "/signals", strategy_id="x'; DROP TABLE signals; --") == []
    assert pages(client, "/signals") == []


def test_nothing_below_api_is_a_page(client: httpx.Client) -> None:
    response = client.get("/api/v1/nothing")
    assert response.status_code == 404 and response.json()["detail"] == "there is no endpoint /api/v1/nothing"
    assert client.get("/plaza/some-strategy?tab=paper").text.startswith("<!doctype html>")
