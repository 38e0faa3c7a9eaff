"""The simulated exchange on sockets: signed REST with limits and faults, user data streams, and control for tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from types import TracebackType
from typing import Any

import orjson
from aiohttp import web

from producers.simulated.exchange.control import Control
from producers.simulated.exchange.core import risk
from producers.simulated.exchange.core.market_state import Level
from producers.simulated.exchange.core.rules import Contract
from producers.simulated.exchange.registry import PROTOCOLS
from producers.simulated.exchange.session.call import Action, Call
from producers.simulated.exchange.session.faults import ExchangeFault, ExchangePlan
from producers.simulated.exchange.session.keys import AccountSpec
from producers.simulated.exchange.session.protocol import Protocol
from producers.simulated.exchange.session.trading_session import ORDER_LIMITS, Desk
from producers.simulated.wire.limits import WeightLimiter
from producers.simulated.wire.protocol import Query, VenueError

# Seconds between two checks of due events without requests.
TICK_S = 0.05
CONTRACTS = (
    Contract.of("BTCUSDT", "0.1", "0.001", min_notional="50"),
    Contract.of("ETHUSDT", "0.01", "0.001", min_notional="20"),
    Contract.of("SOLUSDT", "0.01", "0.01"),
    Contract.of("XRPUSDT", "0.0001", "0.1"),
)


class _Cut(Exception):
    """Break the connection instead of a response."""


class TradingServer:
    """Routes of a desk.

    Args:
        limiter: The weight limits of a client address; None: its own.
        protocol: The venue's. market: Serve public market data, too.
    """

    def __init__(
        self, desk: Desk, protocol: Protocol, *, market: bool = False, limiter: Callable[[str], WeightLimiter] | None = None
    ) -> None:
        self.desk, self.protocol = desk, protocol
        self.streams = protocol.streams(desk)
        self._actions = [*protocol.trading, *(protocol.market if market else ())]
        self._limiters: dict[str, WeightLimiter] = {}
        self._limiter = limiter or self._own_limiter
        self._task: asyncio.Task[None] | None = None
        self._late: set[asyncio.Task[None]] = set()

    def _own_limiter(self, remote: str) -> WeightLimiter:
        return self._limiters.setdefault(remote, WeightLimiter(time.time))

    def add_routes(self, app: web.Application) -> None:
        """Register everything."""
        for action in self._actions:
            app.router.add_route(action.method, action.path, self._handler(action))
        for method in ("POST", "PUT", "DELETE"):
            for root in self.protocol.roots:
                app.router.add_route(method, f"/{root}/{{rest:.*}}", self.unknown)
        self.streams.add_routes(app)

    async def unknown(self, request: web.Request) -> web.Response:
        """Return the error for an unknown path."""
        status, body = self.protocol.refused(self.protocol.unknown(request.method, request.path), self.desk.now())
        return web.json_response(body, status=status)

    def start(self) -> None:
        """Start the checks of due events."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop it, and close the streams."""
        self.streams.close()
        tasks = [task for task in (self._task, *self._late) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.desk.exchange.tick(self.desk.clock())
            self.streams.tell_expired()
            if self.desk.plan.state("maintenance") is not None:
                self.streams.close()
            self.flush()

    def flush(self) -> None:
        """Send the new events to the accounts concerned."""
        for event in self.desk.exchange.drain():
            for kind, message in self.protocol.messages(self.desk.exchange, event, self.desk.now()):
                self.streams.publish(event.account, kind, message)

    # --- requests -----------------------------------------------------------------------------------------------------
    def _handler(self, action: Action) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            query, body = request.raw_path.partition("?")[2].encode(), await request.read()
            headers: dict[str, str] = {}
            try:
                try:
                    status, answer = await self._answer(action, request, query, body, headers)
                except UnicodeDecodeError:
                    raise self.protocol.illegal() from None
            except VenueError as error:
                status, answer = self.protocol.refused(error, self.desk.now())
                if error.retry_after is not None:
                    headers["Retry-After"] = str(error.retry_after)
            except _Cut:
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=500)
            return web.Response(body=orjson.dumps(answer), status=status, content_type="application/json", headers=headers)

        return handle

    async def _answer(self, action: Action, request: web.Request, query: bytes, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
        used = self._limiter(request.remote or "").ask(action.weight)
        headers["X-MBX-USED-WEIGHT-1M"] = str(used.used)
        if used.status != 200:
            raise self.protocol.too_many(used.status, used.retry_after)
        maintenance = self.desk.plan.state("maintenance")
        if maintenance is not None:
            raise self.protocol.fault(maintenance)
        key = self.desk.keys.get(request.headers.get(self.protocol.key_header, ""))
        faults = self.desk.plan.request(action.name, key.account if key is not None else "")
        for fault in faults:
            await self._before(fault, action, request, query, body)
        share = next((fault.share for fault in faults if fault.kind == "partial"), None)
        answer = self._execute(action, request, query, body, headers, share)
        for fault in faults:
            await self._after(fault)
        return 200, answer

    def _execute(
        self, action: Action, request: web.Request, query: bytes, body: bytes, headers: dict[str, str], share: Decimal | None = None
    ) -> Any:
        """Check and execute the request at one time."""
        desk = self.desk
        key = self.protocol.checked(desk, action, request, query, body)
        values = self.protocol.values(query, body)
        if key is not None and action.order:
            broken = desk.count_order(key.account)
            headers.update(desk.order_counts(key.account))
            if broken is not None:
                raise self.protocol.too_many_orders(broken)
        desk.before(values.get("symbol"))
        now = desk.clock()
        desk.exchange.tick(now)
        call = Call(desk, Query(request.path, values, self.protocol.malformed), desk.now(), key)
        if share is not None:
            self._thin(share)
        try:
            return self.protocol.answer(action, call)
        finally:
            self.flush()

    def _thin(self, share: Decimal) -> None:
        for market in self.desk.exchange.markets.values():
            for name in ("bids", "asks"):
                lot = market.contract.lot
                kept = [(price, size * share // lot * lot) for price, size in getattr(market, name)[:1]]
                setattr(market, name, [level for level in kept if level[1] > 0])

    # --- faults -------------------------------------------------------------------------------------------------------
    async def _before(self, fault: ExchangeFault, action: Action, request: web.Request, query: bytes, body: bytes) -> None:
        if fault.kind == "latency" and fault.side == "in":
            await asyncio.sleep(fault.ms / 1000)
        elif fault.kind == "unsent":
            raise _Cut
        elif fault.kind == "late":
            task = asyncio.create_task(self._arrive_late(fault.ms / 1000, action, request, query, body))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            raise _Cut
        elif fault.kind in ("reject", "status", "unknown"):
            raise self.protocol.fault(fault)

    async def _arrive_late(self, seconds: float, action: Action, request: web.Request, query: bytes, body: bytes) -> None:
        await asyncio.sleep(seconds)
        try:
            self._execute(action, request, query, body, {})
        except VenueError:
            return  # the client is gone

    async def _after(self, fault: ExchangeFault) -> None:
        if fault.kind == "latency" and fault.side == "out":
            await asyncio.sleep(fault.ms / 1000)
        elif fault.kind == "lost":
            if fault.how == "cut":
                raise _Cut
            raise self.protocol.fault(fault)


class SimulatedExchange:
    """A simulated exchange whose market a test sets.

    ``async with SimulatedExchange([AccountSpec("a", keys=(ApiKey("k", "a", "secret"),))]) as venue: venue.set_price("BTCUSDT", "60000")``;
    clients talk to ``venue.rest_url`` and ``venue.ws_url`` with the venue's real paths.

    Args:
        accounts: Accounts with keys and deposits.
        contracts: The instruments. queue, triggered_names: See ``engine``. faults, seed: see ``faults``.
        host, port: Where to listen; port 0 takes a free one.
        control: Tests in other processes may control it over HTTP (``/control/trading``).
        clock: Its time, ms UTC; None: the wall clock.
        order_limits: See ``desk``.
        venue: The venue's protocol: BINANCE (USD-M), BINANCE_SPOT or BYBIT (v5, linear).

    Raises:
        OSError: on entering, when the port is taken.
    """

    def __init__(
        self,
        accounts: Iterable[AccountSpec],
        contracts: Iterable[Contract] = CONTRACTS,
        *,
        queue: str = "through",
        triggered_names: str = "same",
        faults: Iterable[str] = (),
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        control: bool = False,
        clock: Callable[[], int] | None = None,
        order_limits: tuple[tuple[int, int, str], ...] = ORDER_LIMITS,
        venue: str = "BINANCE",
    ) -> None:
        if venue not in PROTOCOLS:
            raise ValueError(f"venue: expected one of {', '.join(PROTOCOLS)}, got {venue!r}")
        self.exchange = PROTOCOLS[venue].exchange(contracts, queue, triggered_names)
        self.plan = ExchangePlan(faults, seed)
        self.desk = Desk(self.exchange, clock or _wall_ms, self.plan, order_limits=order_limits)
        self.desk.open_accounts(accounts)
        self.server = TradingServer(self.desk, PROTOCOLS[venue](), market=True)
        self.control = Control(self.desk, self.server.streams, self.server.flush)
        self.host, self.port = host, port
        self._bind_control = control
        self._runner: web.AppRunner | None = None

    @property
    def rest_url(self) -> str:
        """Base of the REST interface."""
        return f"http://{self.host}:{self.port}"

    @property
    def ws_url(self) -> str:
        """Base of the websocket addresses."""
        return f"ws://{self.host}:{self.port}"

    async def __aenter__(self) -> SimulatedExchange:
        app = web.Application()
        self.server.add_routes(app)
        for root in self.server.protocol.roots:
            app.router.add_get(f"/{root}/{{rest:.*}}", self.server.unknown)
        for route in (
            ("public", "market") if "fapi" in self.server.protocol.roots else ()
        ):  # there is no market data here, so such connections stay silent
            app.router.add_get(f"/{route}/stream", self.server.streams.serve)
        if self._bind_control:
            self.control.add_routes(app)
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]
        self.server.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.server.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    # --- the market and what the venue does ---------------------------------------------------------------------------
    def set_price(self, symbol: str, price: str | Decimal, size: str | Decimal | None = None) -> None:
        """Move the market: a book one tick around the price, a trade at it, and the mark price."""
        self.control.price(symbol, Decimal(price), None if size is None else Decimal(size))

    def set_book(self, symbol: str, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Set the book, best levels first. Resting orders that it reaches are filled."""
        self.control.book(symbol, list(bids), list(asks))

    def trade(self, symbol: str, price: str | Decimal, quantity: str | Decimal, taker: str) -> None:
        """Make a trade of the market; ``taker`` BUY or SELL."""
        self.control.trade(symbol, Decimal(price), Decimal(quantity), taker)

    def mark(self, symbol: str, price: str | Decimal) -> None:
        """Set the mark price only."""
        self.control.mark(symbol, Decimal(price))

    def funding(self, symbol: str, rate: str | Decimal) -> None:
        """Settle funding at a rate."""
        self.control.funding(symbol, Decimal(rate))

    def liquidate(self, account: str, symbol: str) -> None:
        """Liquidate a position now, whatever its margin."""
        risk.liquidate(self.exchange, account, symbol, self.desk.clock())
        self.server.flush()

    def truth(self, account: str) -> dict[str, Any]:
        """Return the true state of an account; see ``Control.truth``."""
        return self.control.truth(account)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
