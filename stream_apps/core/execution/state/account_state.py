"""The state of one trading account: trades, quotes, entry blocks and the last risk state. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from stream_apps.core.execution.orders.events import GuardChanged, QuoteSeen
from stream_apps.core.execution.orders.venue_reports import InstrumentRules
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.state.quotes import Quotes
from stream_apps.core.execution.state.records import Account
from stream_apps.core.execution.state.trade import Trade

ZERO = Decimal(0)


class AccountState:
    """All trades of one account.

    Args:
        account: The account.
        policy: Settings. They are not part of the state; a change applies from the next event on.
        rules: Instrument rules by the venue's symbol. The caller may update the mapping.
    """

    def __init__(self, account: Account, policy: LivePolicy, rules: Mapping[str, InstrumentRules]) -> None:
        self.account = account
        self.policy = policy
        self.rules = rules
        self.trades: dict[str, Trade] = {}
        self.quotes: dict[str, Quotes] = {}
        self.guard: GuardChanged | None = None
        self.blocks: dict[str, str] = {}

    @property
    def active(self) -> list[Trade]:
        """Open and pending trades."""
        return [trade for trade in self.trades.values() if not trade.is_over]

    def on_symbol(self, symbol: str) -> list[Trade]:
        """Return the active trades of a symbol: at most one that trades, and one queued behind it."""
        return [trade for trade in self.active if trade.symbol == symbol]

    def holder(self, symbol: str) -> Trade | None:
        """Return the active trade of a symbol that is not queued."""
        return next((trade for trade in self.on_symbol(symbol) if not trade.queued), None)

    def banked(self) -> Decimal:
        """Return the wallet change of all remembered trades: realised profits; on spot, money received minus money paid."""
        return sum((one.cash if self.account.is_spot else one.position.realised for one in self.trades.values()), ZERO)

    def fresh_quote(self, symbol: str, now: int) -> QuoteSeen | None:
        """Return the newest prices of a symbol; None if they are older than ``quote_stale_ms``."""
        quotes = self.quotes.get(symbol)
        newest = quotes.newest if quotes is not None else None
        return newest if newest is not None and now - newest.time <= self.policy.quote_stale_ms else None

    def entries_blocked(self, now: int) -> str | None:
        """Return why entries are blocked now, or None. Without a recent risk state they are blocked (D25)."""
        if self.guard is None:
            return "guard_unknown"
        if now - self.guard.time > self.policy.guard_stale_ms:
            return "guard_stale"
        if self.guard.block_entries or self.guard.close_all:
            return "guard: " + ", ".join(self.guard.reasons)
        return next((f"{source}: {reason}" for source, reason in sorted(self.blocks.items())), None)
