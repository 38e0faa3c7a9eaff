"""The venue's bars before our own: the ATR and its percentile are those of one run of bars, whoever told them.

The truth is an engine that had all trades, and TA-Lib over bars read from the trades here.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import talib

from stream_apps.core.market.config import EngineConfig
from stream_apps.core.signals.engine import OutputRecord
from tests.support.markets.logs import LTC, Log, decoded, ltc_trades, run

FRAME = 300_000
Row = tuple[int, int, float, float, bool]
Bars = dict[int, tuple[float, float, float, float]]


def bars_of(rows: list[Row]) -> Bars:
    """Return end -> (open, high, low, close) of the 5-minute bars (start, end] of trades; quiet ones repeat the close."""
    prices: dict[int, list[float]] = {}
    for time, _, price, _, _ in rows:
        prices.setdefault(-(-time // FRAME) * FRAME, []).append(price)
    bars: Bars = {}
    close = rows[0][2]
    for end in range(min(prices), max(prices) + 1, FRAME):
        found = prices.get(end, [close])
        close = found[-1]
        bars[end] = (found[0], max(found), min(found), close)
    return bars


def kline(log: Log, end: int, bar: tuple[float, float, float, float], **other: Any) -> None:
    opened, high, low, close = bar
    log.append("klines", {
        "instrument": LTC, "event_time": end, "receive_time": end + 3000, "timeframe": "5m", "open": opened, "high": high, "low": low, "close": close,
        "volume": 1.0, "taker_buy_volume": None, "trades": None, "backfilled": True, **other,
    })  # fmt: skip


def begun_at(rows: list[Row], begin: int, bars: Bars, *, late: bool = True, log: Log | None = None) -> Log:
    """Return the log of a producer whose trades begin at a time: the bars before, and 3 s after its end (``late``) the one that is known in part."""
    log = log or Log()
    log.instrument(time=begin)
    for end, bar in bars.items():
        if end <= begin:
            kline(log, end, bar)
    partial = -(-begin // FRAME) * FRAME
    due = log.due_time(begin)
    told = not late
    for time, number, price, quantity, maker in rows:
        if time < begin:
            continue
        while time > due:
            if not told and due > partial + 3000:
                kline(log, partial, bars[partial])
                told = True
            log.mark(due)
            due += log.grid
        log.trade(time, number, price, quantity, maker)
    log.mark(due)
    log.mark(due + log.grid)
    return log


def features(outputs: list[OutputRecord]) -> dict[int, dict[str, Any]]:
    return {record["event_time"]: record for record in decoded(outputs, "features")}


@pytest.fixture(scope="module")
def day() -> list[Row]:
    """One recorded day, without the pause between the two."""
    rows = list(ltc_trades())
    return [row for row in rows if row[0] < rows[0][0] + 11 * 3_600_000]


@pytest.fixture(scope="module")
def whole(day: list[Row]) -> dict[int, dict[str, Any]]:
    log = Log()
    log.instrument()
    log.trades(day)
    return features(run(log)[0])


@pytest.mark.parametrize("seed", range(3))
def test_atr_and_percentile_are_those_of_an_engine_that_had_all_trades(day: list[Row], whole: dict[int, dict[str, Any]], seed: int) -> None:
    draw = random.Random(seed)
    begin = day[0][0] + draw.randrange(2 * 3_600_000, 6 * 3_600_000)
    bars = bars_of(day)
    outputs, _ = run(begun_at(day, begin, bars))
    found = features(outputs)
    assert not decoded(outputs, "dead_letters")
    partial = -(-begin // FRAME) * FRAME
    ends = sorted(bars)
    expected = dict(zip(ends, talib.ATR(*(np.array([bars[end][n] for end in ends]) for n in (1, 2, 3)), 14), strict=True))
    compared = 0
    for time, record in found.items():
        if time < begin:
            continue
        # The bar that is known in part is the venue's, which tells it seconds after its end: the instant at the end still has the one before.
        newest = partial - FRAME if time == partial else time // FRAME * FRAME
        if newest in expected and not math.isnan(expected[newest]):
            assert record["atr"] == pytest.approx(expected[newest], rel=1e-12)
        if time != partial:
            for name in ("atr", "atr_percentile", "atr_percentile_low"):
                assert record[name] == whole[time][name], (time, name)
            compared += 1
    assert compared > 1000


def test_what_the_bars_add_is_the_time_to_warm_up(day: list[Row]) -> None:
    """With the venue's bars the ATR and its percentile are there at the first instant; from trades alone after 15 and 24 bars."""
    begin = day[0][0] + 5 * 3_600_000
    bars = bars_of(day)

    def first(found: dict[int, dict[str, Any]], name: str) -> float:
        return (min(time for time, record in found.items() if record[name] is not None) - begin) / 60_000

    warm = features(run(begun_at(day, begin, bars))[0])
    cold = features(run(begun_at(day, begin, {}, late=False))[0])
    assert first(warm, "atr") <= 0.5 and first(warm, "atr_percentile") <= 0.5
    assert 70 < first(cold, "atr") <= 75 and 115 < first(cold, "atr_percentile") <= 120
    # What only trades tell is as missing as without them.
    for name in ("cvd_5m", "cvd_1h", "volume_15m", "vwap_30m", "trade_quantity_p99"):
        assert first(warm, name) == first(cold, name)


