"""The quality monitor: clean on real recordings, and each planted fault reported as what it is and as nothing else."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from stream_apps.core.quality.monitor import PartitionMonitor
from stream_apps.core.quality.rules import KINDS, QualityRules, overall_score, stream_score
from tests.support.markets.logs import CODEC, LTC, Log, ltc_trades, pieces
from tests.support.markets.quality_logs import BTC, Row, as_log, btc_rows, findings, kinds, watch
from tests.support.paths import RECORDINGS

T0 = 1_700_000_040_000  # a whole minute


# --- real recordings ---------------------------------------------------------------------------------------------------
def test_the_golden_recording_is_clean_and_scores_ten() -> None:
    outputs = watch(as_log(btc_rows("btcusdt_20240808"), tail_ms=0))
    assert kinds(outputs) == {}
    scores = [output.record for output in outputs if output.record["kind"] == "score"]
    assert {record["stream"] for record in scores} == {"agg_trades", "depth", "quotes", "overall"}
    assert {record["score"] for record in scores} == {10.0}


def test_the_recorder_whose_clock_was_behind_is_found_and_nothing_else() -> None:
    """The recorder of 2024 stamped everything some 1,270 ms before it happened (median of its local stamps minus T: -1,268 to -1,269 ms)."""
    rows = btc_rows("btcusdt_20240808")
    delays = [record["receive_time"] - record["event_time"] for _, record in rows]
    assert -1275 < sorted(delays)[len(delays) // 2] < -1260
    outputs = watch(as_log(rows, recorded=False, tail_ms=0))
    assert {kind for _, kind in kinds(outputs)} == {"clock_skew"}
    assert {stream for stream, _ in kinds(outputs)} == {"agg_trades", "depth", "quotes"}
    assert all(record["value"] in delays for record in findings(outputs))


def test_the_only_print_off_the_market_is_the_only_outlier() -> None:
    """The recording of 2023 holds one trade that was no market trade: the venue marked it INSURANCE_FUND."""
    odd = []
    with gzip.open(RECORDINGS / "binance_usdm_raw" / "btcusdt_20230405.gz", "rt") as file:
        for line in file:
            if '"X":"INSURANCE_FUND"' in line:
                message = json.loads(line.partition(" ")[2])
                odd.append(message.get("data", message))
    outputs = findings(watch(as_log(btc_rows("btcusdt_20230405"), recorded=False, tail_ms=0)))
    assert [(record["kind"], record["event_time"], record["value"]) for record in outputs] == [
        ("price_outlier", message["T"], float(message["p"])) for message in odd
    ]


def test_every_hole_of_a_day_of_trades_is_found_and_no_other_fault() -> None:
    """The LTCUSDT recording has 18 holes in its ids (one of five hours) and two silences of more than a minute, both beside a hole."""
    rows = list(ltc_trades())
    holes = [(b[0], b[1] - a[1] - 1, a[1] + 1) for a, b in itertools.pairwise(rows) if b[1] != a[1] + 1]
    silences = [a[0] for a, b in itertools.pairwise(rows) if b[0] - a[0] > 61_000]
    assert len(holes) == 18 and len(silences) == 2
    log = Log()
    log.instrument()
    log.trades(rows)
    outputs = findings(watch(log))
    gaps = [(r["event_time"], r["value"], r["limit_value"]) for r in outputs if r["kind"] == "id_gap"]
    assert gaps == holes
    stale = [r for r in outputs if r["kind"] == "stale"]
    assert [r["event_time"] - r["value"] for r in stale] == silences
    assert len(outputs) == len(gaps) + len(stale)


# --- one fault at a random place -----------------------------------------------------------------------------------------
ROWS = btc_rows("btcusdt_20240808", 2400)
PLACES = {topic: [at for at, (name, _) in enumerate(ROWS) if name == topic] for topic in ("agg_trades", "quotes", "depth")}


def changed(at: int, **values: Any) -> list[Row]:
    rows = list(ROWS)
    rows[at] = (rows[at][0], rows[at][1] | values)
    return rows


def record_at(at: int) -> dict[str, Any]:
    return ROWS[at][1]


def neighbour(topic: str, at: int, step: int) -> dict[str, Any]:
    return record_at(PLACES[topic][PLACES[topic].index(at) + step])


def bad_price(at: int, draw: Any) -> list[Row]:
    return changed(at, price=draw(st.sampled_from([-1.0, 0.0, float("nan"), float("inf")])))


def bad_quantity(at: int, draw: Any) -> list[Row]:
    return changed(at, quantity=draw(st.sampled_from([-1.0, 0.0, float("nan")])))


def dropped(at: int, draw: Any) -> list[Row]:
    rows = list(ROWS)
    place = PLACES["agg_trades"].index(at)
    for gone in reversed(PLACES["agg_trades"][place : place + draw(st.integers(1, 8))]):
        del rows[gone]
    return rows


def altered_trade_id(at: int, draw: Any) -> list[Row]:
    by = draw(st.sampled_from([-7, -1, 1, 2, 500, 10**9]))
    taken = next((r for name, r in ROWS if name == "agg_trades" and r["agg_id"] == record_at(at)["agg_id"] + by), None)
    same = ("event_time", "price", "quantity")
    assume(taken is None or any(taken[field] != record_at(at)[field] for field in same))  # else it is a true copy of that trade
    return changed(at, agg_id=record_at(at)["agg_id"] + by)


def altered_update_id(field: str, topic: str) -> Callable[[int, Any], list[Row]]:
    def plant(at: int, draw: Any) -> list[Row]:
        up = draw(st.booleans())
        if up:  # an id that stays below the next one's is not to be told from a true one
            value = neighbour(topic, at, 1)[field] + draw(st.integers(1, 10**9))
        else:
            before = neighbour(topic, at, -1)
            value = before[field] - draw(st.integers(1, 10**6))
            # Times of older records must not fit: an old record again looks like that.
            assume(record_at(at)["event_time"] >= before["event_time"])
            assume(all(record[field] != value for name, record in ROWS if name == topic))
        return changed(at, **{field: value})

    return plant


def repeated(at: int, draw: Any) -> list[Row]:
    # Right behind, or some records later, as after a restart of a producer.
    later = min(at + draw(st.integers(1, 40)), len(ROWS))
    return [*ROWS[:later], ROWS[at], *ROWS[later:]]


def back_in_time(at: int, draw: Any) -> list[Row]:
    topic = ROWS[at][0]
    before = neighbour(topic, at, -1)["event_time"]
    return changed(at, event_time=before - draw(st.sampled_from([1, 40, 5_000, 8_799_000])))


def ahead_in_time(at: int, draw: Any) -> list[Row]:
    assume(PLACES[ROWS[at][0]].index(at) + 1 < len(PLACES[ROWS[at][0]]))
    return changed(at, event_time=neighbour(ROWS[at][0], at, 1)["event_time"] + draw(st.sampled_from([2, 4_000])))


def outlying_trade(at: int, draw: Any) -> list[Row]:
    return changed(at, price=record_at(at)["price"] * draw(st.sampled_from([0.5, 0.96, 1.04, 10.0])))


def outlying_quote(at: int, draw: Any) -> list[Row]:
    factor = draw(st.sampled_from([0.5, 0.96, 1.04, 10.0]))
    return changed(at, bid_price=record_at(at)["bid_price"] * factor, ask_price=record_at(at)["ask_price"] * factor)


def crossed_quote(at: int, draw: Any) -> list[Row]:
    return changed(at, bid_price=record_at(at)["ask_price"], ask_price=record_at(at)["bid_price"])


def locked_quote(at: int, draw: Any) -> list[Row]:
    return changed(at, bid_price=record_at(at)["ask_price"])


def bad_quote(at: int, draw: Any) -> list[Row]:
    field = draw(st.sampled_from(["bid_price", "ask_price", "bid_quantity", "ask_quantity"]))
    return changed(at, **{field: draw(st.sampled_from([-1.0, 0.0, float("nan")]))})


def crossed_book(at: int, draw: Any) -> list[Row]:
    prices = list(record_at(at)["bid_prices"])
    prices[0] = record_at(at)["ask_prices"][0] + 0.1
    return changed(at, bid_prices=prices)


def disordered_book(at: int, draw: Any) -> list[Row]:
    side = draw(st.sampled_from(["bid_prices", "ask_prices"]))
    prices = list(record_at(at)[side])
    k = draw(st.integers(0, len(prices) - 2))
    prices[k], prices[k + 1] = prices[k + 1], prices[k]
    assume(k > 0 or prices[1] != prices[0])
    return changed(at, **{side: prices})


def bad_book(at: int, draw: Any) -> list[Row]:
    side = draw(st.sampled_from(["bid_quantities", "ask_quantities", "bid_prices", "ask_prices"]))
    values = list(record_at(at)[side])
    values[draw(st.integers(0, len(values) - 1))] = draw(st.sampled_from([-1.0, 0.0, float("inf")]))
    return changed(at, **{side: values})


def invalid_book(at: int, draw: Any) -> list[Row]:
    return changed(at, state="invalid", bid_prices=[], bid_quantities=[], ask_prices=[], ask_quantities=[])


def resync(at: int, draw: Any) -> list[Row]:
    return [(topic, r | {"epoch": 2} if topic == "depth" and n >= at else r) for n, (topic, r) in enumerate(ROWS)]


FAULTS: list[tuple[str, str, Callable[[int, Any], list[Row]]]] = [
    ("agg_trades", "invalid_value", bad_price),
    ("agg_trades", "invalid_value", bad_quantity),
    ("agg_trades", "id_gap", dropped),
    ("agg_trades", "altered_id", altered_trade_id),
    ("agg_trades", "duplicate", repeated),
    ("agg_trades", "time_backwards", back_in_time),
    ("agg_trades", "time_backwards", ahead_in_time),
    ("agg_trades", "price_outlier", outlying_trade),
    ("quotes", "crossed_book", crossed_quote),
    ("quotes", "locked_book", locked_quote),
    ("quotes", "invalid_value", bad_quote),
    ("quotes", "altered_id", altered_update_id("update_id", "quotes")),
    ("quotes", "duplicate", repeated),
    ("quotes", "time_backwards", back_in_time),
    ("quotes", "price_outlier", outlying_quote),
    ("depth", "crossed_book", crossed_book),
    ("depth", "book_order", disordered_book),
    ("depth", "invalid_value", bad_book),
    ("depth", "altered_id", altered_update_id("last_update_id", "depth")),
    ("depth", "duplicate", repeated),
    ("depth", "time_backwards", back_in_time),
    ("depth", "book_invalid", invalid_book),
    ("depth", "book_resync", resync),
]


@pytest.mark.parametrize(("topic", "kind", "plant"), FAULTS, ids=[f"{plant.__name__}-{topic}-{kind}" for topic, kind, plant in FAULTS])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_planted_fault_is_reported_as_that_kind_and_no_other(topic: str, kind: str, plant: Callable[..., list[Row]], data: Any) -> None:
    places = PLACES[topic]
    at = places[data.draw(st.integers(25, len(places) - 12), label="place")]
    outputs = watch(as_log(plant(at, data.draw)))
    assert kinds(outputs) == {(topic, kind): 1}
    (finding,) = findings(outputs)
    assert finding["instrument"] == BTC and finding["source_offset"] is not None


def test_the_rows_that_faults_are_planted_in_are_clean() -> None:
    assert kinds(watch(as_log(ROWS))) == {}


def test_bytes_that_are_no_record_are_reported_with_their_offset() -> None:
    log = as_log(ROWS)
    message = log.topics["quotes"][100]
    log.topics["quotes"][100] = (message[0], message[1], message[2], (message[3] or b"")[:20])
    (finding,) = findings(watch(log))
    assert (finding["stream"], finding["kind"], finding["source_offset"]) == ("quotes", "undecodable", 100)
    assert "schema" in finding["detail"]


def test_what_a_record_says_depends_on_the_log_and_not_on_how_it_is_fed() -> None:
    rows = list(ROWS)
    for at in (300, 900, 1500):
        rows[at] = (rows[at][0], rows[at][1] | {"event_time": rows[at][1]["event_time"] - 500})
    log = as_log(rows)
    whole = watch(log)
    assert findings(whole)
    for seed in range(4):
        source = random.Random(seed)
        monitor = PartitionMonitor(QualityRules(), CODEC)
        feeds = {topic: list(pieces(messages, source, 400)) for topic, messages in log.topics.items()}
        outputs = []
        while any(feeds.values()):
            topic = source.choice([name for name, left in feeds.items() if left])
            monitor.feed(topic, feeds[topic].pop(0))
            outputs += monitor.advance(source.choice([None, 1, 7]))
        assert outputs + monitor.advance() == whole
    assert len({output.record["quality_id"] for output in whole}) == len(whole)


# --- what shows only over time -----------------------------------------------------------------------------------------
def trade(n: int, time: int, price: float = 100.0, maker: bool | None = None, **more: Any) -> Row:
    record = {"instrument": BTC, "event_time": time, "receive_time": time + 5, "agg_id": n, "first_trade_id": n, "last_trade_id": n, "price": price,
              "quantity": 1.0, "buyer_is_maker": n % 2 == 0 if maker is None else maker, "backfilled": False}  # fmt: skip
    return "agg_trades", record | more


def quote(n: int, time: int, bid: float = 99.9, ask: float = 100.1, **more: Any) -> Row:
    record = {"instrument": BTC, "event_time": time, "receive_time": time + 5, "update_id": n, "bid_price": bid, "bid_quantity": 1.0, "ask_price": ask,
              "ask_quantity": 2.0}  # fmt: skip
    return "quotes", record | more


def minutes(count: int, step: int = 500) -> range:
    return range(T0, T0 + count * 60_000, step)


def test_a_stream_whose_trades_are_all_one_side_is_a_fault_once() -> None:
    rows = [trade(n, t, maker=n % 2 == 0 if t < T0 + 60_000 else True) for n, t in enumerate(minutes(5))]
    outputs = watch(as_log(rows, recorded=False))
    assert kinds(outputs) == {("agg_trades", "one_sided"): 1}
    last = [o.record for o in outputs if o.record["stream"] == "agg_trades" and o.record["kind"] == "score"][-1]
    assert last["score"] == 5.0 and last["deductions"] == {"one_sided": 5.0}


def test_one_order_that_takes_hundreds_of_levels_is_no_one_sided_stream() -> None:
    rows = [trade(n, t) for n, t in enumerate(minutes(2))]
    burst = [trade(len(rows) + n, T0 + 120_000, maker=True) for n in range(2_000)]
    rest = [trade(len(rows) + 2_000 + n, T0 + 120_500 + 500 * n) for n in range(200)]
    assert kinds(watch(as_log(rows + burst + rest, recorded=False))) == {}


def test_prices_that_move_and_stay_are_a_move_and_no_outliers() -> None:
    rows = [trade(n, t, price=100.0 if t < T0 + 60_000 else 90.0) for n, t in enumerate(minutes(2))]
    assert kinds(watch(as_log(rows, recorded=False))) == {("agg_trades", "price_jump"): 1}


def test_a_short_run_of_far_prices_is_reported_print_by_print_even_at_the_end() -> None:
    rows = [trade(n, t) for n, t in enumerate(minutes(1))]
    rows += [trade(len(rows) + n, T0 + 60_000 + n, price=120.0) for n in range(7)]
    outputs = findings(watch(as_log(rows, recorded=False)))
    assert [(r["kind"], r["value"], r["limit_value"]) for r in outputs] == [("price_outlier", 120.0, 102.0)] * 7


def test_silence_is_reported_once_and_ends() -> None:
    rows = [quote(n, t) for n, t in enumerate(minutes(3)) if not T0 + 70_000 < t <= T0 + 100_000]
    rows += [trade(n, t) for n, t in enumerate(minutes(3))]
    outputs = watch(as_log(sorted(rows, key=lambda row: row[1]["event_time"]), recorded=False, tail_ms=0))
    (finding,) = findings(outputs)
    # After a window of 120 quotes: thirty times half a second. Found at the first check beyond it.
    assert (finding["stream"], finding["kind"], finding["limit_value"]) == ("quotes", "stale", 15_000.0)
    assert finding["event_time"] == T0 + 70_000 + 16_000 and finding["value"] == 16_000.0


def test_a_stream_that_stops_for_good_is_worth_nothing_and_takes_the_whole_down() -> None:
    rows = [quote(n, t) for n, t in enumerate(minutes(1))] + [trade(n, t) for n, t in enumerate(minutes(8))]
    outputs = watch(as_log(sorted(rows, key=lambda row: row[1]["event_time"]), recorded=False, tail_ms=0))
    assert kinds(outputs) == {("quotes", "stale"): 1}
    last = {o.record["stream"]: o.record["score"] for o in outputs if o.record["kind"] == "score"}
    assert last == {"agg_trades": 10.0, "quotes": 0.0, "overall": 2.5}


def test_a_venue_that_is_down_is_not_called_stale_before_its_marks_go_on() -> None:
    rows = [trade(n, t) for n, t in enumerate(minutes(1))]
    assert kinds(watch(as_log(rows, recorded=False, tail_ms=0))) == {}
    assert kinds(watch(as_log(rows, recorded=False, tail_ms=70_000))) == {("agg_trades", "stale"): 1}


def test_the_end_of_a_recording_is_no_silence_but_a_stream_that_ends_before_the_others_is() -> None:
    rows = [trade(n, t) for n, t in enumerate(minutes(2))] + [quote(n, t) for n, t in enumerate(minutes(1))]
    together = [row for row in rows if row[1]["event_time"] < T0 + 60_000]
    assert kinds(watch(as_log(sorted(together, key=lambda row: row[1]["event_time"]), tail_ms=70_000))) == {}
    assert kinds(watch(as_log(sorted(rows, key=lambda row: row[1]["event_time"]), tail_ms=70_000))) == {("quotes", "stale"): 1}


def test_an_expected_stream_that_never_comes_is_missing() -> None:
    rows = [trade(n, t) for n, t in enumerate(minutes(5))]
    outputs = watch(as_log(rows, recorded=False, tail_ms=0), QualityRules(expected=("agg_trades", "quotes")))
    assert kinds(outputs) == {("quotes", "missing"): 1}
    assert {o.record["stream"]: o.record["score"] for o in outputs if o.record["kind"] == "score"}["quotes"] == 0.0


def test_far_fewer_records_than_usual_are_reported() -> None:
    rows = [trade(n, t) for n, t in enumerate([t for t in minutes(7, 100) if t < T0 + 360_000 or t % 7_000 == 0])]
    outputs = watch(as_log(rows, recorded=False, tail_ms=61_000))
    assert ("agg_trades", "rate_low") in kinds(outputs)


def test_a_clock_that_drifts_is_reported_and_a_busy_minute_is_not() -> None:
    def outputs(delay: Callable[[int], int]) -> Any:
        return kinds(watch(as_log([trade(n, t, receive_time=t + delay(t)) for n, t in enumerate(minutes(9))], recorded=False)))

    assert outputs(lambda t: 20 + (900 if t >= T0 + 420_000 else 0)) == {("agg_trades", "clock_drift"): 2}
    assert outputs(lambda t: 20 + (900 if t >= T0 + 420_000 and t % 3_000 else 0)) == {}  # some come as fast as ever
    assert outputs(lambda t: 20 + (4_000 if T0 + 60_000 <= t < T0 + 120_000 else 0)) == {("agg_trades", "delay"): 1}


def test_trades_beside_the_quotes_are_a_fault_of_one_of_them() -> None:
    def outputs(bid: float) -> Any:
        rows = [row for n, t in enumerate(minutes(3)) for row in (quote(n, t, bid, bid + 0.2), trade(n, t + 1))]
        return kinds(watch(as_log(rows, recorded=False)))

    assert outputs(99.9) == {}
    assert set(outputs(101.0)) == {("agg_trades", "quote_disagreement")}
    assert set(outputs(98.9)) == {("agg_trades", "quote_disagreement")}


def test_a_hole_that_is_filled_heals_the_score() -> None:
    def rows(filled: bool) -> list[Row]:
        all_ = [trade(n, t) for n, t in enumerate(minutes(3))]
        late = [(topic, r | {"backfilled": True}) for topic, r in all_[50:60]] if filled else []
        return [*all_[:50], *all_[60:80], *late, *all_[80:]]

    open_, healed = watch(as_log(rows(False), recorded=False)), watch(as_log(rows(True), recorded=False))
    assert kinds(open_) == {("agg_trades", "id_gap"): 1}
    assert kinds(healed) == {("agg_trades", "id_gap"): 1, ("agg_trades", "gap_repaired"): 1}
    score = {
        name: next(o.record["score"] for o in outs if o.record["score"] is not None) for name, outs in (("open", open_), ("healed", healed))
    }
    assert score == {"open": 8.0, "healed": 10.0}


def test_history_loaded_behind_the_first_trade_is_no_fault() -> None:
    rows = [trade(n, t) for n, t in enumerate(minutes(3))]
    history = [(topic, r | {"backfilled": True}) for topic, r in rows[:100]]
    assert kinds(watch(as_log([*rows[100:110], *history, *rows[110:]], recorded=False))) == {}


def test_a_flood_of_faults_is_counted_and_not_written_one_by_one() -> None:
    rows = [quote(n, t, 100.1, 99.9) for n, t in enumerate(minutes(1, 50))]
    outputs = watch(as_log(rows, recorded=False, tail_ms=60_000), QualityRules(findings_per_window=3))
    assert kinds(outputs)["quotes", "crossed_book"] == 3
    score = next(o.record for o in outputs if o.record["kind"] == "score")
    assert score["findings"]["crossed_book"] == score["records"] == 1200
    assert score["score"] == 4.0 and score["deductions"] == {"crossed_book": 6.0}


def test_slow_topics_are_checked_for_impossible_values() -> None:
    log = Log()
    log.instrument(LTC)
    head = {"instrument": LTC, "receive_time": T0}
    for n, mark in enumerate([70.0, -1.0, 71.0, None]):
        log.append("funding", head | {"event_time": T0 + n * 1_000, "mark_price": mark})
    log.append("funding", head | {"event_time": T0 + 4_000, "estimated_rate": 3.0})
    log.append("funding", head | {"event_time": T0 - 3_600_000, "settled_rate": 0.0001})  # comes later by nature
    for side, price in (("LONG", 70.0), ("BUY", 70.0), ("SHORT", 0.0)):
        log.append("liquidations", head | {"event_time": T0, "side": side, "price": price, "quantity": 1.0})
    for value in (1.5, float("nan")):
        log.append("market_indicators", head | {"event_time": T0, "indicator": "long_short_ratio", "value": value})
    for t in range(T0, T0 + 6_000, 250):
        log.mark(t)
    assert kinds(watch(log)) == {
        ("funding", "invalid_value"): 2,
        ("liquidations", "invalid_value"): 2,
        ("market_indicators", "invalid_value"): 1,
    }


def test_an_indicator_that_stops_beside_one_that_goes_on_is_named() -> None:
    log = Log()
    log.instrument(LTC)
    for t in range(T0, T0 + 1_200_000, 60_000):
        for name in ("open_interest", "long_short_ratio"):
            if name == "open_interest" or t < T0 + 120_000:
                log.append("market_indicators", {"instrument": LTC, "event_time": t, "receive_time": t, "indicator": name, "value": 1.0})
        log.mark(t + 1_000)
        log.mark(t + 30_000)
    (finding,) = findings(watch(log))
    assert finding["kind"] == "stale" and finding["detail"].startswith("long_short_ratio")


def test_the_mark_of_a_broken_clock_is_passed_over() -> None:
    log = as_log([trade(n, t) for n, t in enumerate(minutes(3))], recorded=False, tail_ms=0)
    good = [output.record for output in watch(log)]
    marks = log.topics["progress"]
    wild = CODEC.decode("progress", marks[400][3]) | {"event_time": T0 + 365 * 86_400_000}
    log.topics["progress"] = [(n, stamp, key, value) for n, (_, stamp, key, value) in enumerate(
        [*marks[:400], (0, T0, marks[400][2], CODEC.encode("progress", wild)), *marks[400:]])]  # fmt: skip
    monitor = PartitionMonitor(QualityRules(), CODEC)
    for topic, messages in log.topics.items():
        for records in pieces(messages, None):
            monitor.feed(topic, records)
    assert [output.record for output in monitor.advance()] == good and monitor.refused == 1


# --- scores ------------------------------------------------------------------------------------------------------------
@given(st.dictionaries(st.sampled_from([kind.name for kind in KINDS]), st.integers(0, 10_000)))
def test_a_score_is_ten_less_its_deductions_and_never_rises_with_faults(counts: dict[str, int]) -> None:
    score, deductions = stream_score(counts)
    assert 0.0 <= score <= 10.0 and score == max(0.0, 10.0 - sum(deductions.values()))
    assert stream_score({})[0] == 10.0
    for kind in KINDS:
        assert stream_score(counts | {kind.name: counts.get(kind.name, 0) + 1})[0] <= score


def test_an_overall_score_cannot_hide_a_dead_stream() -> None:
    assert overall_score({"a": 10.0, "b": 10.0, "c": 10.0, "d": 0.0}) == pytest.approx((7.5 + 0.0) / 2)
    assert overall_score({}) is None


def test_rules_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="window_ms"):
        QualityRules(window_ms=1_500)
    with pytest.raises(ValueError, match="expected"):
        QualityRules(expected=("trades",))
