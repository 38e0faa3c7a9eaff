"""What must be true before real orders leave (DECISIONS D24): checked against the venue, each with its finding in words.

Money between the spot and the futures wallet is moved by a person, never by perpflow (R002-67): a key that may do it may also strip a position of its
margin, which is not needed for trading, and a key here may do nothing that is not needed. What is missing where is said instead, against the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sinks.venues.common.adapter import PairVenue, TradingVenue, VenueError
from stream_apps.core.execution.orders.venue_reports import AccountPermissions

# D24: less than a second; half of it is left for what the clock does until the next measurement.
SKEW_OK_MS, SKEW_LIMIT_MS = 500, 1_000


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: ``ok``, or not, or (None) not to be found out at this venue."""

    check: str
    ok: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class AccountRequirements:
    """What the account is to be used for.

    Attributes:
        symbols: The venue's symbols.
        leverage: To be set for each.
        balance: Money that must be available, in ``asset``.
        budget: What the policy may spend in all (spot notional, futures margin); None: not compared.
        strict: Live: what cannot be found out counts as a failure.
    """

    symbols: Sequence[str]
    leverage: int
    balance: Decimal
    asset: str = "USDT"
    strict: bool = True
    budget: Decimal | None = None


async def preflight(venue: TradingVenue, wanted: AccountRequirements) -> list[CheckResult]:
    """Check an account; sets isolated margin and the leverage of symbols without a position. The venue must be open.

    Raises:
        VenueError: the venue does not answer.
    """
    facts = await venue.account()
    found = [
        *_key(facts),
        CheckResult("position mode", facts.one_way, "one-way" if facts.one_way else "hedge mode: switch the account to one-way mode"),
    ]
    skew = await venue.clock_skew_ms()
    found.append(
        CheckResult(
            "clock",
            abs(skew) < SKEW_LIMIT_MS,
            f"the venue's clock is {skew:+d} ms against ours" + (", synchronise ours" * (abs(skew) >= SKEW_OK_MS)),
        )
    )
    balances = {one.asset: one for one in await venue.balances()}
    available = balances[wanted.asset].available if wanted.asset in balances else Decimal(0)
    wallet = "spot" if isinstance(venue, PairVenue) else "futures"
    told = f"{available:f} {wanted.asset} available, {wanted.balance:f} needed"
    found.append(CheckResult("balance", available >= wanted.balance, told + _move(wanted.balance - available, wanted.asset, wallet)))
    if wanted.budget is not None:
        # Advice: what the wallet does not hold is refused as insufficient balance, entry by entry.
        told = f"the policy may use {wanted.budget:f} {wanted.asset}" + _move(wanted.budget - available, wanted.asset, wallet)
        found.append(CheckResult("budget", True, told))
    held = {one.symbol: one for one in await venue.positions()}
    for symbol in wanted.symbols:
        found += await _symbol(venue, symbol, wanted, symbol in held)
    return found


def passed(found: Sequence[CheckResult], strict: bool) -> bool:
    """Return whether trading may begin: nothing failed, and, when strict, nothing is unknown."""
    return all(one.ok or (one.ok is None and not strict) for one in found)


def _key(facts: AccountPermissions) -> list[CheckResult]:
    withdraw = None if facts.can_withdraw is None else not facts.can_withdraw
    return [
        CheckResult(
            "key may trade",
            facts.can_trade,
            _words(facts.can_trade, "yes", "no: enable futures (spot trading for a spot account) for the key"),
        ),
        CheckResult("key may not withdraw", withdraw, _words(withdraw, "right", "the key may WITHDRAW: make one that may not")),
        CheckResult(
            "key moves no money",
            True,
            _words(
                None if facts.can_transfer is None else not facts.can_transfer,
                "right",
                "it may move money between wallets: not needed, take it away",
            ),
        ),
        # Advice, not a condition: a desk without fixed addresses trades too.
        CheckResult("key bound to addresses", True, _words(facts.ip_restricted, "yes", "no: better bind it to this machine's address")),
    ]


async def _symbol(venue: TradingVenue, symbol: str, wanted: AccountRequirements, held: bool) -> list[CheckResult]:
    rules = venue.rules.get(symbol)
    if rules is None or not rules.trading:
        return [
            CheckResult(
                f"{symbol} trades", False, "the venue has no such contract" if rules is None else "the venue takes no orders for it now"
            )
        ]
    found = [
        CheckResult(
            f"{symbol} trades",
            True,
            f"tick {rules.tick:f}, lot {rules.lot:f}, at least {rules.min_quantity:f} and {rules.min_notional:f} {rules.quote}",
        )
    ]
    if isinstance(venue, PairVenue):
        words = (
            "target and stop rest as a pair"
            if rules.pairs
            else "no pairs here: a plain stop rests, our process minds the target"
            if rules.stops
            else "neither pairs nor stops here: our process alone would guard"
        )
        coins = "; coins that are there stay untouched, but the kill switch sells them too" if held else ""
        return [*found, CheckResult(f"{symbol} protection", rules.pairs or rules.stops, words + coins)]
    if held:
        # Margin mode and leverage of an open position stay as they are; the reconciler judges the position.
        return [*found, CheckResult(f"{symbol} margin", True, "a position is open: margin and leverage are left as they are")]
    try:
        await venue.set_isolated(symbol)
        await venue.set_leverage(symbol, wanted.leverage)
    except VenueError as error:
        return [*found, CheckResult(f"{symbol} margin", False, str(error))]
    return [*found, CheckResult(f"{symbol} margin", True, f"isolated, leverage {wanted.leverage}")]


def _move(missing: Decimal, asset: str, wallet: str) -> str:
    return f"; {missing:f} {asset} short: move it to the {wallet} wallet by hand" if missing > 0 else ""


def _words(value: bool | None, yes: str, no: str) -> str:
    return "the venue does not tell" if value is None else yes if value else no
