"""The same log gives the same bytes: whatever the feeds, restarts, repeats and the order of records (DESIGN 3 and 4)."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec.recordset import RecordSet
from stream_apps.core.log import checkpoint
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.signals.engine import SignalsEngine
from tests.support.markets.logs import CODEC, LTC, Log, decoded, ltc_trades, run

GRID = 15_000
START = 1_750_000_000_000 - 1_750_000_000_000 % GRID
TOPICS = ("features", "bars", "worker_progress", "dead_letters")


def results(outputs):
    return {topic: decoded(outputs, topic) for topic in TOPICS}


@pytest.fixture(scope="module")
def ltc_log():
    log = Log()
    log.instrument()
    log.trades(ltc_trades(20_000))
    return log


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_output_bytes_do_not_depend_on_how_the_log_is_cut_into_feeds(ltc_log, seed):
    plain, _ = run(ltc_log)
    cut, _ = run(ltc_log, seed=seed, size=3000)
    assert [output[:4] for output in cut] == [output[:4] for output in plain]


def test_a_round_ends_with_the_mark_that_gives_as_many_outputs_as_are_wanted(ltc_log):
    """However long a worker was away, what it holds at a time is bounded."""
    plain, _ = run(ltc_log)
    engine = SignalsEngine(0, EngineConfig(grid_ms=ltc_log.grid, lateness_ms=ltc_log.lateness, quantile_history_ms=0), CODEC)
    for topic, messages in ltc_log.topics.items():
        engine.feed(topic, RecordSet.from_messages(messages))
    rounds = list(iter(lambda: engine.advance(10), []))
    most_of_a_mark = 2 + 6  # features and the step, and a bar of each timeframe
    assert len(rounds) > 10 and all(10 <= len(one) < 10 + most_of_a_mark for one in rounds[:-1])
    assert [output[:4] for one in rounds for output in one] == [output[:4] for output in plain]


@pytest.mark.parametrize("seed", range(4))
def test_an_engine_killed_at_random_and_rebuilt_from_its_changelog_gives_the_same(ltc_log, seed):
    plain, engine = run(ltc_log)
    killed, rebuilt = run(ltc_log, seed=seed, restart_every=5, size=2500)
    assert results(killed) == results(plain)
    assert rebuilt.counts == engine.counts
    for name in ("meta", "atr", "atr_history", "histogram", "totals", "bars"):
        assert (rebuilt.state.a[name][:1] == engine.state.a[name][:1]).all()


trade = st.tuples(st.integers(1, 40 * GRID), st.integers(1, 5_000), st.integers(1, 9_999), st.booleans())


@settings(max_examples=30, deadline=None)
@given(st.lists(trade, min_size=1, max_size=80, unique_by=lambda row: row[0]), st.integers(0, 2**32))
def test_random_trades_in_any_order_within_a_step_and_repeated(trades, seed):
    rows = [(START + t, i, p / 100, q / 1000, m) for i, (t, p, q, m) in enumerate(sorted(trades))]
    source = random.Random(seed)
    straight, mixed = Log(), Log()
    for log in (straight, mixed):
        log.instrument()
    straight.trades(rows)
    due = mixed.due_time(rows[0][0])
    while due <= straight.due_time(rows[-1][0]) + GRID:
        step = [row for row in rows if due - GRID < row[0] <= due]
        source.shuffle(step)
        for row in step:
            for _ in range(source.choice((1, 1, 2))):
                mixed.trade(*row)
        mixed.mark(due)
        due += GRID
    one, _ = run(straight)
    two, engine = run(mixed, seed=seed, size=7)
    # Trades of equal time are ordered by offset, so what is built on a pane's last price may differ in a shuffled log: here no two are of one time.
    assert decoded(one, "features") == decoded(two, "features")
    assert engine.counts["duplicates"] == len(mixed.topics["agg_trades"]) - len(rows)


def test_a_late_trade_is_counted_joins_its_pane_and_rewrites_nothing():
    log = Log()
    log.instrument()
    rows = [(START + i * 1_000 + 1, i, 100.0, 1.0, False) for i in range(600)]
    held = rows.pop(100)  # comes 5 minutes late
    first_fired_after = log.due_time(rows[400][0])
    log.trades([*rows[:400], held, *rows[400:]])
    outputs, engine = run(log)
    features = decoded(outputs, "features")
    for before, record in pairwise(features):
        instant = record["event_time"]
        known = [r for r in rows if r[0] <= instant]
        late = 1 if record["receive_time"] >= first_fired_after else 0
        if record["cvd_5m"] is not None:
            window = [r for r in known if r[0] > instant - 300_000] + ([held] if late and instant - 300_000 < held[0] else [])
            assert record["cvd_5m"] == len(window)
        assert record["late_trades"] == late >= before["late_trades"]
    assert engine.counts["late"] == 1
    # The rebuilt state holds the late trade too.
    entries = {key: value for key, value in engine.checkpoint() if value is not None}
    again = SignalsEngine.restore(0, engine.config, CODEC, entries.items())
    assert same(features_row(again), features_row(engine))


def same(one, two):
    return ((one == two) | ((one != one) & (two != two))).all()


def features_row(engine):
    return engine.state.features(engine.instruments_of("test"), engine.last_instant // GRID)[0][0]


def test_restored_features_equal_at_every_checkpoint(ltc_log):
    _, engine = run(ltc_log)
    entries = {key: value for key, value in engine.checkpoint() if value is not None}
    again = SignalsEngine.restore(0, engine.config, CODEC, entries.items())
    assert same(features_row(engine), features_row(again))


def test_bars_are_written_as_the_codec_writes_them(ltc_log):
    outputs, _ = run(ltc_log)
    values = [output.value for output in outputs if output.topic == "bars"]
    records = [CODEC.decode("bars", value) for value in values]
    assert len({record["timeframe"] for record in records}) > 2 and {record["source"] for record in records} == {"trades"}
    assert values == [CODEC.encode("bars", record) for record in records]
    assert all(
        record["low"] <= min(record["open"], record["close"]) <= max(record["open"], record["close"]) <= record["high"]
        for record in records
    )
    assert all(abs(record["cvd"]) <= record["volume"] and (record["volume"] > 0) == (record["trades"] > 0) for record in records)


def test_a_former_owners_late_head_does_not_win(ltc_log):
    _, engine = run(ltc_log)
    young = {key: value for key, value in engine.checkpoint() if value is not None}
    half = Log(dict(ltc_log.topics))
    half.topics["progress"] = half.topics["progress"][: len(half.topics["progress"]) // 2]
    _, older = run(half)
    older._sequence = 1  # its head goes to another key than the successor's
    old = {key: value for key, value in older.checkpoint() if value is not None}
    merged = SignalsEngine.restore(0, engine.config, CODEC, {**young, **old}.items())
    assert merged.positions() == engine.positions()
    assert same(features_row(engine), features_row(merged))


def test_a_changelog_with_a_pane_missing_is_refused(ltc_log):
    _, engine = run(ltc_log)
    entries = {key: value for key, value in engine.checkpoint() if value is not None}
    victim = next(key for key in entries if key.startswith(b"p"))
    del entries[victim]
    with pytest.raises(checkpoint.ChangelogDamaged):
        SignalsEngine.restore(0, engine.config, CODEC, entries.items())


def test_another_grid_is_refused_by_name(ltc_log):
    _, engine = run(ltc_log)
    entries = [(key, value) for key, value in engine.checkpoint() if value is not None]
    with pytest.raises(ValueError, match="grid_ms"):
        SignalsEngine.restore(0, EngineConfig(grid_ms=30_000), CODEC, entries)


def test_bad_records_go_to_dead_letters_with_bytes_and_reason_and_lose_nothing_else():
    log = Log()
    log.instrument()
    log.trade(START + 1, 1, 100.0, 1.0, False)
    log.raw("agg_trades", b"garbage")
    log.raw("agg_trades", None)
    log.raw("agg_trades", CODEC.header("agg_trades") + b"\xff\xff")
    log.raw("agg_trades", b"\xc3\x01" + bytes(8) + b"body")
    log.trade(START + 2, 2, -1.0, 1.0, False)
    log.trade(START + 2, 3, 100.001, 1.0, False)
    log.trade(START + 2, 4, float("nan"), 1.0, False)
    log.trade(START + 2, 5, 100.0, 0.0, False)
    log.trade(START + 3, 6, 100.0, 1.0, False, name="BINANCE:NOBODY-PERP")
    log.trade(START + 86_400_000, 7, 100.0, 1.0, False)
    log.trade(START + 4, 8, 100.0, 1.0, True)
    log.mark(START + GRID + 250)
    log.raw("progress", b"not a mark", key="test")
    log.mark(START + 2 * GRID + 250)
    outputs, engine = run(log)
    letters = decoded(outputs, "dead_letters")
    assert [(letter["source_offset"], letter["field"]) for letter in letters if letter["source"] == "agg_trades"] == [
        (1, None), (2, None), (3, None), (4, None), (5, "price"), (6, "price"), (7, "price"), (8, "quantity"), (9, "instrument"), (10, "event_time"),
    ]  # fmt: skip
    assert [letter["source"] for letter in letters].count("progress") == 1
    by_offset = {letter["source_offset"]: letter for letter in letters if letter["source"] == "agg_trades"}
    for offset, letter in by_offset.items():
        assert letter["value"] == log.topics["agg_trades"][offset][3]
        assert letter["reason"]
    assert "fingerprint" in by_offset[4]["reason"]
    assert engine.counts["rejected"] == len(letters)
    assert decoded(outputs, "features")[0]["pane_trades"] == 2


def test_a_mark_years_ahead_is_refused():
    log = Log()
    log.instrument()
    log.trade(START + 1, 1, 100.0, 1.0, False)
    log.mark(START + GRID + 250)
    log.mark(START + 40 * 86_400_000)
    log.mark(START + 2 * GRID + 250)
    outputs, _ = run(log)
    assert [record["event_time"] for record in decoded(outputs, "features")] == [START + GRID, START + 2 * GRID]
    assert [letter["field"] for letter in decoded(outputs, "dead_letters")] == ["event_time"]


def test_two_authors_fire_their_own_instruments_only():
    log = Log()
    log.instrument(LTC, author="one")
    log.instrument("BYBIT:LTCUSDT-PERP", author="two")
    log.trade(START + 1, 1, 100.0, 1.0, False, LTC)
    log.trade(START + 2, 1, 101.0, 1.0, False, "BYBIT:LTCUSDT-PERP")
    log.mark(START + GRID + 250, "one")
    log.mark(START + 2 * GRID + 250, "one")
    log.mark(START + GRID + 500, "two", "BYBIT")
    log.mark(START + 2 * GRID + 500, "two", "BYBIT")
    outputs, _ = run(log)
    fired = [(record["instrument"], record["event_time"], record["receive_time"]) for record in decoded(outputs, "features")]
    assert (
        fired
        == [
            (LTC, START + GRID, START + GRID + 250),
            (LTC, START + 2 * GRID, START + 2 * GRID + 250),
            ("BYBIT:LTCUSDT-PERP", START + 2 * GRID, START + 2 * GRID + 500),
        ]
        or fired[2][0] == "BYBIT:LTCUSDT-PERP"
    )
    steps = [(step["author"], step["event_time"]) for step in decoded(outputs, "worker_progress")]
    assert ("one", START + GRID) in steps and ("two", START + 2 * GRID) in steps


def test_records_beyond_the_cut_wait_for_their_mark():
    log = Log()
    log.instrument()
    log.trade(START + 1, 1, 100.0, 1.0, False)
    log.trade(START + 2, 2, 100.0, 2.0, False)
    log.mark(START + GRID + 250, cut={"agg_trades": 1, "instruments": 1})
    log.mark(START + 2 * GRID + 250, cut={"agg_trades": 2})
    outputs, engine = run(log)
    assert [record["pane_trades"] for record in decoded(outputs, "features")] == [1, 0]
    assert engine.counts["late"] == 1
