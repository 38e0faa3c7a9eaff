"""Flips. One is signalled only while the other side may be open: what is left out would have closed nothing.

V5.0: an opposite signal closes the position, and the next entry waits for the cooldown (S2 6). A close is no entry of the hour.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_apps.core.market.config import EngineConfig
from stream_apps.core.market.snapshot import Snapshot
from stream_apps.core.market.windows import FAST_WINDOWS, WINDOWS
from stream_apps.core.paper.model import PaperBook
from stream_apps.core.signals.scoring import StrategyMemory, evaluate
from stream_apps.core.signals.scoring.batch import Batch
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from stream_apps.replay.results import ResultSet
from stream_apps.replay.run import PartitionReplay
from stream_apps.strategy_files import load_strategy_files
from tests.support.markets.logs import CODEC, Log, ltc_trades, pieces
from tests.support.markets.scoring_cases import ALT, T, market, of_model, relaxed, run
from tests.support.markets.scoring_rows import market_of
from tests.support.paths import ROOT
from tests.support.trading.paper_cases import columns, of

FILE = ROOT / "stream_apps" / "default_strategies" / "recorded" / "ltcusdt_trades_only.toml"


def replayed(log: Log) -> dict[str, list[dict[str, Any]]]:
    replay = PartitionReplay(0, EngineConfig(quantile_history_ms=0), CODEC)
    results = ResultSet(CODEC)
    for topic, messages in log.topics.items():
        for records in pieces(messages, None):
            for result in replay.feed(topic, records):
                results.add(result.topic, result.value)
    return {topic: [CODEC.decode(topic, value) for value in results.records[topic].values()] for topic in ("signals", "trades_closed")}


def test_signals_left_out_would_have_closed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    log.instrument()
    (config,) = load_strategy_files([FILE])
    # Thresholds at which directions change within the cooldown, and one without a cooldown.
    for n, (entry, flip, cooldown) in enumerate(((60.0, 60.0, 0), (64.0, 70.0, 10), (60.0, 64.0, 30))):
        one = replace(config, strategy_id=f"s{n}", entry_score=entry, flip_threshold=flip, cooldown_minutes=cooldown)
        log.strategy({**one.to_record(), "event_time": 1, "receive_time": 1})
    log.trades(ltc_trades(20_000))
    ours = replayed(log)
    plain = StrategyMemory.after

    def forgetful(
        self: StrategyMemory, time: int, direction: int, entry: bool, flip: bool, flip_closes_only: bool = False
    ) -> StrategyMemory:
        return replace(plain(self, time, direction, entry, flip, flip_closes_only), may_hold=3)

    monkeypatch.setattr(StrategyMemory, "after", forgetful)
    always = replayed(log)
    assert ours["trades_closed"] == always["trades_closed"]
    assert sum(trade["exit_reason"] == "flip" for trade in ours["trades_closed"]) >= 3
    flips = [[signal for signal in one["signals"] if not signal["entry"]] for one in (ours, always)]
    assert 0 < len(flips[0]) < len(flips[1]) / 3


# --- V5.0

GRID, HOUR, MINUTE = 15_000, 3_600_000, 60_000
START = T // GRID * GRID
Turn = tuple[int, str | None]


def shot(time: int, side: str | None) -> Snapshot:
    """A market whose V5.0 score is 60 for a side, or blocked without one."""
    sign = -1.0 if side == "SHORT" else 1.0
    made = market(cvd=dict.fromkeys(WINDOWS, 7.0 * sign), slope=dict.fromkeys(FAST_WINDOWS, sign if side else -1.0), vwap_30m=100.0 - sign)
    return replace(made, time=time, decided_at=time + 250)


def strategy(cooldown_minutes: int = 10) -> StrategyConfig:
    """V5.0 with a stop far away and a long timeout, so that only opposite signals close."""
    return of_model("v50_rules", sl_atr_multiplier=3.0, timeout_minutes=1440, cooldown_minutes=cooldown_minutes)


def signals_of(turns: list[Turn], config: StrategyConfig) -> list[dict[str, Any]]:
    """The signals of the plain scorer; the compiled one must give the same bytes."""
    batch, memory, found = Batch([(config, config_hash(config))], CODEC, {}), StrategyMemory(), []
    for time, side in turns:
        now = shot(time, side)
        plain = evaluate(now, config, config_hash(config), memory)
        (compiled,) = batch.evaluate([(0, 0)], market_of([now]))
        assert compiled.score == CODEC.encode("scores", plain.score) and compiled.signal == plain.signal
        memory = plain.memory
        found += [] if plain.signal is None else [plain.signal]
    return found


def on_paper(turns: list[Turn], config: StrategyConfig) -> tuple[list[tuple[int, str]], list[int]]:
    """What the paper model does: (signal, direction) of every entry, and the signals that closed."""
    given = {one["event_time"]: one for one in signals_of(turns, config)}
    book, out, offset = PaperBook(), [], 0
    for time in range(START, turns[-1][0] + 3 * GRID, GRID):
        trades = columns([(time - 10_000, 100.0), (time - 5_000, 100.0), (time, 100.0)], offset)
        offset += 3
        signals = [given[time]] if time in given else []
        out += book.step(time=time, decided_at=time + 250, instruments=[ALT], trades={ALT: trades}, signals=signals)
    orders = of("orders", out)
    entered = [(int(one["signal_id"].rpartition("|")[2]), "LONG" if one["side"] == "BUY" else "SHORT")
               for one in orders if one["leg"] == "entry" and one["status"] == "filled"]  # fmt: skip
    closed = [int(one["signal_id"].rpartition("|")[2]) for one in orders if one["leg"] == "flip" and one["status"] == "filled"]
    assert {one["exit_reason"] for one in of("trades_closed", out)} <= {"flip"}
    return entered, closed


def expected(turns: list[Turn], cooldown_ms: int) -> tuple[list[tuple[int, str]], list[int]]:
    """The rules in words: close against the position; else enter after the cooldown, at most twice an hour."""
    held: str | None = None
    quiet: int | None = None
    entered, closed, asked = list[tuple[int, str]](), list[int](), list[int]()
    for time, side in turns:
        if side is None:
            continue
        if held is not None and held != side:
            closed.append(time)
            held, quiet = None, time
        elif (quiet is None or time - quiet >= cooldown_ms) and sum(time - one < HOUR for one in asked) < 2:
            asked.append(time)
            quiet = time
            if held is None:
                held = side
                entered.append((time, side))
    return entered, closed


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 8, 39, 40, 41, 120, 239]), st.sampled_from(["LONG", "SHORT", None])), min_size=1, max_size=30
    ),
    st.sampled_from([0, 1, 10, 30]),
)
@relaxed(max_examples=150)
def test_opposite_signals_close_and_cool_as_the_plan_says(steps: list[tuple[int, str | None]], minutes: int) -> None:
    turns, time = [], START
    for panes, side in steps:
        turns.append((time, side))
        time += panes * GRID
    assert on_paper(turns, strategy(minutes)) == expected(turns, minutes * MINUTE)


def test_a_close_starts_the_cooldown_once_and_is_no_entry_of_the_hour() -> None:
    sides: list[str | None] = ["LONG", *[None] * 79, *["SHORT"] * 160]  # long for 20 minutes, then short for 40
    turns = [(START + n * GRID, side) for n, side in enumerate(sides)]
    opened, closed = START, START + 80 * GRID
    assert on_paper(turns, strategy()) == ([(opened, "LONG"), (closed + 10 * MINUTE, "SHORT")], [closed])
    signals = signals_of(turns, strategy())
    flips = [one for one in signals if one["flip"] and not one["entry"]]
    # The close is repeated for an executor that could not act on the first one. It does not move the end of the cooldown.
    assert [one["event_time"] for one in flips[:40]] == [closed + n * GRID for n in range(40)]
    assert [one["event_time"] for one in signals if one["entry"]][:2] == [opened, closed + 10 * MINUTE]


def test_before_its_first_entry_the_executor_decides() -> None:
    """A worker that starts afresh does not know what is open: the signal enters, or only closes where the other side is held."""
    fresh = run(shot(START, "SHORT"), strategy()).signal
    assert fresh is not None and (fresh["entry"], fresh["flip"]) == (True, True)
    assert on_paper([(START, "SHORT")], strategy()) == ([(START, "SHORT")], [])
    book = PaperBook()
    first = {**signals_of([(START, "LONG")], strategy())[0]}
    trades = columns([(START + GRID, 100.0), (START + 2 * GRID, 100.0)])
    book.step(time=START, decided_at=START + 250, instruments=[ALT], trades={}, signals=[first])
    book.step(time=START + GRID, decided_at=START + GRID + 250, instruments=[ALT], trades={ALT: trades}, signals=[])
    late = {**fresh, "event_time": START + 2 * GRID, "decided_at": START + 2 * GRID + 250, "signal_id": f"{ALT}|s|{START + 2 * GRID}"}
    book.step(time=START + 2 * GRID, decided_at=START + 2 * GRID + 250, instruments=[ALT], trades={}, signals=[late])
    after = columns([(START + 3 * GRID - 5, 100.0)], 9)
    out = book.step(time=START + 3 * GRID, decided_at=START + 3 * GRID + 250, instruments=[ALT], trades={ALT: after}, signals=[])
    assert [one["exit_reason"] for one in of("trades_closed", out)] == ["flip"]
    assert not [one for one in of("orders", out) if one["leg"] == "entry"] and book.open_positions() == 0
