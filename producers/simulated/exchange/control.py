"""Controls the simulated exchange: the market, the venue's own actions, faults, and the true account state for comparison.

In process by method; over HTTP as ``POST /control/trading/<what>`` with a JSON object of the method's arguments, decimals as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson
from aiohttp import web

from producers.simulated.exchange.binance import wire_format
from producers.simulated.exchange.core import conditional, risk
from producers.simulated.exchange.core.funds import available
from producers.simulated.exchange.core.market_state import Level
from producers.simulated.exchange.core.orders import BUY, SELL
from producers.simulated.exchange.core.rules import Refusal
from producers.simulated.exchange.session.trading_session import Desk
from producers.simulated.exchange.session.users import UserStreams
from producers.simulated.exchange.spot.engine import SpotExchange
from producers.simulated.exchange.spot.truth import spot_truth

# Levels of the book of ``price``, and lots on each.
LEVELS, LOTS = 20, 100_000


class Control:
    """Actions of a test on the exchange, unseen by its clients.

    Args:
        flush: Sends the new events.
    """

    def __init__(self, desk: Desk, streams: UserStreams, flush: Callable[[], None]) -> None:
        self._desk, self._streams, self._flush = desk, streams, flush
        self._exchange = desk.exchange

    # --- market -------------------------------------------------------------------------------------------------------
    def price(self, symbol: str, price: Decimal, size: Decimal | None = None) -> None:
        """Move the market to a price at once: book one tick around it with ``size`` a level, a trade at it, mark price."""
        market = self._exchange.market(symbol)
        tick, lots = market.contract.tick, size if size is not None else market.contract.lot * LOTS
        bids = [(price - tick * at, lots) for at in range(1, LEVELS + 1) if price > tick * at]
        asks = [(price + tick * at, lots) for at in range(1, LEVELS + 1)]
        now, taker = self._desk.clock(), BUY if price >= market.last else SELL
        # The mark price is set before the trade, because orders that trigger at a price gap must fill in the new market.
        market.mark = price
        self._exchange.on_book(symbol, bids, asks, now)
        self._exchange.on_trade(symbol, price, lots, taker, now)
        self._exchange.on_mark(symbol, price, now)
        self._flush()

    def book(self, symbol: str, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Set the book, best levels first."""
        self._exchange.market(symbol)
        self._exchange.on_book(symbol, bids, asks, self._desk.clock())
        self._flush()

    def trade(self, symbol: str, price: Decimal, quantity: Decimal, taker: str) -> None:
        """Make a trade of the market."""
        self._exchange.market(symbol)
        self._exchange.on_trade(symbol, price, quantity, taker, self._desk.clock())
        self._flush()

    def mark(self, symbol: str, price: Decimal) -> None:
        """Set the mark price."""
        self._exchange.market(symbol)
        self._exchange.on_mark(symbol, price, self._desk.clock())
        self._flush()

    # --- the venue ----------------------------------------------------------------------------------------------------
    def funding(self, symbol: str, rate: Decimal) -> None:
        """Settle funding."""
        self._exchange.market(symbol)
        risk.settle_funding(self._exchange, symbol, rate, self._desk.clock())
        self._flush()

    def liquidate(self, account: str, symbol: str) -> None:
        """Liquidate a position."""
        risk.liquidate(self._exchange, account, symbol, self._desk.clock())
        self._flush()

    def deleverage(self, account: str, symbol: str, quantity: Decimal | None = None, price: Decimal | None = None) -> None:
        """Deleverage a position, or part of it, at a price (None: the mark price)."""
        risk.deleverage(self._exchange, account, symbol, quantity, price, self._desk.clock())
        self._flush()

    def delist(self, symbol: str) -> None:
        """End trading in an instrument."""
        risk.delist(self._exchange, symbol, self._desk.clock())
        self._flush()

    def deposit(self, account: str, amount: Decimal) -> None:
        """Move money into an account."""
        self._exchange.deposit(account, amount, self._desk.clock())
        self._flush()

    # --- streams and faults -------------------------------------------------------------------------------------------
    def cut(self, account: str | None = None) -> int:
        """Break user streams. Return their number."""
        return self._streams.cut(account)

    def expire_listen_keys(self, account: str) -> None:
        """Make the listen keys of an account expire."""
        self._desk.expire_listen_keys(account)
        self._streams.tell_expired()

    def faults(self, faults: list[str]) -> None:
        """Activate faults. Raises ValueError."""
        self._desk.plan.add(faults)

    def clear_faults(self) -> None:
        """Deactivate all faults."""
        self._desk.plan.clear()

    # --- truth --------------------------------------------------------------------------------------------------------
    def truth(self, account: str) -> dict[str, Any]:
        """Return the true state of an account: wallet, non-zero positions, orders, every fill and every booking; decimals as text."""
        exchange, owner = self._exchange, self._exchange.accounts[account]
        if isinstance(exchange, SpotExchange):
            return spot_truth(exchange, account) | {
                "time": self._desk.clock(),
                "listeners": self._streams.listeners(account),
                "faults_applied": dict(self._desk.plan.applied),
            }
        contracts = {name: market.contract for name, market in exchange.markets.items()}
        positions = {
            one.symbol: {"quantity": wire_format.text(one.quantity), "entry": str(one.entry), "cost": str(one.cost)} for one in owner.held()
        }
        orders = [one for one in exchange.orders.values() if one.account == account]
        algos = [one for one in exchange.conditionals.values() if one.account == account]
        return {
            "account": account,
            "time": self._desk.clock(),
            "wallet": str(owner.wallet),
            "available": str(available(exchange, owner)),
            "positions": positions,
            "open_orders": [wire_format.order_row(one, contracts[one.symbol], queried=True) for one in exchange.open_orders(account)],
            "open_conditionals": [
                wire_format.conditional_row(one, contracts[one.symbol], queried=True)
                for one in conditional.open_conditionals(exchange, account)
            ],
            "orders": [wire_format.order_row(one, contracts[one.symbol], queried=True) for one in orders],
            "conditionals": [wire_format.conditional_row(one, contracts[one.symbol], queried=True) for one in algos],
            "fills": [
                {
                    **wire_format.trade_row(one, contracts[one.symbol]),
                    "kind": one.kind,
                    "clientOrderId": exchange.orders[one.order_id].client_id,
                }
                for one in owner.fills
            ],
            "ledger": [wire_format.income_row(one, owner.asset) for one in owner.ledger],
            "listeners": self._streams.listeners(account),
            "faults_applied": dict(self._desk.plan.applied),
        }

    # --- HTTP ---------------------------------------------------------------------------------------------------------
    def add_routes(self, app: web.Application, market: bool = True) -> None:
        """Register the control interface. Use no ``market`` if another part plays the market."""
        shapes: dict[str, tuple[Callable[..., Any], dict[str, Callable[[Any], Any]]]] = {
            "price": (self.price, {"symbol": str, "price": _decimal, "size": _decimal}),
            "book": (self.book, {"symbol": str, "bids": _levels, "asks": _levels}),
            "trade": (self.trade, {"symbol": str, "price": _decimal, "quantity": _decimal, "taker": _side}),
            "mark": (self.mark, {"symbol": str, "price": _decimal}),
            "funding": (self.funding, {"symbol": str, "rate": _decimal}),
            "liquidate": (self.liquidate, {"account": str, "symbol": str}),
            "deleverage": (self.deleverage, {"account": str, "symbol": str, "quantity": _decimal, "price": _decimal}),
            "delist": (self.delist, {"symbol": str}),
            "deposit": (self.deposit, {"account": str, "amount": _decimal}),
            "cut": (self.cut, {"account": str}),
            "expire_listen_keys": (self.expire_listen_keys, {"account": str}),
            "faults": (self.faults, {"faults": list}),
            "clear_faults": (self.clear_faults, {}),
        }
        for name, (method, shape) in shapes.items():
            if not market and name in ("price", "book", "trade", "mark"):
                continue
            app.router.add_post(f"/control/trading/{name}", _handler(method, shape))
        app.router.add_get("/control/trading/truth/{account}", self._truth)

    async def _truth(self, request: web.Request) -> web.Response:
        name = request.match_info["account"]
        if name not in self._exchange.accounts:
            raise web.HTTPNotFound(text=f"account: {name!r} is not known\n")
        return web.json_response(self.truth(name))


def _handler(method: Callable[..., Any], shape: dict[str, Callable[[Any], Any]]) -> Any:
    async def handle(request: web.Request) -> web.Response:
        try:
            body = orjson.loads(await request.read() or b"{}")
            unknown = set(body) - set(shape)
            if unknown:
                raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
            method(**{name: shape[name](value) for name, value in body.items()})
        except (ValueError, TypeError, KeyError, InvalidOperation, Refusal) as error:
            raise web.HTTPBadRequest(text=f"{request.path}: {type(error).__name__}: {error}\n") from error
        return web.json_response({"ok": True})

    return handle


def _decimal(value: Any) -> Decimal | None:
    return None if value is None else Decimal(str(value))


def _side(value: Any) -> str:
    if value not in (BUY, SELL):
        raise ValueError(f"taker: expected {BUY} or {SELL}, got {value!r}")
    return str(value)


def _levels(value: Any) -> list[Level]:
    return [(Decimal(str(price)), Decimal(str(size))) for price, size in value]
