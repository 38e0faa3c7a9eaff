"""What the tests of the simulated exchange share: accounts, a core with a market, a server with the venue's own client."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import importlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from typing import Any
from urllib.parse import urlencode

import aiohttp

from producers.simulated.exchange.core.account import Account
from producers.simulated.exchange.core.engine import Exchange
from producers.simulated.exchange.core.orders import NewOrder, Order
from producers.simulated.exchange.core.rules import Contract
from producers.simulated.exchange.server import SimulatedExchange
from producers.simulated.exchange.session.keys import AccountSpec, ApiKey

D = Decimal
NOW = 1_700_000_000_000
SYMBOL = "BTCUSDT"
CONTRACT = Contract.of(SYMBOL, "0.1", "0.001", min_notional="50")
KEY, SECRET = "testkey", "testsecret"


class Deferred:
    """A module that is imported when a name of it is used first: every process of a test run reads the test files, few run these tests.

    Args:
        name: Full name of the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def runs(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine."""

    @wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        asyncio.run(test(*arguments, **options))

    return run


def desk_account(**changes: Any) -> AccountSpec:
    """Return the account ``desk`` with an HMAC key."""
    return AccountSpec("desk", **{"keys": (ApiKey(KEY, "desk", SECRET),), **changes})


def levels(*rows: tuple[str, str]) -> list[tuple[Decimal, Decimal]]:
    """Return book levels of texts."""
    return [(D(price), D(size)) for price, size in rows]


@dataclass
class Bench:
    """A core with one account and one instrument, at a time that stands still."""

    exchange: Exchange
    account: Account
    now: int = NOW

    def book(self, bids: Iterable[tuple[str, str]] = (("59999.9", "1"),), asks: Iterable[tuple[str, str]] = (("60000.1", "1"),)) -> None:
        """Give the book."""
        self.exchange.on_book(SYMBOL, levels(*bids), levels(*asks), self.now)

    def order(self, side: str, quantity: str, price: str | None = None, **changes: Any) -> Order:
        """Place an order."""
        request = NewOrder(
            SYMBOL, side, "MARKET" if price is None else "LIMIT", D(quantity), None if price is None else D(price), **changes
        )
        return self.exchange.place(self.account.name, request, self.now)

    @property
    def position(self) -> Decimal:
        """Quantity held."""
        return self.account.position(SYMBOL).quantity


def bench(deposit: str = "10000", queue: str = "through", mark: str = "60000", contract: Contract = CONTRACT, **account: Any) -> Bench:
    """Return a core whose market stands at ``mark``."""
    exchange = Exchange([contract], queue)
    made = Bench(exchange, exchange.add_account(Account("desk", **account)))
    exchange.deposit("desk", D(deposit), NOW)
    exchange.on_mark(SYMBOL, D(mark), NOW)
    exchange.on_trade(SYMBOL, D(mark), D("0.001"), "BUY", NOW)
    made.book()
    exchange.drain()
    return made


@asynccontextmanager
async def serving(accounts: Iterable[AccountSpec] | None = None, **options: Any) -> AsyncIterator[SimulatedExchange]:
    """Serve an exchange whose BTCUSDT stands at 60000."""
    async with SimulatedExchange([desk_account()] if accounts is None else accounts, **options) as venue:
        venue.set_price(SYMBOL, "60000")
        yield venue


def official(venue: SimulatedExchange, **options: Any) -> Any:
    """Return the venue's own client library, pointed at a simulated exchange; its REST calls block."""
    # These models take seconds to import, and every process of a test run reads this file.
    from binance_common.configuration import ConfigurationRestAPI, ConfigurationWebSocketStreams
    from binance_sdk_derivatives_trading_usds_futures.derivatives_trading_usds_futures import DerivativesTradingUsdsFutures

    login = {"api_key": KEY, "api_secret": SECRET, **options}
    return DerivativesTradingUsdsFutures(
        config_rest_api=ConfigurationRestAPI(base_path=venue.rest_url, retries=0, timeout=5000, **login),
        config_ws_streams=ConfigurationWebSocketStreams(stream_url=venue.ws_url),
    )


class Client:
    """Signs as the venue documents it, and nothing else."""

    venue: SimulatedExchange

    def __init__(self, rest_url: str, session: aiohttp.ClientSession) -> None:
        self.rest_url, self._session = rest_url, session
        self.headers: dict[str, str] = {}

    async def ask(self, method: str, path: str, *, skew: int = 0, key: str = KEY, secret: str = SECRET, **params: Any) -> tuple[int, Any]:
        """Return status and body."""
        query = urlencode({**params, "timestamp": int(time.time() * 1000) + skew})
        signature = hmac.new(secret.encode(), query.encode(), hashlib.sha256).hexdigest()
        url = f"{self.rest_url}{path}?{query}&signature={signature}"
        async with self._session.request(method, url, headers={"X-MBX-APIKEY": key}) as answer:
            self.headers = dict(answer.headers)
            return answer.status, await answer.json()

    async def market(self, side: str = "BUY", quantity: str = "0.01", **params: Any) -> tuple[int, Any]:
        """Send a market order."""
        return await self.ask("POST", "/fapi/v1/order", symbol=SYMBOL, side=side, type="MARKET", quantity=quantity, **params)

    async def position(self) -> Decimal:
        """Return the quantity held, by query."""
        _, rows = await self.ask("GET", "/fapi/v3/positionRisk", symbol=SYMBOL)
        return D(rows[0]["positionAmt"]) if rows else D(0)


class Heard:
    """Messages of a user stream, as they come."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.messages: list[dict[str, Any]] = []
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.ws:
            if message.type == aiohttp.WSMsgType.TEXT:
                self.messages.append(message.json())

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["e"] == kind]

    def orders(self) -> list[str]:
        return [f"{one['o']['c']}:{one['o']['x']}" for one in self.of("ORDER_TRADE_UPDATE")]


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.01)
