"""Every setting of live execution with its default, unit and reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from stream_apps.core.execution.settings.routes import DEFAULT_ROUTES, Route
from stream_apps.core.paper.position import FeeRates


@dataclass(frozen=True, slots=True)
class EntryPolicy:
    """How a position is entered (signal-engine-product 10.3, platform-services 5 and 12).

    Attributes:
        style: ``routed`` takes wait, slices and spacing from ``routes`` by notional; ``maker`` is one maker-to-taker run; ``market`` is one taker order.
        offset_ticks: A LONG bids min(mid, best bid + offset x tick); SHORT mirrored.
        timeout_ms: How long a maker order of ``maker`` rests.
        fallback_slippage_bps: After the wait the rest is taken only if the mid moved at most this far, up or down, since the signal (S2 10.3).
        min_fill_ratio: If at least this part of a slice is filled, its rest is dropped; otherwise the rest is taken.
        walk_limit_bps: A taker order is an IOC limit this far beyond the opposite best price, so it never walks further through the book.
        reprices: How often a post-only order that would cross is repriced before the taker order.
        routes: Routing table; a boundary belongs to the row above it (``routing.route_for``).
        jitter: Part of the spacing by which a slice may move, +/-. It is a hash of signal and slice, so it is the same on every run.
        probe_ratio: If the spread exceeds this multiple of its hourly mean, ``probe_action`` applies.
        probe_delay_ms: Delay of ``probe_action`` = ``delay``.
        probe_action: ``delay`` once by ``probe_delay_ms``, or ``split`` into twice the slices.
        expiry_ms: An entry without any fill by then is cancelled.
    """

    style: str = "routed"
    offset_ticks: int = 1
    timeout_ms: int = 4_000
    fallback_slippage_bps: Decimal = Decimal(10)
    min_fill_ratio: Decimal = Decimal("0.95")
    walk_limit_bps: Decimal = Decimal(10)
    reprices: int = 3
    routes: tuple[Route, ...] = DEFAULT_ROUTES
    jitter: Decimal = Decimal("0.2")
    probe_ratio: Decimal = Decimal(2)
    probe_delay_ms: int = 5_000
    probe_action: str = "delay"
    expiry_ms: int = 60_000

    def __post_init__(self) -> None:
        """Raise ValueError, naming the setting, for an invalid value."""
        if self.style not in ("routed", "maker", "market"):
            raise ValueError(f"entry style: expected routed, maker or market, got {self.style!r}")
        if self.probe_action not in ("delay", "split"):
            raise ValueError(f"probe_action: expected delay or split, got {self.probe_action!r}")
        if self.style == "routed" and not any(row.from_notional <= 0 for row in self.routes):
            raise ValueError("routes: no row begins at a notional of 0")
        if not 0 < self.min_fill_ratio <= 1:
            raise ValueError(f"min_fill_ratio: must be in (0, 1], got {self.min_fill_ratio}")
        if not 0 <= self.jitter < Decimal("0.5"):
            raise ValueError(f"jitter: must be in [0, 0.5), got {self.jitter}")


@dataclass(frozen=True, slots=True)
class SizingPolicy:
    """How large a position is.

    Attributes:
        method: ``risk``: 1R / risk distance. ``margin``: margin base x tier multiple x leverage / price (R002-51..53). ``quote``: quote budget x tier
            multiple / price (spot, R002-58).
        risk_usd: 1R in quote units, the same for every strategy (signal-engine-product 10.1). None uses the signal's own balance x risk, as paper
            does (D19).
        margin_base, quote_budget: Quote units.
        leverage: Leverage at the venue; preflight sets it.
        max_loss_usd: Loss cap of a ``margin`` position: stop distance = min(risk distance, cap / quantity) (R002-54).
    """

    method: str = "risk"
    risk_usd: Decimal | None = Decimal(2)
    margin_base: Decimal = Decimal(20)
    quote_budget: Decimal = Decimal(20)
    leverage: int = 5
    max_loss_usd: Decimal = Decimal(5)

    def __post_init__(self) -> None:
        """Raise ValueError, naming the setting, for an invalid value."""
        if self.method not in ("risk", "margin", "quote"):
            raise ValueError(f"sizing method: expected risk, margin or quote, got {self.method!r}")
        if self.leverage < 1:
            raise ValueError(f"leverage: must be at least 1, got {self.leverage}")


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of the whole account. An entry beyond a limit is rejected with the limit's name.

    Attributes:
        max_positions: Open and pending positions of all strategies. Each strategy's own ``max_positions`` applies, too.
        max_notional: Notional of one position, quote units.
        max_margin: Sum of notional / leverage of all positions, quote units.
        max_spot_notional: Sum spent on spot positions, quote units.
    """

    max_positions: int = 4
    max_notional: Decimal = Decimal(1_000)
    max_margin: Decimal = Decimal(500)
    max_spot_notional: Decimal = Decimal(500)


