"""Checks of an account before real orders leave (DECISIONS D24). Each check has a result and a text.

A person moves money between the spot and the futures wallet, never perpflow (R002-67). A key with that permission could also remove the margin of a
position, and trading does not need it. The balance and budget checks say how much money is missing in which wallet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sinks.venues.common.adapter import PairVenue, TradingVenue, VenueError
from stream_apps.core.execution.orders.venue_reports import AccountPermissions

# D24: less than a second. Half of it remains for drift until the next measurement.
SKEW_OK_MS, SKEW_LIMIT_MS = 500, 1_000


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check. ``ok`` is None if the venue cannot answer it."""

    check: str
    ok: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class AccountRequirements:
    """What trading needs of the account.

    Attributes:
        symbols: The venue's symbols.
        leverage: Leverage to set for each symbol.
        balance: Money that must be available, in ``asset``.
        budget: Most that the policy may spend (spot notional, futures margin); None: not compared.
        strict: Live trading: an unknown result counts as a failure.
    """

    symbols: Sequence[str]
    leverage: int
    balance: Decimal
    asset: str = "USDT"
    strict: bool = True
    budget: Decimal | None = None


async def preflight(venue: TradingVenue, wanted: AccountRequirements) -> list[CheckResult]:
    """Check an account. Sets isolated margin and leverage for symbols without a position. The venue must be open.

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
            f"venue clock minus local clock: {skew:+d} ms" + ("; synchronise the local clock" * (abs(skew) >= SKEW_OK_MS)),
        )
    )
    balances = {one.asset: one for one in await venue.balances()}
    available = balances[wanted.asset].available if wanted.asset in balances else Decimal(0)
    wallet = "spot" if isinstance(venue, PairVenue) else "futures"
    told = f"{available:f} {wanted.asset} available, {wanted.balance:f} needed"
    found.append(CheckResult("balance", available >= wanted.balance, told + _move(wanted.balance - available, wanted.asset, wallet)))
    if wanted.budget is not None:
        # Advice only: entries beyond the wallet's balance are rejected one by one.
        told = f"the policy may use {wanted.budget:f} {wanted.asset}" + _move(wanted.budget - available, wanted.asset, wallet)
        found.append(CheckResult("budget", True, told))
    held = {one.symbol: one for one in await venue.positions()}
    for symbol in wanted.symbols:
        found += await _symbol(venue, symbol, wanted, symbol in held)
    return found


def passed(found: Sequence[CheckResult], strict: bool) -> bool:
    """Return whether trading may begin: no check failed and, if strict, none is unknown."""
    return all(one.ok or (one.ok is None and not strict) for one in found)


def _key(facts: AccountPermissions) -> list[CheckResult]:
    withdraw = None if facts.can_withdraw is None else not facts.can_withdraw
    return [
        CheckResult(
            "key may trade",
            facts.can_trade,
            _words(facts.can_trade, "yes", "no: enable futures (for a spot account: spot trading) for the key"),
        ),
        CheckResult(
            "key may not withdraw", withdraw, _words(withdraw, "right", "the key may WITHDRAW: create a key without this permission")
        ),
        CheckResult(
            "key moves no money",
            True,
            _words(
                None if facts.can_transfer is None else not facts.can_transfer,
                "right",
                "the key may move money between wallets: not needed, remove this permission",
            ),
        ),
        # Advice, not a condition: a trader may have no fixed address.
        CheckResult(
            "key bound to addresses", True, _words(facts.ip_restricted, "yes", "no: bind it to this machine's address if possible")
        ),
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
            else "no pairs: a plain stop rests at the venue, this process handles the target"
            if rules.stops
            else "neither pairs nor stops: only this process would protect the position"
        )
        coins = "; coins already in the account stay untouched, but the kill switch sells them, too" if held else ""
        return [*found, CheckResult(f"{symbol} protection", rules.pairs or rules.stops, words + coins)]
    if held:
        # Margin mode and leverage of an open position are not changed; the reconciler handles the position.
        return [*found, CheckResult(f"{symbol} margin", True, "a position is open: margin and leverage stay unchanged")]
    try:
        await venue.set_isolated(symbol)
        await venue.set_leverage(symbol, wanted.leverage)
    except VenueError as error:
        return [*found, CheckResult(f"{symbol} margin", False, str(error))]
    return [*found, CheckResult(f"{symbol} margin", True, f"isolated, leverage {wanted.leverage}")]


def _move(missing: Decimal, asset: str, wallet: str) -> str:
    return f"; {missing:f} {asset} short: move it to the {wallet} wallet by hand" if missing > 0 else ""


def _words(value: bool | None, yes: str, no: str) -> str:
    return "the venue does not say" if value is None else yes if value else no
