"""Paper = live where the fill model is the same: recorded trades and the same signals through the paper model and through the live book with an exchange.

The exchange of the tests fills as the paper model does without latency and slippage: market orders at the next trade, limits once a trade went through
them, stops at the trade that touches them. What is left between the two is what a venue adds: its steps of price and quantity, here 1e-9.
One difference is left out on purpose: where fees are so large against the risk that break-even lies beyond the first target, a venue refuses the
break-even stop at once and live closes at that trade, paper at the next one.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from sinks.guard.inputs import OPEN_STATES
from stream_apps.core.execution.account.guard import GuardInputs, GuardLimits, GuardMemory, OpenPosition, evaluate
from stream_apps.core.execution.orders.events import SignalReceived, Tick
from stream_apps.core.execution.settings.policy import Budget, EntryPolicy, LivePolicy, ProtectionPolicy, SizingPolicy
from stream_apps.core.paper.model import PaperBook, PaperSettings, TradeColumns
from tests.support.trading.execution_exchange import D, rules_of
from tests.support.trading.execution_world import World
from tests.support.trading.paper_cases import GRID, ltc_trades, signal

MINUTE_MS = 60_000
PERP, SYMBOL = "BINANCE:LTCUSDT-PERP", "LTCUSDT"
POLICY = LivePolicy(
    entry=EntryPolicy(style="market", walk_limit_bps=D(2_000), expiry_ms=600_000),
    sizing=SizingPolicy(risk_usd=None),
    budget=Budget(max_notional=D(10**9), max_margin=D(10**9)),
    protection=ProtectionPolicy(window_ms=600_000),
    max_signal_age_ms=600_000,
    guard_stale_ms=10**12,
    quote_stale_ms=10**12,
    # Nothing lists payments here.
    funding_wait_ms=0,
)
COMPARED = (
    "signal_id",
    "direction",
    "entry_time",
    "event_time",
    "exit_reason",
    "tp1_hit",
    "entry_price",
    "exit_price",
    "gross_r",
    "fee_r",
    "net_r",
)


def signals_of(
    trades: TradeColumns,
    seed: int,
    share: float = 0.35,
    risks: tuple[float, ...] = (0.0014, 0.0018, 0.0025),
    timeouts: tuple[int, ...] = (1, 5, 30),
) -> list[dict[str, Any]]:
    """A signal at about a ``share`` of the instants, decided 250 ms after it; ``risks`` are parts of the price, ``timeouts`` minutes.

    The defaults set stops near enough that every way out is taken.
    """
    draw = random.Random(seed)
    made = []
    start, end = int(trades.event_time[0]) // GRID * GRID + GRID, int(trades.event_time[-1])
    for at in range(start, end, GRID):
        if draw.random() < share:
            row = max(int(trades.event_time.searchsorted(at)) - 1, 0)
            price = float(trades.price[row])
            made.append(
                signal(
                    at,
                    instrument=PERP,
                    direction=draw.choice(("LONG", "SHORT")),
                    flip=draw.random() < 0.5,
                    price=price,
                    risk_distance=round(price * draw.choice(risks), 6),
                    timeout_minutes=draw.choice(timeouts),
                )
            )
    return made


def on_paper(trades: TradeColumns, signals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    book = PaperBook(PaperSettings(latency_ms=0, slippage_bps=0.0, entry_expiry_ms=600_000))
    closed: list[dict[str, Any]] = []
    times = sorted({one["event_time"] for one in signals} | {int(trades.event_time[-1]) + 1})
    low = 0
    for time in times:
        high = int(trades.event_time.searchsorted(time, "right"))
        part = TradeColumns(trades.event_time[low:high], trades.offset[low:high], trades.agg_id[low:high], trades.price[low:high])
        now = [one for one in signals if one["event_time"] == time]
        out = book.step(time=time, decided_at=time + 250, instruments=[PERP], trades={PERP: part}, signals=now)
        closed += [record for topic, record in out if topic == "trades_closed"]
        low = high
    return closed


class Guard:
    """The guard beside the book: each minute of the recording it judges what is open and tells the book, as ``sinks.guard`` does.

    Everything but the positions is well, so that only the hold limits can act.
    """

    def __init__(self, limits: GuardLimits) -> None:
        self.limits = limits
        self.memory = GuardMemory()
        self.open: dict[str, OpenPosition] = {}
        self.next_at = 0
        self.read = 0
        # Positions that the guard closed, and how often it alerted.
        self.forced: set[str] = set()
        self.alerts = 0

    def step(self, world: World) -> None:
        """Judge the account if a minute has passed."""
        if world.now < self.next_at:
            return
        self.next_at = world.now + MINUTE_MS
        written = world.records.get("positions", [])
        for record in written[self.read :]:
            if record["status"] in OPEN_STATES and record["entry_time"] is not None:
                self.open[record["position_id"]] = OpenPosition(record["position_id"], record["entry_time"], record["timeout_at"])
            else:
                self.open.pop(record["position_id"], None)
        self.read = len(written)
        facts = GuardInputs(open=list(self.open.values()), reached_at=world.now, available=D(10**9), skew_ms=0, features_at=world.now)
        state, self.memory = evaluate(self.limits, self.memory, facts, world.now)
        self.forced |= set(state.close_positions)
        self.alerts += any(one.rule == "hold_long" for one in state.reasons)
        world.guard_ok(
            block_entries=state.block_entries,
            close_all=state.close_all,
            close_positions=state.close_positions,
            reasons=tuple(one.rule for one in state.reasons),
        )


def live(trades: TradeColumns, signals: list[dict[str, Any]], guard: Guard | None = None) -> list[dict[str, Any]]:
    world = World(POLICY, symbols=(SYMBOL,), price=1)
    fine = D("0.000000001")
    world.rules[SYMBOL] = rules_of(
        SYMBOL, tick=fine, lot=fine, market_lot=fine, min_quantity=fine, max_quantity=D(10**9), market_max_quantity=D(10**9)
    )
    world.book.quotes.clear()
    waiting = sorted(signals, key=lambda one: one["decided_at"])
    world.now = int(trades.event_time[0])
    world.guard_ok()
    for time, price in zip(trades.event_time.tolist(), trades.price.tolist(), strict=True):
        while waiting and waiting[0]["decided_at"] <= time:
            one = waiting.pop(0)
            world.now = world.exchange.now = max(world.now, one["decided_at"])
            # What it asks for is performed at the next trade.
            world.give(SignalReceived(one))
        world.now = world.exchange.now = time
        if guard is not None:
            guard.step(world)
        world.price(D(repr(price)), symbol=SYMBOL, spread=0, tell=bool(world.book.active) or not world.book.quotes)
        if world.book.active:
            world.give(Tick())
            while world.pending or world.stream:
                if world.stream:
                    world.deliver()
                else:
                    world.perform()
    return world.closed()


def compare(lived: list[dict[str, Any]], paper: list[dict[str, Any]]) -> None:
    assert len(lived) == len(paper)
    for ours, theirs in zip(lived, paper, strict=True):
        for name in COMPARED:
            one, other = ours[name], theirs[name]
            assert one == (pytest.approx(other, abs=2e-6) if isinstance(other, float) else other), (name, ours, theirs)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_signals_and_trades_give_the_same_trades(seed: int) -> None:
    trades = ltc_trades("2025-06-21_12h")
    signals = signals_of(trades, seed)
    paper, lived = on_paper(trades, signals), live(trades, signals)
    assert len(paper) > 20 and len({one["exit_reason"] for one in paper}) >= 4, len(paper)
    compare(lived, paper)


def test_v50_trails_and_closes_at_opposite_signals_as_on_paper() -> None:
    trades = ltc_trades("2025-06-21_18h")
    made = signals_of(trades, 4, risks=(0.0014, 0.002), timeouts=(5, 30))
    signals = [{**one, "strategy_version": "v50_rules", "tp2_ratio": 1.0} for one in made]
    paper, lived = on_paper(trades, signals), live(trades, signals)
    reasons = Counter(one["exit_reason"] for one in paper)
    assert reasons["trailing_stop"] >= 3 and reasons["flip"] >= 3 and "tp2" not in reasons, reasons
    compare(lived, paper)
    flipped = {one["event_time"] for one in paper if one["exit_reason"] == "flip"}
    assert not flipped & {one["entry_time"] for one in paper}, "an opposite signal closes and does not enter"


DEFAULT_TIMEOUT = 240


@pytest.fixture(scope="module")
def day() -> TradeColumns:
    """Every tenth trade of fifteen recorded hours."""
    every = ltc_trades(*(f"2025-06-21_{hour:02}h" for hour in range(6, 21, 3)))
    return TradeColumns(every.event_time[::10], every.offset[::10], every.agg_id[::10], every.price[::10])


def held_signals(trades: TradeColumns) -> list[dict[str, Any]]:
    """Wide stops and no flips: most trades end by the default timeout, long after the 70 min of S2 10.2."""
    made = signals_of(trades, 16, share=0.05, risks=(0.006, 0.06), timeouts=(DEFAULT_TIMEOUT,))
    return [{**one, "flip": False} for one in made]


def test_beside_the_guard_with_its_default_limits_trades_end_as_on_paper(day: TradeColumns) -> None:
    signals = held_signals(day)
    guard = Guard(GuardLimits())
    paper, lived = on_paper(day, signals), live(day, signals, guard)
    held = [one["event_time"] - one["entry_time"] for one in paper if one["exit_reason"] == "timeout"]
    assert len(held) >= 2 and min(held) >= DEFAULT_TIMEOUT * MINUTE_MS, paper
    # The guard saw them: it alerts at 180 min. It closed nothing.
    assert guard.alerts and not guard.forced
    assert not {one["exit_reason"] for one in lived} - {one["exit_reason"] for one in paper}
    compare(lived, paper)


def test_a_set_close_limit_below_the_timeout_ends_trades_earlier_than_on_paper(day: TradeColumns) -> None:
    signals = held_signals(day)
    guard = Guard(GuardLimits(hold_warn_ms=45 * MINUTE_MS, hold_close_ms=70 * MINUTE_MS))
    lived = live(day, signals, guard)
    forced = [one for one in lived if one["trade_id"] in guard.forced]
    assert len(forced) >= 2 and max(one["hold_ms"] for one in lived) < 75 * MINUTE_MS