@dataclass(frozen=True, slots=True)
class ProtectionPolicy:
    """Stops and targets.

    Attributes:
        window_ms: A position without a confirmed stop for longer than this is closed at market. A stop needs one round trip (50-300 ms). 3 s allow for
            one lost response and its query, and the price rarely moves 2 x ATR in that time.
        tp_timeout_ms: If the mid is beyond a target's level for this time and its limit order is not filled, the target is taken at market (S1 8.7).
        close_retry_ms: Wait before a rejected close is retried; doubles up to ``close_retry_max_ms``.
        stop_retries: After this many rejections of a stop the position is closed.
    """

    window_ms: int = 3_000
    tp_timeout_ms: int = 2_000
    close_retry_ms: int = 250
    close_retry_max_ms: int = 5_000
    stop_retries: int = 3


@dataclass(frozen=True, slots=True)
class RoePolicy:
    """Rules of platform-services 6 by return on margin, ROE = unrealised profit / margin. Off unless ``enabled``; then they replace TP1 and TP2.

    At each price the rules apply in this order, each at most once (add-ons: twice). This settles Q002-4:

    1. The stop moves: at ``trail_first`` to break-even, at ``trail_second`` to the price that nets ``lock`` of the margin. It only lowers risk.
    2. The partial exit at ``partial_at`` closes the quantity of the first entry after an add-on, else ``partial_ratio`` of the position.
    3. An add-on. It never happens at a price at which the partial exit is due, nor after it.
    4. The full target at ``target`` of the margin, None by default. R002-56's "net >= 10 %" is what step 1 locks in. A ``target`` of 10 % would
       make the steps above 10 % unreachable.
    """

    enabled: bool = False
    trail_first: Decimal = Decimal("0.10")
    trail_second: Decimal = Decimal("0.20")
    lock: Decimal = Decimal("0.10")
    partial_at: Decimal = Decimal("0.12")
    partial_ratio: Decimal = Decimal("0.5")
    add_on_at: tuple[Decimal, ...] = (Decimal("0.05"), Decimal("0.10"))
    add_ons: bool = False
    target: Decimal | None = None


@dataclass(frozen=True, slots=True)
class SpotPolicy:
    """Protection of a spot position (platform-services 4.5); see ``exits/spot.py``.

    Attributes:
        target: The signal's target at which the pair rests, ``tp1`` or ``tp2``. A spot position has one target and one stop (R002-59).
        pairs: Most resting pairs of one position. Further fills wait until the entry is complete. The venue accepts 5 stops for a symbol.
        pair_retries: After this many rejections in a row a plain stop is placed instead, and this process handles the target.
        guard_limit_ms: Longest time in which only this process protects a position; then it is closed at market. Without a recent price the limit is
            ``protection.window_ms``.
    """

    target: str = "tp2"
    pairs: int = 4
    pair_retries: int = 3
    guard_limit_ms: int = 300_000

    def __post_init__(self) -> None:
        """Raise ValueError, naming the setting, for an invalid value."""
        if self.target not in ("tp1", "tp2"):
            raise ValueError(f"spot target: expected tp1 or tp2, got {self.target!r}")
        if not 1 <= self.pairs <= 5:
            raise ValueError(f"spot pairs: must be from 1 to 5, got {self.pairs}")


