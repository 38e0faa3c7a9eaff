"""The risk guard's rules (signal-engine-product 10.2; failure detectors of platform-services 13). Pure: inputs and memory in, state and memory out.

An unknown value counts as a bad value: an unreachable venue, an unread balance and missing data block entries. Exits are never blocked. A rule that blocks
sets the state ``halted``; a rule that only limits or alerts sets it to ``warning``.

| rule | trips | does | ends |
|---|---|---|---|
| ``daily_loss`` | net R of the UTC day's closed trades, plus open profit and loss, <= -limit | blocks, closes everything | ``resume`` by hand |
| ``losing_streak`` | so many losses in a row | blocks for the pause | when the pause is over |
| ``unreachable`` | the venue has not answered for longer than the limit | blocks | when it answers |
| ``balance`` | available balance < limit x risk per trade | blocks | when there is more |
| ``stale_data`` | newest features older than the limit | blocks | when newer ones come |
| ``clock`` | venue clock minus ours beyond the limit | blocks | when it is within |
| ``hold_long`` | a position is held for three quarters of its strategy's timeout, or for longer than the set limit | alerts | with the position |
| ``hold_too_long`` | a position is open 10 min after its strategy's timeout, or for longer than the set limit | closes that position | with the position |
| ``maker_fills`` | share of maker entries filled in the last hour below the limit | entries go to market | when the share recovers or is of too few |
| ``insufficient_balance`` | share of orders refused for want of balance in a day above the limit | smaller sizes | likewise |
| ``slow_route`` | 95th percentile of signed request to answer above the limit | neither maker nor slices | likewise |
| ``halt``, ``block_new``, ``close_all`` | a person | as named | ``resume`` by hand |
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

# Signal-engine-product 10.2 says 45 and 70 min, of a time when every trade timed out after 60 min (S1 8.2): three quarters of it, and 10 min beyond it.
HOLD_WARN_PART, HOLD_MARGIN_MS = 75, 10 * MINUTE_MS
# D21.
FACTORY_TIMEOUT_MS = 240 * MINUTE_MS

NORMAL, WARNING, HALTED = "normal", "warning", "halted"
COMMANDS = ("halt", "block_new", "close_all", "resume")


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """Limits of the rules; defaults from signal-engine-product 10.2 and platform-services 13.

    Attributes:
        daily_loss_r: R.
        losing_streak, pause_ms: Losses in a row; the pause after the last of them.
        unreachable_ms, stale_ms: Ages, ms.
        risk_per_trade: Money of one trade's risk; ``balance_risks`` times it must be available.
        clock_skew_ms: D24 allows less than a second.
        hold_warn_ms, hold_close_ms: Ages of a position, ms. None: derived from the timeout of the position's strategy, see ``hold_limits``.
            A set close limit below a strategy's timeout ends its trades earlier than on paper.
        maker_fill_ratio, maker_orders: Lowest share, and the least number of maker entries.
        insufficient_rate, insufficient_orders, reduced_size: Highest share, least number of orders, and factor of sizes.
        route_p95_ms, routes: Highest latency, ms, and the least number of requests.
    """

    daily_loss_r: float = 5.0
    losing_streak: int = 5
    pause_ms: int = HOUR_MS
    unreachable_ms: int = 30_000
    balance_risks: float = 2.0
    risk_per_trade: Decimal = Decimal(2)
    stale_ms: int = 30_000
    clock_skew_ms: int = 1_000
    hold_warn_ms: int | None = None
    hold_close_ms: int | None = None
    maker_fill_ratio: float = 0.25
    maker_orders: int = 8
    insufficient_rate: float = 0.1
    insufficient_orders: int = 10
    reduced_size: float = 0.5
    route_p95_ms: float = 500.0
    routes: int = 20

    def __post_init__(self) -> None:
        """Raise ValueError, naming the limit, for one that switches its rule off or makes no sense."""
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")
        if self.hold_close_ms is not None and self.hold_warn_ms is not None and self.hold_close_ms < self.hold_warn_ms:
            raise ValueError(f"hold_close_ms: must not be below hold_warn_ms ({self.hold_warn_ms}), got {self.hold_close_ms}")
        if self.reduced_size > 1:
            raise ValueError(f"reduced_size: must be at most 1, got {self.reduced_size}")


@dataclass(frozen=True, slots=True)
class ClosedTrade:
    """A closed trade of the account: when, ms UTC, and its net result in R."""

    trade_id: str
    closed_at: int
    net_r: float


@dataclass(frozen=True, slots=True)
class OpenPosition:
    """An open position of the account.

    Attributes:
        entry_time: ms UTC.
        timeout_at: When its strategy's timeout closes it, ms UTC. None: not known, the factory's timeout counts.
        symbol: The venue's symbol.
        realised: What its exits banked so far, quote units.
        at_risk: 1R x the tier multiple, quote units; None when the record does not say.
    """

    position_id: str
    entry_time: int
    timeout_at: int | None = None
    symbol: str = ""
    realised: float = 0.0
    at_risk: float | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A person's command; see risk_commands.avsc. A command in the database's switch repeats with the same id while it is in force."""

    command_id: str
    command: str
    time: int
    by: str
    reason: str
    acknowledge_loss: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """A share of ``count`` observations; None without observations."""

    value: float | None = None
    count: int = 0


