"""What the API says of a market equals an exact recomputation from the recording."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.settings import Settings
from sinks.console.data.market import SIZES, timeframe_for
from sinks.console.http.parameters import MINUTES, Timeframe
from tests.support.console.market import INSTRUMENT, Trade


def get(client: httpx.Client, path: str, **query: Any) -> Any:
    response = client.get(f"/api/v1{path}", params=query)
    assert response.status_code == 200, response.text
    return response.json()


def bars(trades: list[Trade], width_ms: int) -> dict[int, list[Trade]]:
    """Trades by the start of their bar; a bar is (start, start + width]."""
    found: dict[int, list[Trade]] = defaultdict(list)
    for trade in trades:
        found[-(-trade.time // width_ms) * width_ms - width_ms].append(trade)
    return found


@pytest.mark.parametrize("timeframe", ["1m", "5m", "1h", "4h", "1d"])
def test_candles_equal_the_trades(client: httpx.Client, trades: list[Trade], timeframe: Timeframe) -> None:
    """There are no native bars here: every timeframe is built from minutes."""
    width = MINUTES[timeframe] * 60_000
    found = get(
        client, "/candles", instrument=INSTRUMENT, start=trades[0].time - width, end=trades[-1].time + 1, timeframe=timeframe, points=3000
    )
    assert found["timeframe"] == timeframe
    truth = bars(trades, width)
    shown = {at: i for i, at in enumerate(found["open_time_ms"])}
    assert truth.keys() <= shown.keys() and len(shown) == len(found["open_time_ms"])
    for at, inside in truth.items():
        i = shown[at]
        assert found["source"][i] == "1m"
        assert (found["open"][i], found["close"][i]) == (float(inside[0].price), float(inside[-1].price))
        assert (found["high"][i], found["low"][i]) == (float(max(t.price for t in inside)), float(min(t.price for t in inside)))
        assert found["trades"][i] == len(inside)
        assert math.isclose(found["volume"][i], sum(t.quantity for t in inside), rel_tol=1e-12)
        assert math.isclose(found["cvd"][i], sum(-t.quantity if t.sold else t.quantity for t in inside), rel_tol=1e-9, abs_tol=1e-9)
    quiet = set(shown) - truth.keys()
    assert all(found["volume"][shown[at]] == 0 and found["source"][shown[at]] == "quiet" for at in quiet)


def test_a_known_hole_has_no_prices(client: httpx.Client, settings: Settings, trades: list[Trade]) -> None:
    """A minute without trades inside a reported gap is unknown, not quiet."""
    first = datetime.fromtimestamp(trades[-1].time / 1000, UTC) + timedelta(minutes=10)
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO gaps (instrument, event_time, receive_time, stream, kind, certain, from_time, to_time, repaired, kafka_partition, kafka_offset)"
            " VALUES (%s, %s, %s, 'agg_trades', 'id_gap', true, %s, %s, false, 0, 1)",
            (INSTRUMENT, first, first, first, first + timedelta(minutes=5)),
        )
    start = trades[-1].time - 60_000
    found = get(client, "/candles", instrument=INSTRUMENT, start=start, end=start + 20 * 60_000)
    holes = [i for i, source in enumerate(found["source"]) if source == "hole"]
    assert 5 <= len(holes) <= 6 and all(found[name][i] is None for i in holes for name in ("open", "high", "low", "close", "volume", "cvd"))


@given(st.sampled_from(list(MINUTES)), st.integers(1, 10 * 365 * 24 * 60), st.integers(10, 3000))
def test_level_of_detail(wanted: Timeframe, minutes: int, points: int) -> None:
    """Never finer than asked for; never more candles than points, unless nothing coarser exists; and the finest of those."""
    start = datetime(2020, 1, 1, tzinfo=UTC)
    chosen = timeframe_for(wanted, start, start + timedelta(minutes=minutes), points)
    assert MINUTES[chosen] >= MINUTES[wanted]
    assert minutes / MINUTES[chosen] <= points or chosen == "1d"
    finer = [name for name, width in MINUTES.items() if MINUTES[wanted] <= width < MINUTES[chosen]]
    assert all(minutes / MINUTES[name] > points for name in finer)


def test_summary_of_a_stretch(client: httpx.Client, trades: list[Trade]) -> None:
    inside = trades[1000:4000]
    start, end = inside[0].time, inside[-1].time + 1
    inside = [trade for trade in trades if start <= trade.time < end]
    found = get(client, "/trades/summary", instrument=INSTRUMENT, start=start, end=end)
    bought = sum((t.quantity for t in inside if not t.sold), Decimal(0))
    volume = sum((t.quantity for t in inside), Decimal(0))
    assert found["trades"] == len(inside) and found["largest"] == float(max(t.quantity for t in inside))
    assert math.isclose(found["buy_volume"], bought, rel_tol=1e-12) and math.isclose(found["volume"], volume, rel_tol=1e-12)
    assert math.isclose(found["delta"], 2 * bought - volume, rel_tol=1e-9, abs_tol=1e-9)
    assert math.isclose(found["buy_share"], bought / volume, rel_tol=1e-12)
    assert math.isclose(found["vwap"], sum(t.price * t.quantity for t in inside) / volume, rel_tol=1e-12)
    assert math.isclose(found["trades_per_second"], len(inside) / ((end - start) / 1000), rel_tol=1e-12)


def test_an_empty_stretch_has_no_invented_numbers(client: httpx.Client) -> None:
    found = get(client, "/trades/summary", instrument=INSTRUMENT, start=0, end=1000)
    assert (found["trades"], found["volume"]) == (0, 0)
    assert all(found[name] is None for name in ("buy_share", "vwap", "largest", "low", "high", "open", "close"))


def test_heatmap_has_every_trade_in_its_cell(client: httpx.Client, trades: list[Trade]) -> None:
    end = trades[5000].time
    start = end - 15 * 60_000
    found = get(client, "/trades/heatmap", instrument=INSTRUMENT, start=start, end=end, columns=60)
    cells: dict[tuple[int, int], list[Decimal]] = defaultdict(lambda: [Decimal(0), Decimal(0)])
    for trade in trades:
        if start <= trade.time < end:
            cells[(trade.time - start) // found["step_ms"], math.floor(float(trade.price) / found["level_size"])][trade.sold] += (
                trade.quantity
            )
    assert {(column, level) for column, level, _, _ in found["cells"]} == cells.keys()
    for column, level, buy, sell in found["cells"]:
        truth = cells[column, level]
        assert math.isclose(buy, truth[0], rel_tol=1e-12, abs_tol=1e-12) and math.isclose(sell, truth[1], rel_tol=1e-12, abs_tol=1e-12)


def test_sizes_have_every_trade_once(client: httpx.Client, trades: list[Trade]) -> None:
    start, end = trades[500].time, trades[20_000].time
    truth: dict[int, list[list[Decimal]]] = {least: [[], []] for least in SIZES}
    for trade in trades:
        if start <= trade.time < end:
            notional = float(trade.price) * float(trade.quantity)
            truth[max(least for least in SIZES if least <= notional)][trade.sold].append(trade.price * trade.quantity)
    found = get(client, "/trades/sizes", instrument=INSTRUMENT, start=start, end=end)["classes"]
    assert [one["from_notional"] for one in found] == list(SIZES) and sum(one["buys"] + one["sells"] > 0 for one in found) >= 3
    for one in found:
        buys, sells = truth[one["from_notional"]]
        assert (one["buys"], one["sells"]) == (len(buys), len(sells))
        assert math.isclose(one["buy_volume"], sum(buys), rel_tol=1e-12) and math.isclose(one["sell_volume"], sum(sells), rel_tol=1e-12)


def test_funding_statistics(client: httpx.Client, settings: Settings) -> None:
    """Annualised: mean x settlements a year x 100; of an 8 h interval x 3 x 365 x 100 (S2 11.2). Estimates do not count."""
    rates = [Decimal("0.0001"), Decimal("0.00025"), Decimal("-0.0003"), Decimal("0.0004")]
    start = datetime(2026, 3, 1, tzinfo=UTC)
    with psycopg.connect(settings.database_url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO funding (instrument, event_time, receive_time, settled_rate, estimated_rate, interval_hours, kafka_partition, kafka_offset)"
            " VALUES ('X:AUSDT-PERP', %(at)s, %(at)s, %(settled)s, 0.5, 8, 0, %(n)s)",
            [{"at": start + timedelta(hours=8 * n), "settled": rate, "n": n} for n, rate in enumerate([*rates, None])],
        )
    found = get(
        client, "/funding/statistics", instrument="X:AUSDT-PERP", start=start.isoformat(), end=(start + timedelta(days=7)).isoformat()
    )
    mean = sum(rates) / len(rates)
    assert found["count"] == 4 and math.isclose(found["mean"], mean, rel_tol=1e-12)
    assert math.isclose(found["annualised_pct"], mean * 3 * 365 * 100, rel_tol=1e-12)
    none = get(client, "/funding/statistics", instrument="X:NONE-PERP", start=0, end=1000)
    assert (none["count"], none["mean"], none["annualised_pct"]) == (0, None, None)


def test_unchanged_content_is_not_sent_again(client: httpx.Client, trades: list[Trade]) -> None:
    query: dict[str, Any] = {"instrument": INSTRUMENT, "start": trades[0].time, "end": trades[-1].time}
    first = client.get("/api/v1/candles", params=query)
    again = client.get("/api/v1/candles", params=query, headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content
    assert first.headers["content-encoding"] in ("br", "gzip")
