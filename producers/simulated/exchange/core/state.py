"""The state of one simulated exchange: markets, accounts, orders, unread events. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from decimal import Decimal

from producers.simulated.exchange.core.account import Account
from producers.simulated.exchange.core.market_state import MarketState
from producers.simulated.exchange.core.orders import Conditional, Event, Fill, Order, OrderChanged
from producers.simulated.exchange.core.rules import Contract, Reason, Refusal

QUEUES = ("through", "volume", "touch")
FIRST_ORDER_ID, FIRST_TRADE_ID, FIRST_CONDITIONAL_ID = 8_389_765_000, 500_000_000, 1_000_000_202_000_000


class ExchangeState(ABC):
    """Accounts and markets of one exchange.

    Args:
        contracts: The instruments. queue: Fill model of resting orders, see ``engine``.
        triggered_names: ``same``: the order of a triggered conditional order has its client id; ``own``: it has one of the venue's, and its
            type is lost. The documents allow both, so clients must handle both.

    Attributes:
        events: Events since the last ``drain``. account_type: Class of its accounts.
    """

    account_type: type[Account] = Account

    def __init__(self, contracts: Iterable[Contract], queue: str = "through", triggered_names: str = "same") -> None:
        if triggered_names not in ("same", "own"):
            raise ValueError(f"triggered_names: expected same or own, got {triggered_names!r}")
        if queue not in QUEUES:
            raise ValueError(f"queue: expected one of {', '.join(QUEUES)}, got {queue!r}")
        self.queue, self.renames_triggered = queue, triggered_names == "own"
        self.markets: dict[str, MarketState] = {}
        self.accounts: dict[str, Account] = {}
        self.orders: dict[int, Order] = {}
        self.conditionals: dict[int, Conditional] = {}
        self.events: list[Event] = []
        self.clients: dict[tuple[str, str, str], int] = {}
        self.conditional_clients: dict[tuple[str, str], int] = {}
        self.resting: dict[tuple[str, str], dict[int, Order]] = {}
        self.waiting: dict[str, dict[int, Conditional]] = {}
        self._countdowns: dict[tuple[str, str], int] = {}
        self.called: set[str] = set()
        self._order_id, self._conditional_id, self._income_id = FIRST_ORDER_ID, FIRST_CONDITIONAL_ID, 9_600_000_000
        for contract in contracts:
            self.list_contract(contract)

    def list_contract(self, contract: Contract) -> MarketState:
        """Start trading in an instrument. The trade ids of a relisted one continue."""
        before = self.markets.get(contract.symbol)
        market = self.markets[contract.symbol] = MarketState(contract, trade_id=before.trade_id if before is not None else FIRST_TRADE_ID)
        return market

    def add_account(self, account: Account) -> Account:
        """Open an account. Raises ValueError when the name is taken."""
        if account.name in self.accounts:
            raise ValueError(f"account: {account.name!r} exists already")
        self.accounts[account.name] = account
        return account

    def drain(self) -> list[Event]:
        """Return the events since the last call."""
        found, self.events = self.events, []
        return found

    def market(self, symbol: str) -> MarketState:
        """Return the market of an instrument. Raises Refusal for an unknown one."""
        found = self.markets.get(symbol)
        if found is None:
            raise Refusal(Reason.UNKNOWN_SYMBOL)
        return found

    def next_order_id(self) -> int:
        """Return a fresh order id."""
        self._order_id += 1
        return self._order_id

    def next_conditional_id(self) -> int:
        """Return a fresh id of a conditional order."""
        self._conditional_id += 1
        return self._conditional_id

    def next_income_id(self) -> int:
        """Return a fresh id of a booking."""
        self._income_id += 1
        return self._income_id

    def open_orders(self, account: str, symbol: str | None = None) -> list[Order]:
        """Return the open orders of an account, oldest first."""
        return sorted(
            (
                order
                for (owner, name), orders in self.resting.items()
                if owner == account and symbol in (None, name)
                for order in orders.values()
            ),
            key=lambda order: order.id,
        )

    def open_orders_of(self, account: str, symbol: str) -> dict[int, Order]:
        """Return the open orders of an account in an instrument by id."""
        return self.resting.setdefault((account, symbol), {})

    def found(self, account: str, symbol: str, order_id: int | None, client_id: str | None) -> Order | None:
        """Return an order by its id, or the newest of a client id; None without one. Raises Refusal for an unknown instrument."""
        self.market(symbol)
        if order_id is None:
            order_id = self.clients.get((account, symbol, client_id or ""))
        order = self.orders.get(order_id) if order_id is not None else None
        return order if order is not None and (order.account, order.symbol) == (account, symbol) else None

    def tell_order(self, order: Order, execution: str, now: int) -> None:
        """Report an order that was accepted or ended."""
        self.events.append(OrderChanged(order.account, now, order.copy(), execution))

    # --- what the matching engine does, for conditional orders and risk ------------------------------------------------------
    @abstractmethod
    def enter(self, order: Order, now: int) -> None:
        """Enter a checked order: report it, fill it as far as the book allows, then let it rest or end it."""

    @abstractmethod
    def expire(self, order: Order, why: int, now: int) -> None:
        """End an open order without a request."""

    @abstractmethod
    def fill(self, order: Order, price: Decimal, quantity: Decimal, *, maker: bool, now: int, kind: str = "ORDER") -> Fill:
        """Book an execution: position, profit, fee, and their consequences."""
