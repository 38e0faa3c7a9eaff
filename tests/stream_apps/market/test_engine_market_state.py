"""The market state against independent truths: plain Decimal sums, TA-Lib, sorted quantities."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from decimal import Decimal

import numpy as np
import pytest
import talib

from stream_apps.core.market.config import EngineConfig
from stream_apps.core.market.windows import WINDOW_MS
from tests.support.markets.logs import LTC, Log, decoded, ltc_trades, run

GRID = 15_000


@pytest.fixture(scope="module")
def ltc():
    rows = list(ltc_trades())
    log = Log()
    log.instrument()
    log.trades(rows)
    outputs, engine = run(log)
    return rows, decoded(outputs, "features"), decoded(outputs, "bars"), engine


def test_every_window_equals_a_decimal_recomputation_at_200_random_instants(ltc):
    rows, features, _, _ = ltc
    times = [row[0] for row in rows]
    first_pane = math.ceil(times[0] / GRID)
    checked = 0
    for record in random.Random(7).sample(features, 200):
        instant = record["event_time"]
        end = bisect_right(times, instant)
        for window, length in WINDOW_MS.items():
            if instant // GRID - first_pane + 1 < length // GRID:
                assert record[f"cvd_{window}"] is None
                assert f"cvd_{window}" in record["missing_inputs"]
                continue
            inside = rows[bisect_right(times, instant - length) : end]
            buys = sum((Decimal(repr(q)) for _, _, _, q, maker in inside if not maker), Decimal(0))
            sells = sum((Decimal(repr(q)) for _, _, _, q, maker in inside if maker), Decimal(0))
            assert record[f"cvd_{window}"] == float(buys - sells)  # exact: the double nearest to the exact sum
            assert record[f"volume_{window}"] == float(buys + sells)
            if window == "30m" and inside:
                value = sum((Decimal(repr(p)) * Decimal(repr(q)) for _, _, p, q, _ in inside), Decimal(0)) / (buys + sells)
                assert record["vwap_30m"] == pytest.approx(float(value), rel=1e-14)
            checked += 1
    assert checked > 900


def test_slope_and_acceleration_are_differences_of_the_cvd(ltc):
    _, features, _, _ = ltc
    by_time = {record["event_time"]: record for record in features}
    for record in random.Random(8).sample(features[400:], 200):
        one, two = (by_time[record["event_time"] - n * GRID] for n in (1, 2))
        for window in ("5m", "15m", "30m"):
            slope = Decimal(repr(record[f"cvd_{window}"])) - Decimal(repr(one[f"cvd_{window}"]))
            before = Decimal(repr(one[f"cvd_{window}"])) - Decimal(repr(two[f"cvd_{window}"]))
            assert record[f"slope_{window}"] == float(slope)
            assert record[f"acceleration_{window}"] == float(slope - before)


def test_the_first_instants_have_no_slope_instead_of_an_inflated_one(ltc):
    _, features, _, _ = ltc
    panes = 300_000 // GRID
    assert [record["slope_5m"] is None for record in features[: panes + 1]] == [True] * panes + [False]
    assert [record["acceleration_5m"] is None for record in features[: panes + 2]] == [True] * (panes + 1) + [False]


def test_atr_equals_ta_lib_on_the_5m_bars(ltc):
    rows, features, bars, _ = ltc
    # Bars by an independent reading of the trades: (start, end], gaps repeat the close.
    by_end: dict[int, list[float]] = {}
    for time, _, price, _, _ in rows:
        by_end.setdefault(math.ceil(time / 300_000) * 300_000, []).append(price)
    last_instant = features[-1]["event_time"]
    highs, lows, closes, ends = [], [], [], []
    close = rows[0][2]
    for end in range(min(by_end), last_instant + 1, 300_000):
        prices = by_end.get(end, [close])
        close = prices[-1]
        highs.append(max(prices)), lows.append(min(prices)), closes.append(close), ends.append(end)
    expected = dict(zip(ends, talib.ATR(np.array(highs), np.array(lows), np.array(closes), 14), strict=True))
    ours = {record["event_time"]: record["atr"] for record in features}
    assert len(expected) > 300
    for end, value in expected.items():
        if math.isnan(value):
            assert ours[end] is None
        else:
            assert ours[end] == pytest.approx(value, rel=1e-9)
    five = [bar for bar in bars if bar["timeframe"] == "5m"]
    assert [bar["event_time"] for bar in five] == ends
    assert [(bar["high"], bar["low"], bar["close"]) for bar in five] == list(zip(highs, lows, closes, strict=True))


def test_atr_percentile_ranks_the_newest_value_among_the_last_288(ltc):
    _, features, _, _ = ltc
    history = [record["atr"] for record in features if record["event_time"] % 300_000 == 0 and record["atr"] is not None]
    seen: list[float] = []
    for record in features:
        if record["atr"] is None:
            continue
        if record["event_time"] % 300_000 == 0:
            seen.append(record["atr"])
        if len(seen) >= 10:
            window = seen[-288:]
            assert record["atr_percentile"] == pytest.approx(100 * sum(x <= seen[-1] for x in window) / len(window))
        else:
            assert record["atr_percentile"] is None
    assert len(history) > 288


def test_quantiles_keep_the_stated_error(ltc):
    rows, features, _, _ = ltc
    times = [row[0] for row in rows]
    for record in random.Random(9).sample(features[200:], 60):
        instant = record["event_time"]
        sizes = sorted(q for _, _, _, q, _ in rows[bisect_right(times, instant - 86_400_000) : bisect_right(times, instant)])
        for name, share in (("trade_quantity_p95", 95), ("trade_quantity_p99", 99)):
            exact = sizes[len(sizes) * share // 100]
            assert record[name] == pytest.approx(exact, rel=0.004)


def test_bars_of_all_timeframes_add_up(ltc):
    rows, _, bars, _ = ltc
    last_day = max(bar["event_time"] for bar in bars if bar["timeframe"] == "1d")
    for timeframe in ("1m", "5m", "15m", "1h", "4h", "1d"):
        chosen = [bar for bar in bars if bar["timeframe"] == timeframe and bar["event_time"] <= last_day]
        inside = [row for row in rows if row[0] <= last_day]
        assert sum(bar["trades"] for bar in chosen) == len(inside)
        assert sum(Decimal(repr(bar["volume"])) for bar in chosen) == sum(Decimal(repr(row[3])) for row in inside)
        assert all(bar["low"] <= min(bar["open"], bar["close"]) and bar["high"] >= max(bar["open"], bar["close"]) for bar in chosen)
    quiet = [bar for bar in bars if bar["trades"] == 0]
    assert quiet and all(bar["open"] == bar["close"] and bar["volume"] == 0 for bar in quiet)


def test_large_trades_and_whales_keep_their_own_price_and_equal_stamps_do_not_merge():
    log = Log()
    log.instrument()
    start = 1_750_000_000_000 - 1_750_000_000_000 % GRID
    trades = [(start + 1 + i * 100, i, 100.0, 1.0, bool(i % 2)) for i in range(200)]
    at = start + 40_000
    # Two large sells in one millisecond at different prices, and a small whale-sized buy.
    trades += [(at, 200, 110.0, 50.0, True), (at, 201, 120.0, 60.0, True), (at + 1, 202, 100.0, 40.0, False)]
    log.trades(trades)
    outputs, engine = run(log, EngineConfig(whale_usd=4_000.0, quantile_history_ms=0))
    last = decoded(outputs, "features")[-1]
    assert (last["large_buys"], last["large_sells"]) == (1, 2)
    buys, sells = 100.0 * 40, 110.0 * 50 + 120.0 * 60
    assert last["whale_flow"] == pytest.approx((buys - sells) / (buys + sells))
    large = engine.state.kept.large(0)
    assert large.price.tolist() == [110.0, 120.0, 100.0]
    assert large.taker_buy.tolist() == [False, False, True]


def test_whale_flow_is_undefined_without_whales(ltc):
    _, features, _, _ = ltc
    assert any(record["whale_flow"] is None for record in features)
    assert all(record["whale_flow"] is None or -1 <= record["whale_flow"] <= 1 for record in features)


def test_finer_decimals_rescale_the_sums_exactly():
    log = Log()
    log.instrument(price_decimals=0, quantity_decimals=0)
    start = 1_750_000_000_000 - 1_750_000_000_000 % GRID
    rows = [(start + 1 + i * 700, i, float(100 + i % 7), float(1 + i % 5), bool(i % 3)) for i in range(400)]
    log.trades(rows[:200])
    log.instrument(price_decimals=2, quantity_decimals=3, time=rows[200][0])
    finer = [(t, i, p + 0.25, q + 0.125, m) for t, i, p, q, m in rows[200:]]
    log.trades(finer)
    outputs, _ = run(log)
    assert decoded(outputs, "dead_letters") == []
    everything = rows[:200] + finer
    for record in decoded(outputs, "features"):
        if record["cvd_5m"] is not None and record["pane_trades"]:
            inside = [row for row in everything if record["event_time"] - 300_000 < row[0] <= record["event_time"]]
            assert record["cvd_5m"] == float(sum((Decimal(repr(q)) * (-1 if m else 1) for _, _, _, q, m in inside), Decimal(0)))
            assert record["price"] == inside[-1][2]


def test_instrument_ids_name_the_row(ltc):
    assert {record["instrument"] for record in ltc[1]} == {LTC}
