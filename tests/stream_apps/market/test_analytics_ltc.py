"""Measures made of trades, on the recorded LTCUSDT day, against recomputations from the raw trades; and the same bytes however the log is cut."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from stream_apps.core.market.analytics.config import MEASURES
from tests.stream_apps.market.analytics_oracle import GRID, Panes, config, divergence, exact, vpin_series
from tests.support.markets.logs import Log, decoded, ltc_trades, run

HOUR = 3_600_000 // GRID
NUMBERS = {"vpin_bucket": {"LTC": 150.0}, "vpin_buckets": 20, "divergence_bars": 10}


@pytest.fixture(scope="module")
def ltc():
    # Every fourth trade, so that a day and more goes by.
    rows = [(time, n, *rest) for n, (time, _, *rest) in enumerate(list(ltc_trades())[::4])]
    log = Log()
    log.instrument()
    log.trades(rows)
    outputs, engine = run(log, config(**NUMBERS))
    return rows, log, outputs, decoded(outputs, "features"), decoded(outputs, "bars"), engine


def test_kyle_lambda_is_the_least_squares_slope(ltc):
    rows, _, _, features, _, _ = ltc
    panes = Panes(rows, GRID)
    assert [record["kyle_lambda"] is None for record in features[: HOUR + 1]] == [True] * HOUR + [False]
    for record in random.Random(1).sample(features[HOUR:], 150):
        expected = panes.kyle(record["event_time"] // GRID, HOUR)
        # An hour without a trade has no flow to measure by.
        assert record["kyle_lambda"] == (None if expected is None else pytest.approx(expected, rel=1e-13))


def test_on_a_finer_grid_an_hour_has_more_panes_and_a_restart_keeps_them():
    grid, rows = 2_500, list(ltc_trades(12_000))
    log = Log(grid=grid)
    log.instrument()
    log.trades(rows)
    outputs, _ = run(log, replace(config(**NUMBERS), grid_ms=grid), seed=4, restart_every=3, size=4_000)
    features, panes, hour = decoded(outputs, "features"), Panes(rows, grid), 3_600_000 // grid
    assert len(features) > 2 * hour
    for record in [*features[hour - 1 : hour + 2], *random.Random(3).sample(features[hour:], 25), features[-1]]:
        expected = panes.kyle(record["event_time"] // grid, hour)
        assert record["kyle_lambda"] == (None if expected is None else pytest.approx(expected, rel=1e-13))


def test_realised_volatility_is_the_deviation_of_log_returns(ltc):
    rows, _, _, features, _, _ = ltc
    panes = Panes(rows, GRID)
    windows = {"5m": 20, "1h": HOUR, "24h": 24 * HOUR}
    checked = dict.fromkeys(windows, 0)
    for record in random.Random(2).sample(features, 200) + features[-3:] + features[24 * HOUR - 1 : 24 * HOUR + 2]:
        for window, n in windows.items():
            expected = panes.volatility(record["event_time"] // GRID, n, GRID)
            value = record[f"realised_volatility_{window}"]
            assert (value is None) == (expected is None)
            if expected is not None:
                assert value == pytest.approx(expected, rel=1e-8, abs=1e-12)
                checked[window] += 1
    assert all(checked.values()), checked


def test_bulk_classified_vpin_of_every_instant(ltc):
    rows, _, _, features, _, _ = ltc
    panes = Panes(rows, GRID)
    last = features[-1]["event_time"] // GRID
    volumes = panes.bulk(last, HOUR, 3)
    # Pane by pane as the buckets see them: those with trades, from the first full window on.
    ends = [p for p in range(panes.first, last + 1) if p in panes.volume and p - HOUR >= panes.first]
    assert len(ends) == len(volumes)
    by_pane = dict(zip(ends, vpin_series(volumes, 150, 20), strict=True))
    known = 0
    newest = None
    for record in features:
        newest = by_pane.get(record["event_time"] // GRID, newest)
        if newest is None:
            assert record["vpin_bulk"] is None
            continue
        # Ours splits a pane in whole lots: a bucket's part may differ by half a lot at each of its two edges.
        assert record["vpin_bulk"] == pytest.approx(newest, abs=2 * 0.001 / 150 * 2)
        known += 1
    assert known > 500


def test_vpin_of_every_instant(ltc):
    rows, _, _, features, _, _ = ltc
    volumes = [(0 * exact(q), exact(q)) if maker else (exact(q), 0 * exact(q)) for _, _, _, q, maker in rows]
    series, at = vpin_series(volumes, exact(150.0), 20), -1
    for record in features:
        while at + 1 < len(rows) and rows[at + 1][0] <= record["event_time"]:
            at += 1
        assert record["vpin"] == series[at]


def test_divergence_of_every_bar(ltc):
    _, _, _, features, bars, _ = ltc
    seen = {}
    for timeframe, step in (("1m", 60_000), ("15m", 900_000), ("1h", 3_600_000)):
        of = [bar for bar in bars if bar["timeframe"] == timeframe]
        path, verdicts = [], {}
        for bar in of:
            path.append((bar["close"], bar["cvd"]))
            verdicts[bar["event_time"]] = divergence(path[-11:], 10)
        for record in features:
            end = record["event_time"] // step * step
            assert record[f"cvd_divergence_{timeframe}"] == verdicts.get(end)
        seen[timeframe] = set(verdicts.values())
    assert seen["1m"] == {None, -1, 0, 1} and {None, 0} < seen["15m"]


def test_an_asset_without_a_bucket_of_its_own_has_a_fiftieth_of_a_day():
    start = 1_750_032_000_000  # 2025-06-16 00:00 UTC
    day = 86_400_000
    log = Log()
    log.instrument("BINANCE:ZZZUSDT-PERP")
    # 100 lots a minute, twice that on the second day; a bucket is volume / 50, known after 24 h and set anew at midnight.
    rows = [(start + m * 60_000 + 1, m, 10.0, 0.1 if m < 1440 else 0.2, m % 3 == 0) for m in range(2 * 1440 + 30)]
    log.trades(rows, "BINANCE:ZZZUSDT-PERP")
    outputs, _ = run(log, config(vpin_buckets=5))
    features = {record["event_time"] - start: record for record in decoded(outputs, "features")}
    assert features[day - GRID]["vpin_bucket_volume"] is None and features[day - GRID]["vpin"] is None
    assert features[day + GRID]["vpin_bucket_volume"] == 2.88  # 144 / 50
    assert features[2 * day - GRID]["vpin_bucket_volume"] == 2.88
    assert features[2 * day + GRID]["vpin_bucket_volume"] == pytest.approx(2 * 2.88, abs=0.01)
    # One in three is a sale: of a bucket of nearly 15 trades a third.
    assert features[2 * day - GRID]["vpin"] == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("seed", range(2))
def test_cut_killed_and_rebuilt_gives_the_same_features(ltc, seed):
    _, log, outputs, features, _, _ = ltc
    cut, _ = run(log, config(**NUMBERS), seed=seed, size=4000)
    assert [o[:4] for o in cut] == [o[:4] for o in outputs]
    killed, _ = run(log, config(**NUMBERS), seed=seed, restart_every=6, size=3000)
    assert decoded(killed, "features") == features


def test_the_future_never_changes_the_past(ltc):
    rows, _, _, features, _, _ = ltc
    for share in (0.3, 0.7):
        at = int(len(rows) * share)
        turned = [*rows[:at], *((t, i, round(p * 1.1, 2), q, False) for t, i, p, q, _ in rows[at:])]
        log = Log()
        log.instrument()
        log.trades(turned)
        outputs, _ = run(log, config(**NUMBERS))
        other = decoded(outputs, "features")
        before = sum(record["event_time"] < rows[at][0] for record in features)
        assert before > 500 and other[:before] == features[:before]
        assert other[-1]["vpin"] == 1.0 != features[-1]["vpin"] and other[before]["kyle_lambda"] != features[before]["kyle_lambda"]


def test_measures_that_are_switched_off_are_null_and_leave_the_others_as_they_are(ltc):
    rows, _, _, _, _, _ = ltc
    fields = {
        "vpin": ("vpin",),
        "kyle": ("kyle_lambda",),
        "volatility": ("realised_volatility_5m", "realised_volatility_1h"),
        "vpin_bulk": ("vpin_bulk",),
        "divergence": ("cvd_divergence_1m",),
    }
    log = Log()
    log.instrument()
    log.trades(rows[:3_000])
    everything = decoded(run(log, config(**NUMBERS))[0], "features")
    assert all(everything[-1][name] is not None for names in fields.values() for name in names)
    for measure in fields:
        only = decoded(run(log, config(**NUMBERS, measures=frozenset({measure})))[0], "features")
        without = decoded(run(log, config(**NUMBERS, measures=frozenset(MEASURES) - {measure}))[0], "features")
        for one, two, three in zip(everything, only, without, strict=True):
            for other, its in fields.items():
                for name in its:
                    assert two[name] == (one[name] if other == measure else None)
                    assert three[name] == (None if other == measure else one[name])
