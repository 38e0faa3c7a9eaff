"""VPIN and OFI of the recorded minutes: the golden figures of deploy/demo/data/PROVENANCE.md, and every instant against a plain recomputation."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from stream_apps.core.market.analytics.measures import ofi as ofi_measure
from stream_apps.core.market.analytics.measures import vpin
from tests.stream_apps.market.analytics_oracle import BTC, config, exact, ofi, ofi_event, recording, vpin_series
from tests.support.markets.logs import Log, decoded, run

GRID = 1_000


def test_golden_figures_of_vpin():
    trades, _, _ = recording()
    assert len(trades) == 21_313
    for n, last, most in ((50, 0.698416, 0.892164), (10, 0.55526, None)):
        clock, buckets, series = np.zeros((1, 2, vpin.N_CLOCK), np.int64), np.zeros((1, 2, n, 2), np.int64), []
        clock[0, 0, vpin.NEXT] = 10_000
        for _, _, _, quantity, maker in trades:
            left = round(quantity * 1000)
            while left:  # at most one bucket ends at a time, so that none is passed over
                part = min(left, 1_000)
                left -= part
                vpin.fill_buckets(clock, buckets, 0, vpin.TRUE, 0 if maker else part, part if maker else 0)
                series.append(vpin.value(clock[0, 0], n))
        assert clock[0, 0, vpin.COUNT] == 242
        assert series[-1] == pytest.approx(last, abs=5e-7)
        if most is not None:
            assert np.nanmax(series) == pytest.approx(most, abs=5e-7)
        # All at once is the same as piece by piece: edges split the trades.
        whole, whole_buckets = np.zeros_like(clock), np.zeros_like(buckets)
        whole[0, 0, vpin.NEXT] = 10_000
        for _, _, _, quantity, maker in trades:
            lots = round(quantity * 1000)
            vpin.fill_buckets(whole, whole_buckets, 0, vpin.TRUE, 0 if maker else lots, lots if maker else 0)
        assert (whole == clock).all() and (whole_buckets == buckets).all()


def test_golden_figure_of_ofi():
    _, quotes, _ = recording()
    assert len(quotes) == 66_089
    ticks = [(round(b * 10), round(bq * 1000), round(a * 10), round(aq * 1000)) for _, _, b, bq, a, aq in quotes]
    assert sum(ofi_measure.event(*old, *new) for old, new in pairwise(ticks)) / 1000 == -108.356
    assert float(sum(ofi_event(old, new) for old, new in pairwise(quotes))) == -108.356


def btc_log(quotes, trades, shuffle=lambda step: step):
    """A log of one-second panes; ``shuffle`` orders what lies between two marks."""
    log = Log(grid=GRID)
    log.instrument(BTC, price_decimals=1)
    due = log.due_time(min(trades[0][0], quotes[0][0]))
    last = max(trades[-1][0], quotes[-1][0])
    events = sorted([("agg_trades", row) for row in trades] + [("quotes", row) for row in quotes], key=lambda event: event[1][0])
    at = 0
    while due <= last + 2 * GRID:
        step = []
        while at < len(events) and events[at][1][0] <= due:
            step.append(events[at])
            at += 1
        for topic, row in shuffle(step):
            if topic == "agg_trades":
                log.trade(*row, name=BTC)
            else:
                time, update, bid, bid_quantity, ask, ask_quantity = row
                log.append("quotes", {
                    "instrument": BTC, "event_time": time, "receive_time": time, "update_id": update, "bid_price": bid, "bid_quantity": bid_quantity,
                    "ask_price": ask, "ask_quantity": ask_quantity,
                })  # fmt: skip
        log.mark(due)
        due += GRID
    return log


NUMBERS = {"vpin_bucket": {"BTC": 10.0}, "kyle_window_ms": 60_000, "vpin_buckets": 50}


@pytest.fixture(scope="module")
def btc():
    trades, quotes, _ = recording()
    quotes = quotes[::4]  # the golden figure above is of all of them
    outputs, _ = run(btc_log(quotes, trades), replace(config(**NUMBERS), grid_ms=GRID), size=50_000)
    return trades, quotes, decoded(outputs, "features")


def test_vpin_of_every_instant_by_the_aggressor(btc):
    trades, _, features = btc
    volumes = [(Fraction(0), exact(q)) if maker else (exact(q), Fraction(0)) for _, _, _, q, maker in trades]
    series = vpin_series(volumes, Fraction(10), 50)
    known, at = [], -1
    for record in features:
        while at + 1 < len(trades) and trades[at + 1][0] <= record["event_time"]:
            at += 1
        assert record["vpin"] == (series[at] if at >= 0 else None)
        assert record["vpin_bucket_volume"] == 10
        known.append(record["vpin"])
    assert known[-1] == pytest.approx(0.698416, abs=5e-7)
    assert None in known and sum(value is not None for value in known) > 150


def test_ofi_and_microprice_of_every_instant(btc):
    _, quotes, features = btc
    first, checked = math.ceil(quotes[0][0] / GRID), 0
    for record in features[::6]:
        instant = record["event_time"]
        for name, window in (("ofi_1m", 60_000), ("ofi_5m", 300_000)):
            if instant // GRID - first < window // GRID:
                assert record[name] is None
            elif record["best_bid"] is not None:
                assert record[name] == ofi(quotes, instant - window, instant)
                checked += 1
        newest = quotes[bisect_right(quotes, instant, key=lambda quote: quote[0]) - 1]
        if newest[0] <= instant and instant - newest[0] <= 5_000:
            _, _, bid, bid_quantity, ask, ask_quantity = newest
            expected = (bid * ask_quantity + ask * bid_quantity) / (bid_quantity + ask_quantity)
            assert record["microprice"] == pytest.approx(expected, rel=1e-14)
            assert bid <= record["microprice"] <= ask
        else:
            assert record["microprice"] is None
    assert checked > 50


def test_shuffled_within_the_lateness_nothing_changes():
    trades, quotes, _ = recording()
    until = quotes[0][0] + 100_000
    # Numbered anew: ids that are left out wait to be filled, and only 64 such gaps are remembered.
    thinned = [(time, n, *rest) for n, (time, _, *rest) in enumerate(trades[::2])]
    few = [row for row in quotes[::8] if row[0] <= until], [row for row in thinned if row[0] <= until]
    numbers = replace(config(**{**NUMBERS, "vpin_buckets": 10}), grid_ms=GRID)
    past = decoded(run(btc_log(*few), numbers)[0], "features")
    assert len(past) > 80 and past[-1]["ofi_1m"] is not None and past[-1]["vpin"] is not None and past[-1]["kyle_lambda"] is not None
    source = random.Random(3)

    def whole(step):
        """All, each record up to 50 places off."""
        places = [n + source.random() * 50 for n in range(len(step))]
        return [event for _, event in sorted(zip(places, step, strict=True), key=lambda pair: pair[0])]

    def stamps(step):
        """Everything but records of one topic and one stamp, whose order the log decides (DESIGN 3)."""
        groups = {}
        for topic, row in step:
            groups.setdefault((topic, row[0]), []).append((topic, row))
        return [event for group in whole(list(groups.values())) for event in group]

    for shuffle, names in ((whole, ("vpin", "ofi_1m", "microprice")), (stamps, past[0].keys() - {"large_buys", "large_sells"})):
        log = btc_log(*few, shuffle)
        assert log.topics["quotes"] != btc_log(*few).topics["quotes"]
        shuffled = decoded(run(log, numbers, seed=11, size=900)[0], "features")
        for old, new in zip(past, shuffled, strict=True):
            assert {name: old[name] for name in names} == {name: new[name] for name in names}
