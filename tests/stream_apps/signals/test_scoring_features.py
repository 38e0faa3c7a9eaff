"""What the market state knows for the older scoring models, against independent recomputation."""

from __future__ import annotations

import random
from bisect import bisect_right
from decimal import Decimal
from typing import Any

import pytest

from stream_apps.core.log import checkpoint
from stream_apps.core.signals.engine import SignalsEngine
from tests.support.markets.logs import CODEC, LTC, Log, decoded, ltc_trades, run

GRID = 15_000
START = 1_750_000_000_000 - 1_750_000_000_000 % 300_000


@pytest.fixture(scope="module")
def ltc() -> tuple[list[Any], list[dict[str, Any]]]:
    rows = list(ltc_trades(60_000))
    log = Log()
    log.instrument()
    log.trades(rows)
    return rows, decoded(run(log)[0], "features")


def test_the_last_minutes_volume_and_the_slope_of_the_hour_are_exact(ltc: Any) -> None:
    rows, features = ltc
    times = [row[0] for row in rows]

    def inside(after: int, until: int) -> list[Any]:
        return rows[bisect_right(times, after) : bisect_right(times, until)]

    def cvd(instant: int) -> Decimal:
        return sum((Decimal(repr(q)) * (-1 if maker else 1) for _, _, _, q, maker in inside(instant - 3_600_000, instant)), Decimal(0))

    for record in random.Random(3).sample(features[300:], 60):
        instant = record["event_time"]
        assert record["volume_1m"] == float(sum((Decimal(repr(row[3])) for row in inside(instant - 60_000, instant)), Decimal(0)))
        assert record["slope_1h"] == float(cvd(instant) - cvd(instant - GRID))
    assert [record["volume_1m"] is None for record in features[:5]] == [True, True, True, False, False]
    assert [record["slope_1h"] is None for record in features[239:242]] == [True, False, False]


def test_the_lowest_atr_percentile_of_the_last_hour(ltc: Any) -> None:
    _, features = ltc
    closed: list[float] = []
    checked = 0
    for record in features:
        if record["atr"] is None:
            assert record["atr_percentile_low"] is None
            continue
        if record["event_time"] % 300_000 == 0:
            closed.append(record["atr"])
        ranks = []
        for newest in range(len(closed) - 1, max(len(closed) - 13, -1), -1):
            known = closed[max(0, len(closed) - 288) : newest + 1]
            if len(known) >= 10:
                ranks.append(100.0 * sum(x <= closed[newest] for x in known) / len(known))
        assert record["atr_percentile_low"] == (min(ranks) if ranks else None)
        checked += bool(ranks)
    assert checked > 1_000


def funding(log: Log, time: int, rate: float) -> None:
    log.append("funding", {
        "instrument": LTC, "event_time": time, "receive_time": time, "mark_price": None, "index_price": None, "estimated_settle_price": None,
        "estimated_rate": rate, "settled_rate": None, "next_funding_time": None, "interval_hours": None,
    })  # fmt: skip


def liquidation(log: Log, time: int, side: str, price: float, quantity: float, **more: Any) -> None:
    log.append("liquidations", {
        "instrument": LTC, "event_time": time, "receive_time": time, "side": side, "price": price, "average_price": None, "quantity": quantity,
        "filled_quantity": None, "sampling_cap_ms": 1000, **more,
    })  # fmt: skip


def test_the_largest_funding_rate_so_far_and_no_later_one() -> None:
    log = Log()
    log.instrument()
    rates = [(1, 0.0001), (20_000, -0.0004), (50_000, 0.0002), (80_000, 0.0009)]
    for n in range(8):
        at = START + n * GRID
        log.trade(at + 1, n, 100.0, 1.0, False)
        for offset, rate in rates:
            if n * GRID < offset <= (n + 1) * GRID:
                funding(log, START + offset, rate)
        log.mark(at + GRID + 250)
    seen = [(record["event_time"] - START, record["funding_rate_max"]) for record in decoded(run(log)[0], "features")]
    assert seen == [((n + 1) * GRID, 0.0001 if n == 0 else 0.0004 if n < 5 else 0.0009) for n in range(8)]