def test_own_bars_win_and_a_bar_of_the_future_says_nothing_before_its_time(day: list[Row], whole: dict[int, dict[str, Any]]) -> None:
    begin = day[0][0] + 3 * 3_600_000
    bars = bars_of(day)
    log = Log()
    log.instrument(time=begin)
    partial = -(-begin // FRAME) * FRAME
    # All at once: the past, the bar known in part, and wild ones for bars that our trades will cover.
    for end, (opened, high, low, close) in bars.items():
        if end <= partial + 10 * FRAME:
            kline(log, end, bars[end] if end <= partial else (opened, high + 10, low - 10, close))
    outputs, _ = run(begun_at(day, begin, {}, late=False, log=log))
    found = features(outputs)
    assert not decoded(outputs, "dead_letters")
    for time, record in found.items():
        if time >= begin:
            assert record["atr"] == whole[time]["atr"], time


def test_a_bar_that_nobody_tells_is_waited_for_and_then_the_recursion_begins_anew(day: list[Row]) -> None:
    begin = day[0][0] + 3 * 3_600_000
    bars = bars_of(day)
    found = features(run(begun_at(day, begin, bars, late=False))[0])
    partial = -(-begin // FRAME) * FRAME
    kept = found[partial - 15_000]["atr"]
    again = partial + FRAME * 3
    ends = [end for end in sorted(bars) if end > partial]
    expected = dict(zip(ends, talib.ATR(*(np.array([bars[end][n] for end in ends]) for n in (1, 2, 3)), 14), strict=True))
    for time, record in found.items():
        if partial <= time < again:
            assert record["atr"] == kept
        elif time >= again:
            value = expected[time // FRAME * FRAME]
            assert ("atr" in record["missing_inputs"]) is math.isnan(value)
            assert record["atr"] is None if math.isnan(value) else record["atr"] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("seed", [0, 3, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
def test_cuts_restarts_and_finer_decimals_change_nothing(day: list[Row], seed: int) -> None:
    """Bars that wait (ahead of their time, or for the one before) are kept over a restart."""
    short = [row for row in day if row[0] < day[0][0] + 4 * 3_600_000]
    begin = short[0][0] + int(2.4 * 3_600_000)
    bars = bars_of(short)
    log = Log()
    log.instrument(time=begin)
    for end, bar in bars.items():
        if end <= begin + 12 * FRAME:
            kline(log, end, bar)
    log = begun_at(short, begin, {}, late=False, log=log)
    plain, engine = run(log)
    finer = Log()
    finer.instrument(time=begin, price_decimals=4)
    finer = begun_at(short, begin, bars, log=finer)
    again, restored = run(log, seed=seed, restart_every=2 + seed, size=2000)
    assert not decoded(plain, "dead_letters")
    assert decoded(plain, "features") == decoded(again, "features")
    for name in ("atr", "atr_history", "atr_reached"):
        assert np.array_equal(engine.state.a[name], restored.state.a[name]), name
    for time, record in features(run(finer)[0]).items():
        if time > begin + FRAME:
            assert record["atr"] == pytest.approx(features(plain)[time]["atr"], rel=1e-12)


def test_bad_bars_are_refused_by_name_and_other_lengths_passed_over(day: list[Row]) -> None:
    begin = day[0][0] + 3 * 3_600_000
    bars = bars_of(day)
    short = [row for row in day if row[0] < begin + 20 * 60_000]
    log = Log()
    log.instrument(time=begin)
    end = begin // FRAME * FRAME - FRAME
    bar = bars[end]
    for change in (
        {"timeframe": "1m"}, {"timeframe": "5m", "event_time": end + 60_000}, {"high": bar[2] / 2}, {"low": math.nan}, {"low": 0.0},
        {"close": bar[3] + 0.001, "high": bar[1] + 1}, {"event_time": end + 20 * FRAME}, {"instrument": "BINANCE:NONEUSDT"},
    ):  # fmt: skip
        kline(log, end, bar, **change)
    log.raw("klines", b"garbage")
    outputs, _ = run(begun_at(short, begin, {**bars, end: bar}, log=log), EngineConfig(quantile_history_ms=0))
    letters = decoded(outputs, "dead_letters")
    assert [letter["source"] for letter in letters] == ["klines"] * 7
    assert sorted(str(letter["field"]) for letter in letters) == ["None", "event_time", "instrument", *["price"] * 4]
    assert features(outputs)[begin // 15_000 * 15_000 + 30_000]["atr"] is not None


def test_bars_that_state_what_takers_bought_stand_beside_our_own(day: list[Row]) -> None:
    """In the topic ``bars``, of every length; without it a bar has no CVD, and none is made up."""
    begin = day[0][0] + 3 * 3_600_000
    log = Log()
    log.instrument(time=begin)
    kline(log, begin // FRAME * FRAME - FRAME, (80.0, 82.0, 79.0, 81.0))
    for frame, length in (("5m", FRAME), ("1h", 3_600_000)):
        end = begin // length * length
        kline(log, end, (80.0, 82.0, 79.0, 81.0), timeframe=frame, volume=10.3, taker_buy_volume=7.1, trades=12)
    outputs, _ = run(begun_at([row for row in day if row[0] < begin + 60_000], begin, {}, late=False, log=log))
    told = [bar for bar in decoded(outputs, "bars") if bar["source"] == "venue"]
    assert [(bar["timeframe"], bar["volume"], bar["cvd"], bar["trades"], bar["high"]) for bar in told] == [
        ("5m", 10.3, 3.9, 12, 82.0), ("1h", 10.3, 3.9, 12, 82.0),
    ]  # fmt: skip
