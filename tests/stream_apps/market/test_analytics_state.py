"""State of the analytics: exact sums, settings, changelogs of this and the earlier format, finer decimals."""

from __future__ import annotations

import json
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.settings import Settings
from stream_apps.core.log import checkpoint
from stream_apps.core.market import checkpoint as market_checkpoint
from stream_apps.core.market.analytics import int128
from stream_apps.core.market.analytics.config import MEASURES, AnalyticsConfig
from stream_apps.core.market.analytics.measures import vpin
from stream_apps.core.market.analytics.store import FEATURES
from stream_apps.core.market.checkpoint import _unpack_pane
from stream_apps.core.market.columns import CLOSED
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.signals.engine import SignalsEngine
from tests.stream_apps.market.analytics_oracle import BTC, GRID, config
from tests.stream_apps.market.test_analytics_inputs import Feed, mixed_log
from tests.support.markets.logs import CODEC, Log, decoded, ltc_trades, run

longs = st.integers(-(2**62), 2**62)


def whole(total):
    value = int(total[1]) << 64 | int(total[0])
    return value - (1 << 128) if value >> 127 else value


@given(st.lists(st.tuples(longs, longs), max_size=8))
def test_wide_sums_are_exact_and_come_apart_again(pairs):
    total = np.zeros(2, dtype=np.uint64)
    for a, b in pairs:
        int128.add(total, a, b)
    modulus = 1 << 128
    assert (whole(total) - sum(a * b for a, b in pairs)) % modulus == 0
    for a, b in pairs:
        int128.add(total, -a, b)
    assert whole(total) == 0


@given(st.lists(st.tuples(st.integers(-(2**50), 2**50), st.integers(-(2**50), 2**50)), min_size=1, max_size=20))
def test_spread_does_not_cancel(pairs):
    total = np.zeros(2, dtype=np.uint64)
    for a, b in pairs:
        int128.add(total, a, b)
    n, sum_a, sum_b = len(pairs), sum(a for a, _ in pairs), sum(b for _, b in pairs)
    exact = n * sum(a * b for a, b in pairs) - sum_a * sum_b
    assert int128.spread(n, total, sum_a, sum_b) == pytest.approx(exact, rel=4e-16, abs=0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), max_size=30),
    st.integers(1, 60),
    st.integers(1, 6),
)
def test_buckets_hold_all_volume_whatever_the_sizes(volumes, size, n):
    clock, buckets = np.zeros((1, 2, vpin.N_CLOCK), np.int64), np.zeros((1, 2, n, 2), np.int64)
    clock[0, 1, vpin.NEXT] = size
    for buy, sell in volumes:
        vpin.fill_buckets(clock, buckets, 0, vpin.BULK, buy, sell)
    state = clock[0, 1]
    assert state[vpin.COUNT] * size + state[vpin.BUY] + state[vpin.SELL] == sum(buy + sell for buy, sell in volumes)
    assert 0 <= state[vpin.BUY] + state[vpin.SELL] < size
    assert state[vpin.IMBALANCE] == buckets[0, 1, :, 0].sum() and state[vpin.VOLUME] == buckets[0, 1, :, 1].sum()
    assert (buckets[0, 1, :, 0] <= buckets[0, 1, :, 1]).all()
    assert (clock[0, 0] == 0).all()


def test_a_print_of_a_million_buckets_is_taken_at_once():
    clock, buckets = np.zeros((1, 2, vpin.N_CLOCK), np.int64), np.zeros((1, 2, 50, 2), np.int64)
    clock[0, 0, vpin.NEXT] = 1
    vpin.fill_buckets(clock, buckets, 0, vpin.TRUE, 10**15, 0)
    assert clock[0, 0, vpin.COUNT] == 10**15 and vpin.value(clock[0, 0], 50) == 1.0