def test_liquidated_notional_of_five_minutes_by_side_survives_a_restart() -> None:
    log = Log()
    log.instrument()
    events = [
        (60_001, "LONG", 100.0, 2.0, {}),  # 200
        (60_002, "SHORT", 100.0, 1.0, {"average_price": 101.005, "filled_quantity": 3.0}),  # 303.015, kept as 303.02 (half a cent up)
        (75_000, "LONG", 0.1, 0.2, {}),  # 0.02
        (360_000, "LONG", 50.0, 1.0, {"average_price": 0.0, "filled_quantity": 0.0}),  # 50: zero is how a venue says "not yet"
    ]
    for n in range(60):
        at = START + n * GRID
        log.trade(at + 1, n, 100.0, 1.0, False)
        for offset, side, price, quantity, more in events:
            if n * GRID < offset <= (n + 1) * GRID:
                liquidation(log, START + offset, side, price, quantity, **more)
        log.mark(at + GRID + 250)
    plain, _ = run(log)
    features = decoded(plain, "features")
    for record in features:
        offset = record["event_time"] - START
        if offset < 60_002:
            assert record["liquidated_long_5m"] is None and record["liquidated_short_5m"] is None
            continue
        longs = sum(p * q for t, side, p, q, _ in events if side == "LONG" and offset - 300_000 < t <= offset)
        shorts = 303.02 if offset - 300_000 < 60_002 else 0.0
        assert (record["liquidated_long_5m"], record["liquidated_short_5m"]) == (pytest.approx(longs), shorts)
    for seed in range(3):
        killed, _ = run(log, seed=seed, restart_every=7, size=40)
        assert decoded(killed, "features") == features


def test_a_batch_of_liquidations_that_a_dying_broker_took_twice_counts_once() -> None:
    log = Log()
    log.instrument()
    rng = random.Random(5)
    batch = [(rng.randrange(1, 14_000), rng.choice(["LONG", "SHORT"]), rng.choice([1.0, 2.0]), rng.choice([3.0, 4.0])) for _ in range(40)]
    batch = list(dict.fromkeys(batch))  # the producer writes equal ones once
    log.trade(START + 1, 1, 100.0, 1.0, False)
    for offset, side, price, quantity in [*batch, *batch]:
        liquidation(log, START + offset, side, price, quantity)
    log.mark(START + GRID + 250)
    log.trade(START + GRID + 1, 2, 100.0, 1.0, False)
    for offset, side, price, quantity in batch[-8:]:  # and once more behind a mark, and a restart
        liquidation(log, START + offset, side, price, quantity)
    log.mark(START + 2 * GRID + 250)
    expected = tuple(sum(p * q for _, side, p, q in batch if side == which) for which in ("LONG", "SHORT"))
    for restart in (None, 1):
        outputs, _ = run(log) if restart is None else run(log, seed=1, restart_every=restart, size=40)
        first, second = decoded(outputs, "features")
        assert (first["liquidated_long_5m"], first["liquidated_short_5m"]) == expected
        assert (second["liquidated_long_5m"], second["liquidated_short_5m"]) == expected


def test_a_bad_liquidation_is_a_dead_letter_that_names_the_field() -> None:
    log = Log()
    log.instrument()
    log.trade(START + 1, 1, 100.0, 1.0, False)
    liquidation(log, START + 1, "BUY", 100.0, 1.0)
    liquidation(log, START + 1, "LONG", -1.0, 1.0)
    liquidation(log, START + 1, "SHORT", 1.0, float("inf"))
    liquidation(log, START + 2, "SHORT", 2.0, 3.0)
    log.mark(START + GRID + 250)
    outputs, _ = run(log)
    assert [letter["field"] for letter in decoded(outputs, "dead_letters")] == ["side", "price", "quantity"]
    (record,) = decoded(outputs, "features")
    assert (record["liquidated_long_5m"], record["liquidated_short_5m"]) == (0.0, 6.0)


def test_a_changelog_without_these_arrays_can_be_read() -> None:
    log = Log()
    log.instrument()
    log.trade(START + 1, 1, 100.0, 1.0, False)
    log.mark(START + GRID + 250)
    _, engine = run(log)
    entries = []
    for key, value in engine.checkpoint():
        assert value is not None
        if key[:1] == b"h":
            meta, arrays = checkpoint.unpack(value)
            arrays = {name: a for name, a in arrays.items() if not name.startswith(("liquidated", "funding_most"))}
            value = checkpoint.pack(meta, arrays)
        entries.append((key, value))
    again = SignalsEngine.restore(0, engine.config, CODEC, entries)
    assert again.last_instant == engine.last_instant