@dataclass(frozen=True, slots=True)
class GuardInputs:
    """The inputs of one evaluation.

    Attributes:
        closed: Closed trades of at least the last two days, in any order, each once.
        open: Open positions.
        open_r: Profit and loss of what is open, in R; None where the venue did not say.
        reached_at: Time of the venue's last answer, ms; None: never.
        available: Balance available for new orders; None: never read.
        skew_ms: Venue clock minus local clock; None: never measured.
        features_at: Event time of the newest features, ms; None: never seen.
        maker_fills: Share of the last hour's maker entries that filled as maker.
        insufficient: Share of the last day's orders that were rejected for insufficient balance.
        route_p95_ms: 95th percentile of the latency of signed requests, and their number.
        commands: Commands that may not be applied yet.
    """

    closed: Sequence[ClosedTrade] = ()
    open: Sequence[OpenPosition] = ()
    open_r: float | None = None
    reached_at: int | None = None
    available: Decimal | None = None
    skew_ms: int | None = None
    features_at: int | None = None
    maker_fills: Share = Share()
    insufficient: Share = Share()
    route_p95_ms: Share = Share()
    commands: Sequence[Command] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """A tripped rule; see risk_state.avsc."""

    rule: str
    level: str
    since: int
    detail: str
    value: float | None = None
    limit: float | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class GuardMemory:
    """The memory that survives a restart.

    Attributes:
        tripped: Rules that only a person can reset, by name: start time and the detail at that time.
        counted_from: Trades closed at or before it do not count for the daily loss (a person acknowledged it).
        streak_from: Trades closed at or before it do not count for the streak (the pause is over).
        since: Start time of each tripped rule.
        applied: Ids of commands that were applied, newest last, bounded.
    """

    tripped: dict[str, tuple[int, str]] = field(default_factory=dict)
    counted_from: int = 0
    streak_from: int = 0
    since: dict[str, int] = field(default_factory=dict)
    applied: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the memory as text."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> GuardMemory:
        """Return what ``to_json`` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        values: dict[str, Any] = json.loads(text)
        return cls(
            tripped={str(rule): (int(since), str(detail)) for rule, (since, detail) in values["tripped"].items()},
            counted_from=int(values["counted_from"]),
            streak_from=int(values["streak_from"]),
            since={str(rule): int(time) for rule, time in values["since"].items()},
            applied=tuple(str(one) for one in values["applied"]),
        )


@dataclass(frozen=True, slots=True)
class GuardState:
    """What the account may do; see risk_state.avsc."""

    state: str
    block_entries: bool
    close_all: bool
    close_positions: tuple[str, ...]
    allow_maker: bool
    allow_twap: bool
    size_multiple: float
    reasons: tuple[Reason, ...]


# Most applied commands to remember. The switch in the database repeats commands in force.
MOST_APPLIED = 200


def evaluate(limits: GuardLimits, memory: GuardMemory, facts: GuardInputs, now: int) -> tuple[GuardState, GuardMemory]:
    """Return the state at ``now`` (ms UTC, the guard's clock) and the new memory."""
    memory = _commanded(memory, facts, now)
    memory = _tripped(limits, memory, facts, now)
    memory, streak = _streak(limits, memory, facts, now)
    found = [*streak, *_by_hand(memory), *_venue(limits, facts, now), *_positions(limits, facts, now), *_degraded(limits, facts)]
    since = {one.rule: memory.since.get(one.rule, one.since or now) for one in found}
    reasons = tuple(sorted((replace(one, since=since[one.rule]) for one in found), key=lambda one: (one.level != HALTED, one.rule)))
    rules = set(since)
    blocked = any(one.level == HALTED for one in reasons) or "block_new" in rules
    state = GuardState(
        state=HALTED if any(one.level == HALTED for one in reasons) else WARNING if reasons else NORMAL,
        block_entries=blocked,
        close_all=bool(rules & {"daily_loss", "close_all"}),
        close_positions=tuple(sorted(one.position_id for one in facts.open if now - one.entry_time > hold_limits(limits, one)[1])),
        allow_maker=not rules & {"maker_fills", "slow_route"},
        allow_twap="slow_route" not in rules,
        size_multiple=limits.reduced_size if "insufficient_balance" in rules else 1.0,
        reasons=reasons,
    )
    return state, replace(memory, since=since)


def day_r(memory: GuardMemory, facts: GuardInputs, now: int) -> float:
    """Return the net R of the UTC day: closed trades since midnight or the last acknowledgement, plus open positions.

    Open positions count only if the venue reported them. Without a report the rule ``unreachable`` blocks entries, and a forced close on a guess would
    be worse.
    """
    from_time = max(now - now % DAY_MS - 1, memory.counted_from)
    return sum(one.net_r for one in facts.closed if one.closed_at > from_time) + (facts.open_r or 0.0)


def open_r(positions: Sequence[OpenPosition], unrealised: Mapping[str, Decimal] | None, risk_per_trade: Decimal) -> float | None:
    """Return the R of everything that is open: what it banked and what it would realise now, per money at risk (D14, D19).

    Args:
        positions: Open positions as the log has them.
        unrealised: Venue symbol -> unrealised profit at the venue, quote units; None when the venue has not reported it.
        risk_per_trade: Money at risk of a position whose record does not say it, and of a venue position that no record explains. Leaving it out
            would hide a loss from the daily limit.
    """
    if unrealised is None:
        return None
    total = 0.0
    at_risk: dict[str, float] = {}
    for one in positions:
        risk = one.at_risk or float(risk_per_trade)
        at_risk[one.symbol] = at_risk.get(one.symbol, 0.0) + risk
        total += one.realised / risk
    return total + sum(float(money) / at_risk.get(name, float(risk_per_trade)) for name, money in unrealised.items())


def _commanded(memory: GuardMemory, facts: GuardInputs, now: int) -> GuardMemory:
    for command in sorted(facts.commands, key=lambda one: (one.time, one.command_id)):
        if command.command_id in memory.applied:
            continue
        memory = replace(memory, applied=(*memory.applied, command.command_id)[-MOST_APPLIED:])
        if command.command == "resume":
            # A person may also end the pause of a streak.
            memory = replace(memory, tripped={}, streak_from=max(memory.streak_from, command.time))
            if command.acknowledge_loss:
                memory = replace(memory, counted_from=max(memory.counted_from, command.time))
        elif command.command in COMMANDS:
            detail = f"{command.by}: {command.reason}"
            memory = replace(memory, tripped={**memory.tripped, command.command: (min(command.time, now), detail)})
    return memory


def _tripped(limits: GuardLimits, memory: GuardMemory, facts: GuardInputs, now: int) -> GuardMemory:
    total = day_r(memory, facts, now)
    if total > -limits.daily_loss_r or "daily_loss" in memory.tripped:
        return memory
    detail = f"{total:+.2f} R on the day, limit -{limits.daily_loss_r:g} R; resume with --acknowledge-loss, or after midnight UTC"
    return replace(memory, tripped={**memory.tripped, "daily_loss": (now, detail)})


def _by_hand(memory: GuardMemory) -> list[Reason]:
    return [Reason(rule, WARNING if rule == "block_new" else HALTED, since, detail) for rule, (since, detail) in memory.tripped.items()]


def _streak(limits: GuardLimits, memory: GuardMemory, facts: GuardInputs, now: int) -> tuple[GuardMemory, list[Reason]]:
    """Find the newest losing streak of the limit's length whose pause is not over yet."""
    run = 0
    for trade in sorted(facts.closed, key=lambda one: (one.closed_at, one.trade_id)):
        if trade.closed_at <= memory.streak_from:
            continue
        run = run + 1 if trade.net_r <= 0 else 0
        if run >= limits.losing_streak:
            until = trade.closed_at + limits.pause_ms
            if now < until:
                detail = f"{run} losses in a row"
                return memory, [Reason("losing_streak", HALTED, trade.closed_at, detail, float(run), float(limits.losing_streak), until)]
            memory, run = replace(memory, streak_from=trade.closed_at), 0
    return memory, []


def _venue(limits: GuardLimits, facts: GuardInputs, now: int) -> list[Reason]:
    found = []
    for rule, at, limit, what in (
        ("unreachable", facts.reached_at, limits.unreachable_ms, "answer of the venue"),
        ("stale_data", facts.features_at, limits.stale_ms, "features"),
    ):
        if at is None or now - at > limit:
            age = None if at is None else float(now - at)
            detail = f"no {what} yet" if age is None else f"newest {what} is {age / 1000:.1f} s old"
            found.append(Reason(rule, HALTED, now, detail, age, float(limit)))
    needed = float(limits.risk_per_trade) * limits.balance_risks
    if facts.available is None or float(facts.available) < needed:
        value = None if facts.available is None else float(facts.available)
        detail = "balance not read yet" if value is None else f"{value:g} available, {needed:g} needed"
        found.append(Reason("balance", HALTED, now, detail, value, needed))
    if facts.skew_ms is None or abs(facts.skew_ms) > limits.clock_skew_ms:
        detail = "clock not measured yet" if facts.skew_ms is None else f"the venue's clock is {facts.skew_ms} ms ahead of ours"
        found.append(Reason("clock", HALTED, now, detail, facts.skew_ms, float(limits.clock_skew_ms)))
    return found


def _positions(limits: GuardLimits, facts: GuardInputs, now: int) -> list[Reason]:
    found = []
    for rule, which in (("hold_too_long", 1), ("hold_long", 0)):
        over = [(now - one.entry_time, hold_limits(limits, one)[which], one.position_id) for one in facts.open]
        over = [row for row in over if row[0] > row[1]]
        if over:
            # Each position has a limit of its own: the state shows that of the oldest one.
            oldest, limit, _ = max(over)
            names = sorted(name for _, _, name in over)
            found.append(Reason(rule, WARNING, now, f"{len(over)} held longer: {', '.join(names[:3])}", float(oldest), float(limit)))
    return found


def hold_limits(limits: GuardLimits, position: OpenPosition) -> tuple[int, int]:
    """Return the ages at which a position is alerted and closed, ms.

    A limit that is not set follows the timeout of the position's strategy, so that a strategy ends its trades live as on paper. The close limit only acts
    where the executor failed to close at the timeout.
    """
    timeout = FACTORY_TIMEOUT_MS if position.timeout_at is None else position.timeout_at - position.entry_time
    close = timeout + HOLD_MARGIN_MS if limits.hold_close_ms is None else limits.hold_close_ms
    warn = timeout * HOLD_WARN_PART // 100 if limits.hold_warn_ms is None else limits.hold_warn_ms
    return min(warn, close), close


def _degraded(limits: GuardLimits, facts: GuardInputs) -> list[Reason]:
    found = []
    for rule, share, count, limit, below in (
        ("maker_fills", facts.maker_fills, limits.maker_orders, limits.maker_fill_ratio, True),
        ("insufficient_balance", facts.insufficient, limits.insufficient_orders, limits.insufficient_rate, False),
        ("slow_route", facts.route_p95_ms, limits.routes, limits.route_p95_ms, False),
    ):
        if share.value is None or share.count < count:
            continue
        if share.value < limit if below else share.value > limit:
            found.append(Reason(rule, WARNING, 0, f"{share.value:.3g} of {share.count}, limit {limit:g}", share.value, limit))
    return found