# --- settings --------------------------------------------------------------------------------------------------------
def test_settings_name_measures_and_buckets():
    def of(**values):
        return EngineConfig.from_settings(Settings(**values)).analytics

    assert of().measures == frozenset(MEASURES)
    assert of(analytics="none").measures == frozenset()
    assert of(analytics="vpin, ofi").measures == {"vpin", "ofi"}
    assert of(vpin_buckets="BTC=25,DOGE=1e6", vpin_bucket_count=10).vpin_bucket == {
        **AnalyticsConfig().vpin_bucket,
        "BTC": 25.0,
        "DOGE": 1e6,
    }
    assert of(vpin_bucket_count=10).vpin_buckets == 10
    for wrong, named in (({"analytics": "vpin,rsi"}, "rsi"), ({"vpin_buckets": "BTC"}, "BTC"), ({"vpin_buckets": "BTC=-1"}, "BTC")):
        with pytest.raises(ValueError, match=named):
            of(**wrong)
    for wrong in (GRID, GRID * 3 // 2, 86_400_000 + GRID):
        with pytest.raises(ValueError, match="kyle_window_ms"):
            config(kyle_window_ms=wrong)
    with pytest.raises(ValueError, match="funding_min"):
        AnalyticsConfig(funding_min=1)


def test_nothing_switched_on_leaves_no_field_and_no_entry():
    log = Feed(mixed_log(1, 200), 20 * GRID)
    outputs, engine = run(log, config(measures=frozenset()))
    assert all(record[name] is None for record in decoded(outputs, "features") for name in FEATURES)
    assert not engine.state.analytics.groups and not engine.state.analytics._waiting.any()


# --- changelogs ------------------------------------------------------------------------------------------------------
NUMBERS = {"kyle_window_ms": 10 * GRID, "vpin_bucket": {"BTC": 3.0}, "vpin_buckets": 4, "divergence_bars": 3}


@pytest.fixture(scope="module")
def mixed():
    """An engine that has gone through everything at once, and its changelog."""
    _, engine = run(Feed(mixed_log(5), 62 * GRID), config(**NUMBERS))
    return engine, {key: value for key, value in engine.checkpoint() if value is not None}


def row_of(engine):
    """The analytics of the first instrument at the newest instant."""
    return dict(
        zip(FEATURES, engine.state.features(np.array([0]), engine.last_instant // GRID)[0][0, -len(FEATURES) :].tolist(), strict=True)
    )


def the_same(one, two):
    return all(a == b or (a != a and b != b) for a, b in zip(one.values(), two.values(), strict=True))


def test_a_rebuilt_engine_says_the_same(mixed):
    engine, entries = mixed
    again = SignalsEngine.restore(0, config(**NUMBERS), CODEC, entries.items())
    assert the_same(row_of(again), row_of(engine))
    assert sum(value == value for value in row_of(engine).values()) >= 8


def plain_entry(engine, pane):
    """The entry of a pane, array by array, as the module says it is; None: nothing was traded in it."""
    state = engine.state
    rows, sums, flows, prints = [], [], [], []
    for i in range(len(state.names)):
        closed, cumulative = int(state.a["meta"][i, CLOSED]), state.a["cumulative"][i]
        traded = cumulative[pane % state.ring] - cumulative[(pane - 1) % state.ring]
        if not closed >= pane:
            continue
        if pane > closed - state.ring + 1 and traded[3] > 0:
            rows.append(i)
            sums.append(traded)
            prints.append(state.kept.of_panes(np.array([i]), np.array([1]), np.array([pane]))[0])
        if state.analytics.groups:
            of, returns = state.analytics.a["flows"][i], state.analytics.a["returns"][i]
            flow = of[pane % len(of)] if pane > closed - len(of) else np.zeros_like(of[0])
            change = returns[pane % len(returns)] if pane > closed - len(returns) else 0
            if flow.any() or change:
                flows.append([i, *flow, change])
    if not rows and not flows:
        return None
    histogram = state.pane_histogram.get(pane, np.empty(0, dtype=np.int64))
    header = struct.pack("<qiii", pane, len(rows), len(histogram), sum(map(len, prints)))
    arrays = [np.array(rows, dtype="<i4"), np.array(sums, dtype="<i8"), histogram, *prints, np.array(flows, dtype="<i8")]
    return header + b"".join(array.tobytes() for array in arrays)


@pytest.mark.parametrize("measures", [frozenset(MEASURES), frozenset()], ids=["analytics", "none"])
def test_the_entries_of_panes_are_the_arrays_one_after_another(monkeypatch, measures):
    monkeypatch.setattr(market_checkpoint, "_AT_ONCE", 7)
    mixed_run = run(Feed(mixed_log(5), 62 * GRID), config(**NUMBERS, measures=measures))[1]
    log = Log()
    log.instrument()
    log.instrument("BINANCE:BTCUSDT-PERP")
    log.trades(ltc_trades(3_000))
    ltc_run = run(
        log,
        EngineConfig(
            grid_ms=log.grid,
            lateness_ms=log.lateness,
            analytics=AnalyticsConfig(measures=measures),
            print_floor=500.0,
            quantile_history_ms=0,
        ),
    )[1]
    for engine in (mixed_run, ltc_run):
        newest = int(engine.state.a["meta"][:, CLOSED].max())
        panes = range(newest - 200, newest + 3)
        engine.state.dirty = set(panes)
        *entries, (head, _) = engine.checkpoint()
        assert head.startswith(b"h")
        assert entries == [
            (b"p%d" % (pane % engine.state.ring), plain) for pane in panes if (plain := plain_entry(engine, pane)) is not None
        ]
        parts = [_unpack_pane(value)[1] for _, value in entries]
        assert sum(len(part["sums"]) for part in parts) > 20 and sum(len(part["histogram"]) for part in parts) > 20
        assert any(len(part["flows"]) for part in parts) == bool(engine.state.analytics.groups)
    assert sum(len(part["prints"]) for part in parts) > 20


def test_a_changelog_of_format_2_is_read_and_the_analytics_begin_anew(mixed):
    engine, entries = mixed
    old = {}
    for key, value in entries.items():
        if key.startswith(b"h"):
            meta, arrays = checkpoint.unpack(value)
            meta["format"] = 2
            del meta["analytics"]
            old[key] = checkpoint.pack(meta, {name: array for name, array in arrays.items() if not name.startswith("analytics.")})
        else:
            _, arrays = _unpack_pane(value)
            old[key] = value[: len(value) - arrays["flows"].nbytes]
            assert len(_unpack_pane(old[key])[1]["flows"]) == 0
    again = SignalsEngine.restore(0, config(**NUMBERS), CODEC, old.items())
    found = row_of(again)
    bases = {"basis", "spot_basis", "liquidation_pressure", "vpin_bucket_volume"}  # made of the market state, or of the configuration
    assert all(value != value for name, value in found.items() if name not in bases)
    assert found["liquidation_pressure"] == row_of(engine)["liquidation_pressure"]
    assert again.positions() == engine.positions()


def test_another_format_is_refused_by_its_number(mixed):
    _, entries = mixed
    key, value = next((key, value) for key, value in entries.items() if key.startswith(b"h"))
    meta, arrays = checkpoint.unpack(value)
    with pytest.raises(ValueError, match="format 4"):
        SignalsEngine.restore(0, config(**NUMBERS), CODEC, [(key, checkpoint.pack({**meta, "format": 4}, arrays))])


def test_a_pane_without_its_flows_is_found_out(mixed):
    _, entries = mixed
    newest = max((_unpack_pane(value)[0], key) for key, value in entries.items() if key.startswith(b"p"))
    for key, value in entries.items():
        if key.startswith(b"p"):
            pane, arrays = _unpack_pane(value)
            if newest[0] - 8 < pane < newest[0] and len(arrays["flows"]):
                broken = {**entries, key: value[: len(value) - arrays["flows"].nbytes]}
                with pytest.raises(checkpoint.ChangelogDamaged):
                    SignalsEngine.restore(0, config(**NUMBERS), CODEC, broken.items())
                return
    raise AssertionError("no pane to break")


@pytest.mark.parametrize(
    ("changed", "anew"),
    [
        ({"vpin_buckets": 5}, {"vpin", "vpin_bulk"}),
        ({"divergence_bars": 2}, {"cvd_divergence_1m"}),
        ({"measures": frozenset(MEASURES) - {"ofi", "microprice"}}, {"ofi_1m", "ofi_5m", "microprice", "weighted_mid"}),
        ({"measures": frozenset(MEASURES) - {"vpin"}}, {"vpin"}),
    ],
)
def test_other_numbers_after_a_restart_begin_what_they_are_about_anew(mixed, changed, anew):
    engine, entries = mixed
    again = SignalsEngine.restore(0, config(**{**NUMBERS, **changed}), CODEC, entries.items())
    before, after = row_of(engine), row_of(again)
    for name in FEATURES:
        if name in anew:
            assert after[name] != after[name], name
        else:
            assert after[name] == before[name] or before[name] != before[name], name


def test_another_window_of_kyle_is_added_up_from_the_panes(mixed):
    _, entries = mixed
    twenty = {**NUMBERS, "kyle_window_ms": 20 * GRID}
    _, engine = run(Feed(mixed_log(5), 62 * GRID), config(**twenty))
    again = SignalsEngine.restore(0, config(**twenty), CODEC, entries.items())
    assert row_of(again)["kyle_lambda"] == row_of(engine)["kyle_lambda"]


def test_a_measure_switched_on_later_waits_for_its_window():
    rows = list(ltc_trades(3_000))
    log = Log()
    log.instrument()
    log.trades(rows)
    _, engine = run(log, config(measures=frozenset({"vpin"})))
    entries = {key: value for key, value in engine.checkpoint() if value is not None}
    again = SignalsEngine.restore(0, config(), CODEC, entries.items())
    name = next(iter(again.state.names))
    last = rows[-1][0]
    more = Log(topics={topic: list(messages) for topic, messages in log.topics.items()})
    more.trades([(last + 60_000 + n * 5_000, rows[-1][1] + 1 + n, 80.0 + n % 3, 1.0, n % 2 == 0) for n in range(900)])
    from schemas.codec.recordset import RecordSet

    for topic, messages in more.topics.items():
        again.feed(topic, RecordSet.from_messages(messages))
    features = decoded(again.advance(), "features")
    known = [record["kyle_lambda"] is not None for record in features]
    assert name and True in known and not any(known[:240]) and all(known[known.index(True) :])


def test_finer_decimals_change_no_value():
    source = random.Random(6)
    start = 1_750_000_000_000 - 1_750_000_000_000 % GRID
    rows = [(start + 1 + n * 900, n, float(100 + source.randrange(7)), float(1 + source.randrange(5)), n % 3 == 0) for n in range(800)]
    found = []
    for finer in (False, True):
        log = Log()
        log.instrument(BTC, price_decimals=0, quantity_decimals=0)
        log.trades(rows[:400], BTC)
        for n in range(12):
            log.append("quotes", {
                "instrument": BTC, "event_time": start + 380_000 + n * 1_000, "receive_time": 1, "update_id": n, "bid_price": 100.0 + n % 2,
                "bid_quantity": 1.0 + n, "ask_price": 103.0, "ask_quantity": 2.0,
            })  # fmt: skip
        if finer:
            log.instrument(BTC, price_decimals=2, quantity_decimals=3, time=rows[400][0])
        log.trades(rows[400:], BTC)
        found.append(decoded(run(log, config(**{**NUMBERS, "vpin_bucket": {"BTC": 20.0}}))[0], "features"))
    names = ("vpin", "kyle_lambda", "realised_volatility_5m", "cvd_divergence_1m", "ofi_1m", "microprice", "vpin_bucket_volume")
    assert all(any(record[name] is not None for record in found[0]) for name in names if name != "ofi_1m")
    for one, two in zip(*found, strict=True):
        for name in names:
            assert one[name] == two[name] or one[name] == pytest.approx(two[name], rel=1e-14), name


def test_the_schema_says_what_and_in_which_unit():
    from schemas.catalogue import schema

    fields = {field["name"]: field for field in schema("features")["fields"]}
    for name in FEATURES:
        assert fields[name]["type"] == ["null", "double"] and fields[name]["default"] is None and len(fields[name]["doc"]) > 15
    assert json.dumps(fields["vpin"])
