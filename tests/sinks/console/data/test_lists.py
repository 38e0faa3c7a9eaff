"""Lists: every row exactly once over pages of any size, and clear errors for what is no query."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest

from schemas.settings import Settings
from sinks.console.data.lists import CHUNK
from stream_apps.core.market.windows import WINDOWS
from tests.support.console.market import INSTRUMENT, Trade
from tests.support.console.tables import write
from tests.support.markets.scoring_cases import market, of_model, run


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


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_file_has_what_the_list_has(client: httpx.Client, trades: list[Trade]) -> None:
    """Every row once over the parts in which it is read, newest first, in the units of the API; a list and its file have the same columns."""
    start, end = trades[2_000].time, trades[14_000].time
    wanted = [(n, trade) for n, trade in enumerate(trades) if start <= trade.time < end]
    assert len(wanted) > 2 * CHUNK
    answer = client.get("/api/v1/trades.csv", params={"instrument": INSTRUMENT, "start": start, "end": end})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/csv") and answer.headers["x-row-limit"] == "100000"
    assert "attachment" in answer.headers["content-disposition"]
    found = lines(answer.text)
    assert [
        (int(row["agg_id"]), int(row["event_time_ms"]), Decimal(row["price"]), Decimal(row["quantity"]), row["buyer_is_maker"])
        for row in found
    ] == [(n, trade.time, trade.price, trade.quantity, str(trade.sold).lower()) for n, trade in reversed(wanted)]
    (record,) = client.get("/api/v1/trades", params={"instrument": INSTRUMENT, "limit": 1}).json()["records"]
    assert found[0].keys() == record.keys()


def test_a_file_that_was_cut_says_so(client: httpx.Client, trades: list[Trade]) -> None:
    query = {"instrument": INSTRUMENT, "rows": 7_001}
    first = client.get("/api/v1/trades.csv", params=query).text.splitlines()
    assert len(first) == 7_003 and first[-1].startswith("# cut after 7001 rows; the rest has cursor=")
    rest = client.get("/api/v1/trades.csv", params={**query, "rows": 1_000_000, "cursor": first[-1].partition("cursor=")[2]})
    seen = [int(line.split(",")[first[0].split(",").index("agg_id")]) for line in [*first[1:-1], *rest.text.splitlines()[1:]]]
    assert seen == list(range(len(trades) - 1, -1, -1))
    whole = client.get("/api/v1/trades.csv", params={**query, "start": trades[-1].time, "rows": 7_001}).text
    assert "#" not in whole
    assert client.get("/api/v1/liquidations.csv").text.startswith("instrument,event_time,event_time_ms,")  # a head, and no rows


def test_no_cell_of_a_file_is_a_formula(client: httpx.Client, settings: Settings) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO gaps (instrument, event_time, receive_time, stream, kind, certain, detail, repaired, kafka_partition, kafka_offset)"
            " VALUES ('X:EVIL-PERP', %s, %s, 'depth', 'silence', true, %s, false, 5, 1)",
            (at, at, '=HYPERLINK("http://x","y"),\nnext line'),
        )
    (row,) = lines(client.get("/api/v1/gaps.csv", params={"instrument": "X:EVIL-PERP"}).text)
    assert row["detail"] == '\'=HYPERLINK("http://x","y"),\nnext line' and row["repaired"] == "false"


@pytest.mark.parametrize(
    "query", [{}, {"instrument": INSTRUMENT, "rows": 0}, {"instrument": INSTRUMENT, "cursor": "x"}, {"instrument": INSTRUMENT, "limit": 5}]
)
def test_what_is_no_file(client: httpx.Client, query: dict[str, Any]) -> None:
    answer = client.get("/api/v1/trades.csv", params=query)
    assert answer.status_code == 422 and answer.headers["content-type"].startswith("application/problem+json")


def test_labels_are_of_the_direction_that_was_judged(client: httpx.Client, settings: Settings) -> None:
    """A LONG and a SHORT score of one instant have the label of their own side; a score without a direction has none."""
    t = 1_760_000_010_000

    def scored(strategy: str, **changes: Any) -> dict[str, Any]:
        shot = market(time=t, decided_at=t + 250, instrument="BINANCE:SOLUSDT-PERP", **changes)
        return run(shot, of_model("v54_factory", strategy_id=strategy, instrument="BINANCE:SOLUSDT-PERP", display_name=strategy)).score

    scores = [scored("long"), scored("short", cvd=dict.fromkeys(WINDOWS, -7.0)), scored("none", cvd=dict.fromkeys(WINDOWS, 0.0))]
    assert [one["lean"] for one in scores] == ["LONG", "SHORT", "NONE"]
    numbers = {
        f"{side}_{name}": sign * value
        for side, sign in (("long", 1), ("short", -1))
        for name, value in (("return_15m", 0.01), ("return_30m", 0.02), ("return_60m", 0.03), ("mfe_r_60m", 1.5), ("mae_r_60m", 0.5))
    }
    label = {
        "instrument": "BINANCE:SOLUSDT-PERP", "event_time": t + 3_600_000, "receive_time": t + 3_600_250, "evaluated_at": t, "cost": 0.001,
        "target_atr": 2.0, "stop_atr": 1.0, "entry": 100.0, "atr": 0.5, **numbers, "long_binary_30m": 1, "long_binary_60m": 1, "short_binary_30m": 0,
        "short_binary_60m": None, "reason": "no mark price",
    }  # fmt: skip
    with psycopg.connect(settings.database_url) as connection:
        write(connection, "scores", scores)
        write(connection, "labels", [label])
    found = pages(client, "/labels", instrument="BINANCE:SOLUSDT-PERP", limit=1)
    assert [(one["strategy_id"], one["direction"], one["y_return_60m"], one["y_binary_30m"], one["y_binary_60m"]) for one in found] == [
        ("short", "SHORT", -0.03, 0, None),
        ("long", "LONG", 0.03, 1, 1),
    ]
    assert (found[0]["event_time_ms"], found[0]["labelled_at_ms"], found[0]["mfe_r_60m"]) == (t, t + 3_600_000, -1.5)
    assert not any(name.startswith("kafka") for name in found[0])
    (one,) = pages(client, "/labels", instrument="BINANCE:SOLUSDT-PERP", strategy_id="long", warm=True)
    assert one == found[1]
    assert len(lines(client.get("/api/v1/labels.csv", params={"instrument": "BINANCE:SOLUSDT-PERP"}).text)) == 2