@dataclass(frozen=True, slots=True)
class ReconcilePolicy:
    """Reconciliation of the journal with the venue (R002-77).

    Attributes:
        orphan: ``RECLAIM_IF_SAFE`` or ``CONSERVATIVE``; ``account/reconcile.py`` defines "safe".
        reclaim_risk_bps: Stop distance of a reclaimed position from its entry price.
        every_ms: Period.
        rounds: After this many rounds in a row with the same finding no action is taken. It stays red until a person resolves it.
        stream_lost_ms: Entries are blocked when the user stream is down for longer.
    """

    orphan: str = "CONSERVATIVE"
    reclaim_risk_bps: Decimal = Decimal(100)
    every_ms: int = 300_000
    rounds: int = 3
    stream_lost_ms: int = 5_000

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown orphan policy."""
        if self.orphan not in ("RECLAIM_IF_SAFE", "CONSERVATIVE"):
            raise ValueError(f"orphan policy: expected RECLAIM_IF_SAFE or CONSERVATIVE, got {self.orphan!r}")


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """Daily re-estimation of ``entry.routes`` from the cost of entries (R002-66, R002-130); see ``routing/proposal.py`` and ``routing/reestimate.py``.

    Attributes:
        automatic: Re-estimate and apply the result. Off: the policy's table applies.
        every_ms: Period.
        days: Entries that ended within this many days count, if they ended after their row's last change.
        least: Fewest entries of a row for an estimate.
        shortest_ms, longest_ms, most_slices: Bounds. A policy row beyond them is not moved further out.
    """

    automatic: bool = True
    every_ms: int = 86_400_000
    days: int = 30
    least: int = 30
    shortest_ms: int = 500
    longest_ms: int = 10_000
    most_slices: int = 8

    def __post_init__(self) -> None:
        """Raise ValueError, naming the setting, for an invalid value."""
        for name, least in (
            ("every_ms", 1),
            ("days", 1),
            ("least", 2),
            ("shortest_ms", 1),
            ("longest_ms", self.shortest_ms),
            ("most_slices", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"routing {name}: must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """All settings of live execution.

    Attributes:
        entry, sizing, budget, protection, spot, roe, reconcile, routing: See each.
        symbols: The venue's symbols that may be entered; None: all.
        strategies: Strategies whose signals are executed; None: all. Others are ignored.
        fees, fee_basis: For break-even levels, and for fees in an asset without a price. Booked fees are the venue's.
        max_signal_age_ms: A signal decided longer ago (wall time) is rejected, including its flip.
        not_found_ms: "Not found" counts only this long after the outcome became unknown: the receive window (5 s) plus 1 s for clocks and the venue's
            delay. Before that the order may still arrive.
        query_ms: Time between two queries of one order; doubles up to ``query_max_ms``.
        resend_ms: Wait before an order that never left this machine is sent again.
        fills_grace_ms: Wait for the fills of a reported execution before they are queried.
        guard_stale_ms: Validity of a risk state (D25).
        quote_stale_ms: Older prices are not used (D9: 5 s).
        funding_wait_ms: Longest wait of a closed trade's record for the venue's list of funding payments.
        clock_margin_ms: Fills are requested from this long before a trade's start, local clock.
        keep_closed_ms: Closed trades are remembered for this long, to recognise late reports.
    """

    entry: EntryPolicy = field(default_factory=EntryPolicy)
    sizing: SizingPolicy = field(default_factory=SizingPolicy)
    budget: Budget = field(default_factory=Budget)
    protection: ProtectionPolicy = field(default_factory=ProtectionPolicy)
    spot: SpotPolicy = field(default_factory=SpotPolicy)
    roe: RoePolicy = field(default_factory=RoePolicy)
    reconcile: ReconcilePolicy = field(default_factory=ReconcilePolicy)
    routing: RoutingPolicy = field(default_factory=RoutingPolicy)
    symbols: tuple[str, ...] | None = None
    strategies: tuple[str, ...] | None = None
    fees: FeeRates = field(default_factory=FeeRates)
    fee_basis: str = "fill"
    max_signal_age_ms: int = 10_000
    not_found_ms: int = 6_000
    query_ms: int = 250
    query_max_ms: int = 2_000
    resend_ms: int = 500
    fills_grace_ms: int = 500
    guard_stale_ms: int = 10_000
    quote_stale_ms: int = 5_000
    funding_wait_ms: int = 600_000
    clock_margin_ms: int = 5_000
    keep_closed_ms: int = 86_400_000
