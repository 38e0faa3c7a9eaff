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

import numpy as np
import pytest

from sinks.guard.inputs import OPEN_STATES
from stream_apps.core.execution.account.guard import GuardInputs, GuardLimits, GuardMemory, OpenPosition, evaluate
from stream_apps.core.execution.orders.events import SignalReceived, Tick
from stream_apps.core.execution.settings.policy import Budget, EntryPolicy, LivePolicy, ProtectionPolicy, SizingPolicy
from stream_apps.core.execution.state.records import symbol_of
from stream_apps.core.paper.model import PaperBook, PaperSettings, TradeColumns
from stream_apps.core.signals.scoring.registry import MODELS
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
    return written_on_paper({PERP: trades}, signals)["trades_closed"]


def written_on_paper(trades: dict[str, TradeColumns], signals: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return topic -> the records of the paper model on some instruments."""
    book = PaperBook(PaperSettings(latency_ms=0, slippage_bps=0.0, entry_expiry_ms=600_000))
    written: dict[str, list[dict[str, Any]]] = {"trades_closed": [], "orders": []}
    times = sorted({one["event_time"] for one in signals} | {max(int(one.event_time[-1]) for one in trades.values()) + 1})
    low = dict.fromkeys(trades, 0)
    for time in times:
        parts = {}
        for name, one in trades.items():
            first, last = low[name], int(one.event_time.searchsorted(time, "right"))
            parts[name] = TradeColumns(one.event_time[first:last], one.offset[first:last], one.agg_id[first:last], one.price[first:last])
            low[name] = last
        now = [one for one in signals if one["event_time"] == time]
        for topic, record in book.step(time=time, decided_at=time + 250, instruments=list(trades), trades=parts, signals=now):
            written.setdefault(topic, []).append(record)
    return written


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
    return played_live({PERP: trades}, signals, guard).closed()


def played_live(trades: dict[str, TradeColumns], signals: list[dict[str, Any]], guard: Guard | None = None) -> World:
    """Return the world in which the live book traded some instruments, all their trades in order of time."""
    symbols = {name: symbol_of(name) for name in trades}
    world = World(POLICY, symbols=tuple(symbols.values()), price=1)
    fine = D("0.000000001")
    for symbol in symbols.values():
        world.rules[symbol] = rules_of(
            symbol, tick=fine, lot=fine, market_lot=fine, min_quantity=fine, max_quantity=D(10**9), market_max_quantity=D(10**9)
        )
    world.book.quotes.clear()
    waiting = sorted(signals, key=lambda one: (one["decided_at"], one["instrument"]))
    world.now = min(int(one.event_time[0]) for one in trades.values())
    world.guard_ok()
    rows = [
        (time, symbols[name], price)
        for name, one in trades.items()
        for time, price in zip(one.event_time.tolist(), one.price.tolist(), strict=True)
    ]
    rows.sort(key=lambda row: row[0])
    for place, (time, symbol, price) in enumerate(rows):
        while waiting and waiting[0]["decided_at"] <= time:
            one = waiting.pop(0)
            world.now = world.exchange.now = max(world.now, one["decided_at"])
            # What it asks for is performed at the next trade.
            world.give(SignalReceived(one))
        world.now = world.exchange.now = time
        if guard is not None:
            guard.step(world)
        world.price(D(repr(price)), symbol=symbol, spread=0, tell=bool(world.book.active) or symbol not in world.book.quotes)
        if place + 1 < len(rows) and rows[place + 1][0] == time and rows[place + 1][1] != symbol:
            continue  # what another instrument trades at the same moment is there before anything is done
        if world.book.active:
            world.give(Tick())
            while world.pending or world.stream:
                if world.stream:
                    world.deliver()
                else:
                    world.perform()
    return world


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


NAMES = ("BINANCE:LTCFDUSD-PERP", "BINANCE:LTCUSDC-PERP", "BINANCE:LTCUSDT-PERP")


def side_by_side(*hours: str, step_ms: int = 5_000) -> dict[str, TradeColumns]:
    """Prices of recorded hours as if three instruments had traded at the same moments, every ``step_ms``."""
    every = [ltc_trades(hour) for hour in hours]
    start, length = int(every[0].event_time[0]), min(int(one.event_time[-1] - one.event_time[0]) for one in every)
    times = np.arange(step_ms, length, step_ms)
    found = {}
    for name, one in zip(NAMES, every, strict=True):
        price = one.price[one.event_time.searchsorted(times + int(one.event_time[0]), "right") - 1]
        found[name] = TradeColumns.of(times + start, range(len(times)), range(len(times)), price)
    return found


def test_max_positions_counts_over_the_instruments_of_a_strategy_on_paper_as_live() -> None:
    """One strategy on three instruments may hold two positions: both refuse the same signals, and the trades are the same."""
    trades = side_by_side("2025-06-21_12h", "2025-06-21_15h", "2025-06-21_18h")
    # Decided just after the instant, so that no trade is between the two.
    signals = [
        {**one, "instrument": name, "signal_id": f"{name}|s1|{one['event_time']}", "decided_at": one["event_time"] + 1, "max_positions": 2}
        for seed, name in enumerate(NAMES)
        for one in signals_of(trades[name], seed, share=0.3)
    ]
    paper, world = written_on_paper(trades, signals), played_live(trades, signals)
    refused = sorted(one["order_id"] for one in paper["orders"] if one["reason"] == "max_positions")
    assert len(refused) > 20 and {one.rsplit("|")[0] for one in refused} == set(NAMES)
    assert refused == sorted(one["order_id"].removeprefix("main|") for one in world.records["orders"] if one["reason"] == "max_positions")
    assert {one["reason"] for one in paper["orders"] if one["status"] == "rejected"} == {"max_positions"}
    by_signal = {
        side: sorted(rows, key=lambda one: one["signal_id"]) for side, rows in (("paper", paper["trades_closed"]), ("live", world.closed()))
    }
    assert len(by_signal["paper"]) > 40 and {one["instrument"] for one in by_signal["paper"]} == set(NAMES)
    compare(by_signal["live"], by_signal["paper"])
    # Otherwise the limit would prove nothing: never more than two at once, and two at some time.
    moments = sorted([(one["entry_time"], 1) for one in by_signal["paper"]] + [(one["event_time"], -1) for one in by_signal["paper"]])
    open_now = [sum(step for _, step in moments[: place + 1]) for place in range(len(moments))]
    assert max(open_now) == 2


V50_TIERS = ("light", "standard", "heavy")
V50_SHARE = {"light": 0.02, "standard": 0.05, "heavy": 0.08}  # of capital, S2 6


def test_v50_puts_no_more_than_a_tenth_of_the_capital_into_one_side_on_paper_as_live() -> None:
    """S2 6, with the plan's own shares; every refusal is one that they demand, and both sides refuse the same signals."""
    trades = side_by_side("2025-06-21_12h", "2025-06-21_15h", "2025-06-21_18h")
    defaults = MODELS["v50_rules"].defaults
    draw = random.Random(3)
    signals = []
    for seed, name in enumerate(NAMES):
        for one in signals_of(trades[name], 20 + seed, share=0.3):
            tier = draw.choice(V50_TIERS)
            own = {"instrument": name, "signal_id": f"{name}|s1|{one['event_time']}", "decided_at": one["event_time"] + 1, "tp2_ratio": 4.0}
            signals.append({**one, **own, "strategy_version": "v50_rules", "tier": tier, "risk_multiple": defaults[f"tier_{tier}"]})
    paper, world = written_on_paper(trades, signals), played_live(trades, signals)
    refused = {one["position_id"] for one in paper["orders"] if one["status"] == "rejected"}
    assert {one["reason"] for one in paper["orders"] if one["status"] == "rejected"} == {"side_capital"} and len(refused) > 10
    assert refused == {one["position_id"].removeprefix("main|") for one in world.records["orders"] if one["reason"] == "side_capital"}
    closed = sorted(paper["trades_closed"], key=lambda one: one["signal_id"])
    compare(sorted(world.closed(), key=lambda one: one["signal_id"]), closed)

    def taken(side: str, at: int) -> float:
        """Share of the capital of one side at an instant: opened before it, not closed until it."""
        mine = [one for one in closed if one["direction"] == side and one["signal_time"] < at <= one["event_time"]]
        return sum(V50_SHARE[one["tier"]] for one in mine)

    by_id = {one["signal_id"]: one for one in signals}
    instants = sorted({one["event_time"] for one in signals})
    most = max(taken(side, at) for side in ("LONG", "SHORT") for at in instants)
    assert most == pytest.approx(0.10)
    # A refused signal would have gone beyond, with what was open before it or entered at its own instant.
    for one in (by_id[key] for key in refused):
        others = [o for o in closed if o["signal_time"] == one["event_time"] and o["instrument"] < one["instrument"]]
        same = sum(V50_SHARE[o["tier"]] for o in others if o["direction"] == one["direction"])
        assert taken(one["direction"], one["event_time"]) + same + V50_SHARE[one["tier"]] > 0.10 + 1e-9


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
