"""However many instants the compiled loop takes at once, the log gives the same bytes: one at a time is the plain twin."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from stream_apps.core.market.config import EngineConfig
from stream_apps.core.signals import engine as engine_module
from stream_apps.core.signals import instant_kernel
from stream_apps.core.signals.engine import SignalsEngine
from stream_apps.core.signals.scoring import MODELS
from tests.support.markets.logs import Log, decoded, run
from tests.support.markets.scoring_cases import of_model

GRID = 60_000
START = 1_749_945_600_000  # a midnight
HOURS = 5
CONFIG = EngineConfig(grid_ms=GRID, lateness_ms=250, quantile_min_trades=50, quantile_history_ms=0, print_floor=10.0, whale_usd=200.0)
A, B = ("BINANCE:LTCUSDT", "BINANCE:LTCUSDT-PERP", "BINANCE:LTCUSDC-PERP"), ("BYBIT:LTCUSDT-PERP",)
LATER, UNKNOWN = (
    "BINANCE:LTCEUR",
    "BINANCE:LTCGBP",
)  # the first begins to trade after two hours; of the other no facts are known before the third
TOPICS = ("features", "scores", "signals", "bars", "labels", "dead_letters", "worker_progress")


def market(seed: int, away: int) -> Log:
    """Five hours of trades and marks of two authors, the second away for some hours, with all that interrupts a stretch of instants."""
    source = random.Random(seed)
    log = Log(grid=GRID)
    for name in (*A, LATER):
        log.instrument(name, "a")
    log.instrument(B[0], "b")
    for model in MODELS:
        least = 40.0 if model == "v50_rules" else 60.0
        off = {"gate_vol_enabled": False, "gate_whale_enabled": False} if model == "v54" else {}
        config = of_model(
            model, strategy_id=model, instrument=A[1], entry_score=least, flip_threshold=least + 15.0, cooldown_minutes=5, **off
        )
        log.strategy({**config.to_record(), "event_time": 1, "receive_time": 1})
    ids: Counter[str] = Counter()
    price, lean = dict.fromkeys((*A, *B, LATER, UNKNOWN), 10_000), 0.5

    def trade(name: str, time: int, cents: int, lots: int) -> None:
        log.trade(time, ids[name], cents / 100, lots / 1000, source.random() > lean, name)
        ids[name] += 1

    for pane in range(HOURS * 60):
        begin = START + pane * GRID
        if pane % 25 == 0:
            lean = source.choice((0.2, 0.8))
        if pane == 180:
            log.instrument(UNKNOWN, "a")
        if pane == 200:
            known = of_model(next(iter(MODELS)), strategy_id=next(iter(MODELS)), instrument=A[1], entry_score=70.0, flip_threshold=80.0)
            log.strategy(
                {**replace(known, revision=2, effective_time=begin + 20 * GRID).to_record(), "event_time": begin, "receive_time": begin}
            )
        names = [*A, *(B if not 60 <= pane < 70 else ()), *([LATER] if pane >= 120 else []), *([UNKNOWN] if pane >= 175 else [])]
        # After its pause the second author is ahead of the first.
        ahead = {name: (away * 3_600_000 if name in B and pane >= 70 else 0) for name in names}
        for time in sorted(source.sample(range(1, GRID), 14)):
            name = source.choice(names)
            price[name] = min(10_400, max(9_600, price[name] + source.randint(-25, 25)))
            trade(name, begin + time + ahead[name], price[name], source.choices((256, 512, 1024, 65_536), (50, 30, 19, 1))[0])
            chance = source.random()
            if chance < 0.01 and log.topics["agg_trades"]:  # again, as a batch that a dying broker took twice
                log.topics["agg_trades"].append((len(log.topics["agg_trades"]), *source.choice(log.topics["agg_trades"][-50:])[1:]))
            elif chance < 0.015:  # late by a minute or by hours
                trade(name, max(START + 1, begin + ahead[name] - source.choice((1, 300_000, 7_200_000))), price[name], 300)
            elif chance < 0.02:
                log.trade(begin + time, ids[name], 100.001, 1.0, False, name)  # off the grid of prices
            elif chance < 0.025:
                log.raw("agg_trades", b"\x00garbage", name, begin + time)
        if source.random() < 0.05:
            log.append("market_indicators", {
                "instrument": A[1], "event_time": begin + 5, "receive_time": begin + 5, "indicator": "long_short_ratio", "value": 1.5,
            })  # fmt: skip
        if source.random() > 0.1:  # a mark may come late, and fire two instants
            log.mark(begin + GRID + 250, "a")
        if not 60 <= pane < 70 and source.random() > 0.1:
            log.mark(begin + GRID + 250 + ahead.get(B[0], 0), "b", "BYBIT")
    log.mark(begin + 3 * GRID, "a")
    log.mark(begin + 3 * GRID + ahead[B[0]], "b", "BYBIT")
    return log


@pytest.mark.parametrize("seed", range(3))
def test_any_number_of_instants_at_once_gives_the_same_bytes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log = market(seed, away=30)
    ended: Counter[int] = Counter()
    longest = 0
    compiled = engine_module.run_instants

    def watched(state, steps, *more):
        nonlocal longest
        ran = compiled(state, steps, *more)
        ended[ran.why] += 1
        longest = max(longest, ran.done)
        return ran

    monkeypatch.setattr(engine_module, "run_instants", watched)
    monkeypatch.setattr(engine_module, "_MOST_STEPS", 1)
    one_by_one, plain = run(log, CONFIG)
    assert set(ended) <= {instant_kernel.DONE, instant_kernel.SIGNAL} and {output.topic for output in one_by_one} == set(TOPICS)
    checkpoint = plain.checkpoint()
    for most in (2, 7, 256):
        monkeypatch.setattr(engine_module, "_MOST_STEPS", most)
        ended.clear()
        found, engine = run(log, CONFIG)
        assert found == one_by_one
        assert engine.counts == plain.counts and engine.checkpoint() == checkpoint
    # Otherwise this would prove nothing.
    assert (
        ended.keys() == {instant_kernel.DONE, instant_kernel.NEW_INSTRUMENT, instant_kernel.TRADES_LEFT, instant_kernel.SIGNAL}
        and longest > 10
    )
    assert plain.counts["late"] > 5 and plain.counts["duplicates"] > 5 and plain.counts["rejected"] > 5
    assert len(decoded(found, "signals")) > 10


@pytest.mark.parametrize("seed", range(3))
def test_kills_and_cuts_between_them_give_the_same(seed: int) -> None:
    log = market(seed, away=10)
    plain, engine = run(log, CONFIG)
    killed, rebuilt = run(log, CONFIG, seed=seed, restart_every=5, size=300)
    assert [decoded(killed, topic) for topic in TOPICS[:-2]] == [decoded(plain, topic) for topic in TOPICS[:-2]]
    assert rebuilt.counts == engine.counts


def test_a_day_that_passes_within_one_stretch_leaves_the_histogram() -> None:
    """An author who was away fires a day and more at once: what comes into the day's quantities at its first instants leaves it at the last."""
    log = Log(grid=GRID)
    log.instrument()
    log.trades([(START + n * 100 + 1, n, 100.0, 1.0 + n % 7, False) for n in range(2_000)])
    end = START + 3 * 86_400_000
    log.mark(end + 250)  # no trade came since
    log.trade(end + 1_000, 2_000, 100.0, 1.0, True)
    log.mark(end + GRID + 250)
    outputs, engine = run(log, CONFIG)
    features = decoded(outputs, "features")
    with_quantile = [record for record in features if record["trade_quantity_p99"] is not None]
    last = START + 199 * 1_000 // GRID * GRID
    assert START + 86_400_000 <= max(record["event_time"] for record in with_quantile) <= last + 86_400_000 + GRID
    assert int(engine.state.a["totals"][0]) == 1 and len(features) > 3 * 1_440
    again = SignalsEngine.restore(0, CONFIG, engine.codec, [(key, value) for key, value in engine.checkpoint() if value is not None])
    assert int(again.state.a["totals"][0]) == 1


@pytest.mark.long  # everything is compiled once more
def test_no_place_beyond_an_array_is_read_or_written(tmp_path: Path) -> None:
    """Compiled code looks for no bounds of its own accord: what lies beyond is whatever stood there before, most often nothing, and no test would fail."""
    variables = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not long", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
