"""Measures made of quotes, books, funding and liquidations, on small logs worked out by hand."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from tests.stream_apps.market.analytics_oracle import BTC, GRID, config, recording
from tests.support.markets.logs import Log, decoded, run

SPOT = "BINANCE:BTCUSDT"
HOUR = 3_600_000
START = 1_750_000_000_000 - 1_750_000_000_000 % HOUR


class Feed(Log):
    """A log of one contract with marks at every grid step; times are ms after START."""

    def __init__(self, events, until, lateness=250):
        super().__init__(lateness=lateness)
        self.instrument(BTC, price_decimals=1)
        self.instrument(SPOT, price_decimals=1)
        events = [(0, "trade", BTC, 1_000.0), *events]
        due = GRID + lateness
        for n, (time, kind, *values) in enumerate(sorted(events, key=lambda event: event[0])):
            while time > due:
                self.mark(START + due)
                due += GRID
            getattr(self, f"put_{kind}")(START + time + 1, n, *values)
        while due <= until + GRID:
            self.mark(START + due)
            due += GRID

    def put_trade(self, time, n, name, price):
        self.trade(time, n, price, 1.0, False, name)

    def put_quote(self, time, n, name, bid, bid_quantity, ask, ask_quantity):
        self.append("quotes", {
            "instrument": name, "event_time": time, "receive_time": time, "update_id": n, "bid_price": bid, "bid_quantity": bid_quantity,
            "ask_price": ask, "ask_quantity": ask_quantity,
        })  # fmt: skip

    def put_funding(self, time, n, values):
        plain = dict.fromkeys((
            "mark_price", "index_price", "estimated_settle_price", "estimated_rate", "settled_rate", "next_funding_time", "interval_hours",
        ))  # fmt: skip
        self.append("funding", {"instrument": BTC, "event_time": time, "receive_time": time, **plain, **values})

    def put_depth(self, time, n, bids, asks, state="live"):
        self.append("depth", {
            "instrument": BTC, "event_time": time, "receive_time": time, "epoch": 1, "state": state, "last_update_id": n,
            "bid_prices": [p for p, _ in bids], "bid_quantities": [q for _, q in bids], "ask_prices": [p for p, _ in asks],
            "ask_quantities": [q for _, q in asks],
        })  # fmt: skip

    def put_liquidation(self, time, n, side, price, quantity, cap=1000, average=None, filled=None):
        self.append("liquidations", {
            "instrument": BTC, "event_time": time, "receive_time": time, "side": side, "price": price, "average_price": average, "quantity": quantity,
            "filled_quantity": filled, "sampling_cap_ms": cap,
        })  # fmt: skip


def features(events, until, name=BTC, **analytics):
    outputs, _ = run(Feed(events, until), config(**analytics))
    return {record["event_time"] - START: record for record in decoded(outputs, "features") if record["instrument"] == name}


def test_microprice_and_weighted_mid_by_hand_and_stale():
    at = features([
        (14_000, "quote", BTC, 1_000.0, 3.0, 1_001.0, 1.0),
        (14_500, "depth", [(1_000.0, 3.0), (999.0, 5.0)], [(1_001.0, 1.0), (1_002.0, 1.0)]),
        (29_000, "quote", BTC, 1_000.0, 0.0, 1_001.0, 1.0),
        (29_500, "depth", [(1_000.0, 1.0)], [(1_001.0, 1.0)], "invalid"),
    ], 60_000)  # fmt: skip
    assert at[GRID]["microprice"] == 1_000.75  # (1000 * 1 + 1001 * 3) / 4
    assert at[GRID]["weighted_mid"] == pytest.approx((1_000 * 2 + 1_001 * 8) / 10, rel=1e-15)
    assert at[2 * GRID]["microprice"] is None  # nothing bid for
    assert at[2 * GRID]["weighted_mid"] is None  # the book is not live
    assert at[3 * GRID]["microprice"] is at[3 * GRID]["weighted_mid"] is None  # stale


def test_weighted_mid_counts_ten_levels():
    bids = [(1_000.0 - n, 1.0) for n in range(10)] + [(900.0, 500.0)]
    asks = [(1_002.0 + n, 3.0) for n in range(10)] + [(1_900.0, 500.0)]
    at = features([(14_000, "depth", bids, asks)], GRID)
    assert at[GRID]["weighted_mid"] == pytest.approx((1_000 * 30 + 1_002 * 10) / 40, rel=1e-15)


QUOTES = [
    # bid up: +2; ask unchanged with 1 less: +1
    ((1_000.0, 5.0, 1_001.0, 4.0), 0),
    ((1_000.5, 2.0, 1_001.0, 3.0), 2 + 1),
    # bid down: -2; ask down with 1: -1
    ((1_000.0, 9.0, 1_000.5, 1.0), -2 - 1),
    # bid unchanged with 1 more: +1; ask up: + the 1 that stood there
    ((1_000.0, 10.0, 1_002.0, 7.0), 1 + 1),
    # nothing
    ((1_000.0, 10.0, 1_002.0, 7.0), 0),
]


def test_ofi_by_hand_null_until_covered_and_when_stale():
    quotes = [(1_000 + 1_000 * n, "quote", BTC, *quote) for n, (quote, _) in enumerate(QUOTES)]
    # One a step keeps the quote fresh; the same quote adds nothing.
    quotes += [(n * GRID - 100, "quote", BTC, *QUOTES[-1][0]) for n in range(1, 9)]
    at = features(quotes, 10 * GRID)
    assert [at[n * GRID]["ofi_1m"] for n in range(1, 11)] == [None] * 4 + [0.0] * 4 + [None] * 2
    more = [*quotes, (6 * GRID + 5_000, "quote", BTC, 1_000.0, 10.5, 1_002.0, 7.0), (6 * GRID + 6_000, "quote", BTC, *QUOTES[-1][0])]
    at = features([*more, (7 * GRID + 7_000, "quote", BTC, 1_001.0, 0.25, 1_002.0, 7.0)], 8 * GRID)
    assert at[7 * GRID]["ofi_1m"] == 0.0  # came and went
    early = [(-50_000 + 1_000 * n, "quote", BTC, *quote) for n, (quote, _) in enumerate(QUOTES)]
    at = features([*early, *quotes[5:]], 6 * GRID)
    # Quotes from before the instrument's first pane count as of that pane: no minute is covered before one has gone by.
    assert [at[n * GRID]["ofi_1m"] for n in range(1, 7)] == [None] * 4 + [0.0] * 2


def test_ofi_sums_the_events():
    rows = [(20_000 + 1_000 * n, "quote", BTC, *quote) for n, (quote, _) in enumerate(QUOTES)]
    rows = [(10, "quote", BTC, *QUOTES[0][0]), *rows, *[(n * GRID - 100, "quote", BTC, *QUOTES[-1][0]) for n in range(3, 8)]]
    at = features(rows, 8 * GRID)
    total = sum(flow for _, flow in QUOTES)
    assert at[5 * GRID]["ofi_1m"] == total == 2 and at[6 * GRID]["ofi_1m"] == 0.0
    assert at[5 * GRID]["ofi_5m"] is None


def test_a_late_quote_joins_when_it_is_the_newest_and_is_left_out_when_not():
    base = [(n * GRID - 100, "quote", BTC, 1_000.0, 10.0, 1_002.0, 7.0) for n in range(1, 8)]
    plain, late, old = (Feed(base, 8 * GRID) for _ in range(3))
    for log, time in ((late, 6 * GRID - 50), (old, 6 * GRID - 5_000)):
        # Said at the end of the log, with a cut of its own: after its instant fired, before the next one does.
        where = next(n for n, m in enumerate(log.topics["progress"]) if m[1] == START + 7 * GRID + 250)
        quotes = tuple(m for m in log.topics["quotes"] if m[1] <= START + 6 * GRID)
        rest = [m for m in log.topics["quotes"] if m[1] > START + 6 * GRID]
        log.topics["quotes"] = list(quotes)
        log.put_quote(START + time, 1_000, BTC, 1_000.0, 12.0, 1_002.0, 7.0)
        log.topics["quotes"] += [(n, *m[1:]) for n, m in enumerate(rest, len(log.topics["quotes"]))]
        marks = log.topics["progress"]
        log.topics["progress"] = []
        for n, (_, time_of, _, _) in enumerate(marks):
            fed = len(quotes) if n < where else len(log.topics["quotes"])
            log.mark(
                time_of, cut={"quotes": min(fed, sum(m[1] <= time_of for m in log.topics["quotes"])), "instruments": 2, "agg_trades": 1}
            )
    results = [{r["event_time"] - START: r["ofi_1m"] for r in decoded(run(log, config())[0], "features")} for log in (plain, late, old)]
    assert results[0][6 * GRID] == results[1][6 * GRID] == results[2][6 * GRID] == 0.0
    assert results[0][7 * GRID] == results[2][7 * GRID] == 0.0
    assert results[1][7 * GRID] == 0.0  # 10 -> 12 -> 10: came late and went, in the pane that was open


def test_basis_of_the_recording_and_stale():
    _, _, marks = recording("btcusdt_20230405")
    assert len(marks) == 415
    first = marks[0][0]
    log = Log()
    log.instrument(BTC, price_decimals=1)
    log.trade(first, 0, 28_000.0, 1.0, False, BTC)
    due = log.due_time(first)
    plain = dict.fromkeys(("estimated_settle_price", "settled_rate", "next_funding_time", "interval_hours"))
    for time, mark, index, rate in marks:
        while time > due:
            log.mark(due)
            due += GRID
        log.append("funding", {
            "instrument": BTC, "event_time": time, "receive_time": time, "mark_price": mark, "index_price": index, "estimated_rate": rate, **plain,
        })  # fmt: skip
    for n in range(3):
        log.mark(due + n * GRID)
    found = decoded(run(log, config())[0], "features")
    for record in found:
        known = [(mark, index) for time, mark, index, _ in marks if time <= record["event_time"]]
        fresh = known and record["event_time"] - marks[len(known) - 1][0] <= 5_000
        expected = (known[-1][0] - known[-1][1]) / known[-1][1] if fresh else None
        assert record["basis"] == expected
    assert sum(record["basis"] is not None for record in found) > 20 and found[-1]["basis"] is None


def test_spot_basis_has_the_divergences_sign_turned():
    log = Feed([(29_000, "quote", SPOT, 999.0, 1.0, 1_001.0, 1.0), (29_500, "funding", {"mark_price": 1_010.0})], 45_000)
    at = {r["event_time"] - START: r for r in decoded(run(log, config())[0], "features") if r["instrument"] == BTC}
    assert at[2 * GRID]["spot_basis"] == 0.01 and at[2 * GRID]["basis"] is None
    assert at[2 * GRID]["spot_perp_divergence"] == pytest.approx(-10 / 1_010)
    assert at[GRID]["spot_basis"] is at[3 * GRID]["spot_basis"] is None


def funding_log(rows, until):
    """Rows (time, kind, rate) with the marks of every grid step up to ``until``, time after START."""
    log = Feed([], 0)
    log.topics["progress"] = []
    due, rows = GRID + 250, sorted(rows, key=lambda row: row[0])
    for time, kind, rate in rows:
        while time > due:
            log.mark(START + due)
            due += GRID
        log.put_funding(START + time, 0, {"settled_rate" if kind == "settled" else "estimated_rate": rate})
    while due <= until + 250:
        log.mark(START + due)
        due += GRID
    return log


def test_funding_zscore_over_the_rates_settled_in_its_window():
    source = random.Random(4)
    rates = [round(source.gauss(1e-4, 5e-5), 8) for _ in range(34)]
    rows = [(n * HOUR, "settled", rate) for n, rate in enumerate(rates)]
    rows += [rows[5], (6 * HOUR, "settled", 0.5)]  # said again, and said again differently: the first word holds
    asked = [(n * HOUR + 10 * GRID - 1_000, "estimate", 2e-4 + n * 1e-6) for n in range(3, 34)]
    log = funding_log(rows + asked, 33 * HOUR + 60 * GRID)
    numbers = config(funding_min=5, funding_window_ms=24 * HOUR)
    at = {r["event_time"] - START: r for r in decoded(run(log, numbers)[0], "features") if r["instrument"] == BTC}
    checked = 0
    for n in range(3, 34):
        instant = n * HOUR + 10 * GRID
        history = [rate for m, rate in enumerate(rates) if instant - 24 * HOUR < m * HOUR <= instant]
        value = at[instant]["funding_zscore"]
        if len(history) < 5:
            assert value is None
            continue
        expected = (2e-4 + n * 1e-6 - statistics.mean(history)) / statistics.stdev(history)
        assert value == pytest.approx(expected, rel=1e-9)
        assert len(history) <= 24
        assert at[instant + 30 * GRID]["funding_zscore"] == value  # within ten minutes
        assert at[instant + 41 * GRID]["funding_zscore"] is None  # stale
        checked += 1
    assert checked == 30


def test_funding_zscore_without_settled_rates_by_hourly_estimates_and_equal_ones_undefined():
    rows = [(n * HOUR - 1_000, "estimate", 1e-4 + (n % 4) * 1e-5) for n in range(1, 16)]
    at = {r["event_time"] - START: r for r in decoded(run(funding_log(rows, 15 * HOUR), config())[0], "features") if r["instrument"] == BTC}
    for n in range(1, 16):
        record = at[n * HOUR]
        assert record["funding_zscore"] is None
        history = [rate for _, _, rate in rows[:n]]
        if n < 10:
            assert record["funding_zscore_estimated"] is None
        else:
            expected = (history[-1] - statistics.mean(history)) / statistics.stdev(history)
            assert record["funding_zscore_estimated"] == pytest.approx(expected, rel=1e-9)
    flat = [(n * HOUR - 1_000, "estimate", 1e-4) for n in range(1, 13)]
    last = decoded(run(funding_log(flat, 12 * HOUR), config())[0], "features")[-1]
    assert last["estimated_funding_rate"] == 1e-4 and last["funding_zscore_estimated"] is None


def test_liquidation_pressure_and_cap():
    at = features([
        (20_000, "liquidation", "LONG", 1_000.0, 2.0, 1000),
        (40_000, "liquidation", "SHORT", 1_000.0, 0.5, 1000, 1_001.0, 0.4),
        (50_000, "liquidation", "SHORT", 1_000.0, 1.0, None),
    ], 25 * GRID)  # fmt: skip
    assert at[GRID]["liquidation_pressure"] is at[GRID]["liquidation_cap_ms"] is None  # not a measured zero yet
    assert (at[2 * GRID]["liquidation_pressure"], at[2 * GRID]["liquidation_cap_ms"]) == (2_000.0, 1000.0)
    assert at[3 * GRID]["liquidation_pressure"] == 2_000.0 - 1_001.0 * 0.4
    assert at[4 * GRID]["liquidation_pressure"] == pytest.approx(2_000.0 - 400.4 - 1_000.0, abs=1e-12)
    assert at[4 * GRID]["liquidation_cap_ms"] is None  # the newest says that the venue sends all
    assert at[25 * GRID]["liquidation_pressure"] == 0.0  # five minutes later: measured


def mixed_log(seed, events=600):
    """Everything at once, at random; some of it garbage."""
    source = random.Random(seed)
    rows, price = [], 1_000.0
    for _ in range(events):
        time = source.randrange(60 * GRID)
        price = round(price + source.choice((-0.5, 0.0, 0.5)), 1)
        quote = (price, source.randrange(1, 50) / 10, price + 0.5, source.randrange(1, 50) / 10)
        kind = source.choice(("trade", "quote", "quote", "quote", "spot", "depth", "liquidation"))
        if kind == "trade":
            rows.append((time, "trade", BTC, price))
        elif kind == "quote":
            rows.append((time, "quote", BTC, *(quote if source.random() < 0.95 else (math.nan, 1.0, -1.0, math.inf))))
        elif kind == "spot":
            rows.append((time, "quote", SPOT, *quote))
        elif kind == "depth":
            rows.append((time, "depth", [quote[:2]], [quote[2:]]))
        else:
            rows.append((time, "liquidation", source.choice(("LONG", "SHORT")), price, 1.5, source.choice((None, 1000))))
    return rows


@pytest.mark.parametrize("seed", range(2))
def test_everything_at_once_cut_killed_and_rebuilt(seed):
    rows = mixed_log(seed)
    log = Feed(rows, 62 * GRID)
    numbers = config(kyle_window_ms=10 * GRID, vpin_bucket={"BTC": 3.0}, vpin_buckets=4, divergence_bars=3)
    plain = decoded(run(log, numbers)[0], "features")
    for name in ("microprice", "weighted_mid", "ofi_1m", "ofi_5m", "vpin", "vpin_bulk", "kyle_lambda", "liquidation_pressure"):
        assert any(record[name] is not None for record in plain), name
    for again in (1, 2):
        killed = decoded(run(log, numbers, seed=again, restart_every=5, size=60)[0], "features")
        assert killed == plain


@pytest.mark.parametrize("seed", range(3))
def test_no_input_after_an_instant_changes_its_record(seed):
    rows = mixed_log(seed)
    numbers = config(kyle_window_ms=10 * GRID, vpin_bucket={"BTC": 3.0}, vpin_buckets=4, divergence_bars=3)
    plain = decoded(run(Feed(rows, 62 * GRID), numbers)[0], "features")
    cut = 35 * GRID
    other = [row for row in rows if row[0] < cut] + [(time + cut, *rest) for time, *rest in mixed_log(seed + 100, 300) if time < 20 * GRID]
    changed = decoded(run(Feed(other, 62 * GRID), numbers)[0], "features")
    before = [record for record in plain if record["event_time"] <= START + cut]
    # Ids are given in order of time, so what lies before has its own.
    assert changed[: len(before)] == before and changed[len(before) :] != plain[len(before) :]
