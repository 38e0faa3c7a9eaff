"""One paper position: its facts, levels and money, and its form in the state (DECISIONS D19-D22)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from stream_apps.core.paper.fills import Filters, ticked
from stream_apps.core.paper.money import ZERO, exact, halvable_quantity, wire_price
from stream_apps.core.signals.signal_rules import Holding, trail_ratio

PENDING, OPEN, TP1_HIT, CLOSED, EXPIRED = "pending", "open", "tp1_hit", "closed", "expired"
MINUTE_MS = 60_000
# Steps of the trailing stop, in R. At a venue each move is a new order and the cancel of the old one: at most ten for each R of profit.
TRAIL_STEP = Decimal("0.1")


@dataclass(frozen=True, slots=True)
class FeeRates:
    """Fees as fractions of notional.

    Attributes:
        taker: Rate of market and stop orders.
        maker: Rate of limit orders.
    """

    taker: float = 0.0005
    maker: float = 0.0002


@dataclass(frozen=True, slots=True)
class PaperSettings:
    """Settings of the paper execution.

    Attributes:
        latency_ms: Time from a decision to its order at the venue, ms of event time.
        slippage_bps: Cost of a market or stop order beyond its filling trade, in 1/10,000 of that trade's price. It stands for the half
            spread and the depth, which trade prints do not show. It applies where no book is known. Limit orders never slip.
        fees: Fees of venues without an entry in ``venue_fees``.
        venue_fees: Venue (the part of an instrument id before the colon) -> its fees.
        fee_basis: ``fill``: each fill pays on its own notional, as venues charge. ``entry``: every fill pays on its quantity at the entry
            price. That is the formula fee_R = 2 x rate x entry / risk distance of S1 8.4, for comparison with figures made by it.
        entry_expiry_ms: Time for which an entry order waits for its first trade, ms of event time.
        max_signal_age_ms: A signal decided later than this after its instant is refused.
        walk_book: Market and stop orders walk the book where one is known; otherwise ``slippage_bps`` applies.
        use_filters: Quantities and prices keep the contract's steps where they are known. A quantity that is too small is refused.
    """

    latency_ms: int = 250
    slippage_bps: float = 1.0
    fees: FeeRates = field(default_factory=FeeRates)
    venue_fees: dict[str, FeeRates] = field(default_factory=dict)
    fee_basis: str = "fill"
    entry_expiry_ms: int = 60_000
    max_signal_age_ms: int = 60_000
    walk_book: bool = True
    use_filters: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError, naming the setting, for an impossible value."""
        for name in ("latency_ms", "slippage_bps", "entry_expiry_ms", "max_signal_age_ms"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")
        if self.slippage_bps >= 10_000:
            raise ValueError(f"slippage_bps: must be below 10000 (a sale at a price of zero), got {self.slippage_bps}")
        if self.fee_basis not in ("fill", "entry"):
            raise ValueError(f"fee_basis: expected fill or entry, got {self.fee_basis!r}")
        for rates in (self.fees, *self.venue_fees.values()):
            if not (-0.01 < rates.maker < 0.1 and 0 <= rates.taker < 0.1):
                raise ValueError(f"fees: implausible fractions {rates}")

    def fees_of(self, instrument: str) -> FeeRates:
        """Return the fees of an instrument's venue."""
        return self.venue_fees.get(instrument.partition(":")[0], self.fees)


@dataclass(slots=True)
class Position:
    """A position from its accepted signal to its end. Prices in quote units per base unit, money in quote units, times in ms UTC.

    Attributes:
        entry_at: Time from which the entry order is at the venue.
        expires_at: Time at which it is cancelled if no trade came.
        flip_at: Time from which a flip order closes at market; None without one.
        cursor_time, cursor_offset: The trade of the newest fill. Only trades after it in (event_time, offset) count.
        best, worst: Most favourable and most adverse trade price since entry.
        last_price: Newest trade price since entry.
        gross: Price gains banked so far, slippage included. ``fees``, ``funding`` (paid is positive) and ``slippage`` (a cost) likewise.
        exit_value: Sum of exit price x quantity.
        entry_slippage: Part of ``slippage`` that the entry cost.
        entry_reference, exit_reference: Sums of reference price x quantity, the basis of slippage in 1/10,000.
        funding_until: Newest settlement already charged.
        tick: Price step of the contract; None: prices are not rounded.
        trail_ratio: Distance of the trailing stop in R; 0: the second target closes the rest.
        trail_steps: Steps of ``TRAIL_STEP`` beyond the second target that the trailing stop has followed. None: it does not trail yet.
        trail_moves: Number of times that it moved the stop.
    """

    signal_id: str
    instrument: str
    strategy_id: str
    strategy_name: str
    config_revision: int
    config_hash: str
    direction: str
    tier: str
    regime: str
    score: float
    signal_time: int
    entry_at: int
    expires_at: int
    timeout_minutes: int
    tp1_ratio: Decimal
    tp2_ratio: Decimal
    risk_distance: Decimal
    risk_amount: Decimal
    risk_multiple: Decimal
    quantity: Decimal
    open_quantity: Decimal = ZERO
    status: str = PENDING
    entry_time: int | None = None
    entry_price: Decimal | None = None
    stop_price: Decimal | None = None
    tp1_price: Decimal | None = None
    tp2_price: Decimal | None = None
    timeout_at: int | None = None
    tp1_time: int | None = None
    flip_at: int | None = None
    flip_signal_id: str | None = None
    cursor_time: int = 0
    cursor_offset: int = -1
    best: float | None = None
    worst: float | None = None
    last_price: float | None = None
    gross: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO
    slippage: Decimal = ZERO
    exit_value: Decimal = ZERO
    entry_slippage: Decimal = ZERO
    entry_reference: Decimal = ZERO
    exit_reference: Decimal = ZERO
    funding_until: int | None = None
    tick: Decimal | None = None
    trail_ratio: Decimal = ZERO
    trail_steps: int | None = None
    trail_moves: int = 0

    @property
    def sign(self) -> int:
        """+1 for LONG, -1 for SHORT."""
        return 1 if self.direction == "LONG" else -1

    @property
    def is_open(self) -> bool:
        """True from the entry fill to the last exit fill."""
        return self.status in (OPEN, TP1_HIT)

    @property
    def is_over(self) -> bool:
        """True when the position is final."""
        return self.status in (CLOSED, EXPIRED)

    @property
    def half(self) -> Decimal:
        """Quantity of the first target: exactly half."""
        return self.quantity / 2

    @property
    def realised(self) -> Decimal:
        """Money banked so far, fees and funding included."""
        return self.gross - self.fees - self.funding

    @property
    def risk(self) -> Decimal:
        """Money at risk: 1R x the tier's multiple. R figures are per unit of this, so the tier does not change them (D14)."""
        return self.risk_amount * self.risk_multiple

    @property
    def holding(self) -> Holding:
        """The position as the rules of its strategy count it."""
        return Holding(self.instrument, self.direction, float(self.risk_multiple))

    def set_levels(self, entry_price: Decimal, entry_time: int) -> None:
        """Set entry, stop, targets and timeout: entry -/+ risk distance, entry +/- ratio x risk distance (R-based, S1 8.2)."""
        self.entry_price, self.entry_time = entry_price, entry_time
        long = self.sign > 0
        self.stop_price = wire_price(ticked(entry_price - self.sign * self.risk_distance, self.tick, not long))
        self.tp1_price = wire_price(ticked(entry_price + self.sign * self.tp1_ratio * self.risk_distance, self.tick, long))
        self.tp2_price = wire_price(ticked(entry_price + self.sign * self.tp2_ratio * self.risk_distance, self.tick, long))
        self.timeout_at = entry_time + self.timeout_minutes * MINUTE_MS

    def break_even(self, taker: Decimal, basis: str) -> Decimal:
        """Return the break-even price: a close there pays exactly its own entry and exit fee. f is the taker rate of both sides.

        LONG: b - entry = f x entry + f x b -> b = entry x (1 + f) / (1 - f). SHORT is mirrored: entry x (1 - f) / (1 + f). With fees on the
        entry notional: entry x (1 +/- 2f). Slippage is not included.
        """
        assert self.entry_price is not None
        if basis == "entry":
            price = self.entry_price * (1 + self.sign * 2 * taker)
        else:
            price = self.entry_price * (1 + self.sign * taker) / (1 - self.sign * taker)
        return wire_price(ticked(price, self.tick, self.sign > 0))

    @property
    def stop_leg(self) -> str:
        """Leg of the current stop."""
        if self.trail_moves:
            return "trailing_stop"
        return "stop" if self.status == OPEN else "break_even_stop"

    def trail_level(self, steps: int) -> Decimal:
        """Return the price beyond which the trailing stop starts (0 steps: the second target), or follows one step further."""
        assert self.entry_price is not None
        beyond = self.entry_price + self.sign * (self.tp2_ratio + steps * TRAIL_STEP) * self.risk_distance
        return wire_price(ticked(beyond, self.tick, self.sign > 0))

    @property
    def next_trail_step(self) -> int:
        """Return the next step of the trailing stop."""
        return 0 if self.trail_steps is None else self.trail_steps + 1

    def trail(self, price: float) -> bool:
        """Let the stop follow a price: ``trail_ratio`` R behind the last level that the price went beyond. Return whether it moved.

        The stop only moves towards profit, so one at break-even stays until the trailing stop lies beyond it.
        """
        assert self.entry_price is not None and self.stop_price is not None
        first = self.next_trail_step
        if not self._beyond(price, first):
            return False
        # The highest level that may lie behind the price. Rounding to ticks moves a level away from the entry, never towards it.
        gained = self.sign * (exact(price) - self.entry_price) / self.risk_distance - self.tp2_ratio
        steps = max(first, int(gained / TRAIL_STEP))
        while steps > first and not self._beyond(price, steps):
            steps -= 1
        self.trail_steps = steps
        behind = self.tp2_ratio + steps * TRAIL_STEP - self.trail_ratio
        stop = wire_price(ticked(self.entry_price + self.sign * behind * self.risk_distance, self.tick, self.sign < 0))
        if self.sign * (stop - self.stop_price) <= 0:
            return False
        self.stop_price, self.trail_moves = stop, self.trail_moves + 1
        return True

    def _beyond(self, price: float, steps: int) -> bool:
        return self.sign * (price - float(self.trail_level(steps))) > 0

    def quantity_at(self, time: int) -> Decimal:
        """Return the quantity that was open just before ``time``. ``time`` may lie before the first target's fill."""
        return self.quantity if self.tp1_time is None or time <= self.tp1_time else self.quantity - self.half

    def see(self, high: float, low: float, last: float) -> None:
        """Update best and worst price with the range of trades during the position."""
        best, worst = (high, low) if self.sign > 0 else (low, high)
        if self.best is None or self.sign * (best - self.best) > 0:
            self.best = best
        if self.worst is None or self.sign * (worst - self.worst) < 0:
            self.worst = worst
        self.last_price = last

    def excursions(self) -> tuple[Decimal, Decimal]:
        """Return (MFE, MAE) in R from the entry price on trade prices, both >= 0."""
        assert self.entry_price is not None
        favourable = self.sign * (exact(self.best) - self.entry_price) if self.best is not None else ZERO
        adverse = self.sign * (self.entry_price - exact(self.worst)) if self.worst is not None else ZERO
        return max(favourable, ZERO) / self.risk_distance, max(adverse, ZERO) / self.risk_distance

    def to_json(self) -> dict[str, Any]:
        """Return the position as JSON values; decimals as text."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: str(value) if isinstance(value, Decimal) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Position:
        """Return the position that ``to_json`` wrote."""
        read: dict[str, Any] = {name: Decimal(v) if name in _DECIMALS and v is not None else v for name, v in values.items()}
        return cls(**read)


_DECIMALS = {one.name for one in fields(Position) if "Decimal" in str(one.type)}


def quantity_of(signal: dict[str, Any], filters: Filters | None) -> Decimal:
    """Return the quantity of an entry signal (D19): 1R x risk multiple / risk distance, rounded down to the contract's lots where they are known.

    R stays money per 1R of the strategy. A position that is smaller because of its lots gains and loses slightly less than its R.
    """
    risk_amount = exact(signal["initial_balance"]) * exact(signal["risk_per_trade"])
    wanted = halvable_quantity(risk_amount * exact(signal["risk_multiple"]) / exact(signal["risk_distance"]))
    return wanted if filters is None else filters.quantity(wanted)


def position_of(signal: dict[str, Any], settings: PaperSettings, filters: Filters | None = None) -> Position:
    """Return the pending position of an accepted entry signal (D19).

    Args:
        signal: A ``signals`` record.
        settings: Of the model.
        filters: Steps of the contract. None: quantity and prices are not rounded.
    """
    entry_at = signal["decided_at"] + settings.latency_ms
    return Position(
        signal_id=signal["signal_id"],
        instrument=signal["instrument"],
        strategy_id=signal["strategy_id"],
        strategy_name=signal["strategy_name"],
        config_revision=signal["config_revision"],
        config_hash=signal["config_hash"],
        direction=signal["direction"],
        tier=signal["tier"],
        regime=signal["regime"],
        score=signal["score"],
        signal_time=signal["event_time"],
        entry_at=entry_at,
        expires_at=entry_at + settings.entry_expiry_ms,
        timeout_minutes=signal["timeout_minutes"],
        tp1_ratio=exact(signal["tp1_ratio"]),
        tp2_ratio=exact(signal["tp2_ratio"]),
        risk_distance=exact(signal["risk_distance"]),
        risk_amount=exact(signal["initial_balance"]) * exact(signal["risk_per_trade"]),
        risk_multiple=exact(signal["risk_multiple"]),
        quantity=quantity_of(signal, filters),
        tick=None if filters is None else filters.tick,
        trail_ratio=exact(trail_ratio(signal)),
    )
