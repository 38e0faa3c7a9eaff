"""The recorded venue: one server with the websocket routes, the REST interface and the control interface, over one port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from types import TracebackType
from typing import Any

import orjson
from aiohttp import WSCloseCode, web

from producers.simulated.dialects.registry import dialect_of
from producers.simulated.exchange.feed import Trading
from producers.simulated.exchange.session.keys import AccountSpec
from producers.simulated.market.generated import GeneratedMarket, Generation, Making
from producers.simulated.market.instrument import spec_named, spec_of
from producers.simulated.market.market import Market
from producers.simulated.market.playback import Playback
from producers.simulated.market.pregenerated import MadeAhead
from producers.simulated.recording.recording import Recording, read_funding, survey
from producers.simulated.rest import Rest
from producers.simulated.wire.connection import Connection
from producers.simulated.wire.faults import Fault, FaultPlan
from schemas.partition import split_symbol

END_REASON = "end of recording"


class RecordedVenue:
    """A simulated venue: one engine with the venue's protocol (``dialects``).

    It serves recordings, each on its own timeline, and made-up markets, all on one timeline.

    ``async with RecordedVenue([Recording(path, "BTCUSDT")], speed=None) as venue: venue.ws_url, venue.rest_url``.

    Args:
        recordings: The recordings, with different symbols. generated: Made-up markets beside or instead of them. venue: The protocol, e.g.
        ``BINANCE``, ``BYBIT``.
        speed: Venue seconds a second (1.0 real time); None: as fast as the clients read.
        faults: Active faults from the start, as text or ``Fault`` (see ``faults``). seed: Of their draws.
        host, port: Where to listen; port 0 takes a free one.
        expect_routes: Routes that must have a subscriber before a recording starts; None: those with its streams. expect_streams: Streams
            that must have one, too, e.g. ``depth``, ``aggTrade``; for clients with several connections a route. With accounts, made-up
            markets wait for subscribers only if some are named here.
        wait_for: When a running playback pauses: "client" (no subscriber), "route" (an expected route or stream has none), "none".
        settle_s, snapshot_hold_s: See ``playback``.
        weight_limit: REST request weight a window of the venue; None: the venue's.
        ping_interval_s, max_connection_s: Server pings, and the age at which the venue closes a connection; None: the venue's.
        client_idle_s, server_idle_s: Silence of either side at which the venue closes a connection; None: the venue's.
        accounts: Accounts that may trade in the markets (BINANCE and BYBIT). Their orders are filled in the markets of the streams.
        queue, trading_faults: See ``exchange.engine`` and ``exchange.faults``.

    Raises:
        ValueError: a repeated symbol, or an invalid fault or option.
        FormatError, FileNotFoundError: on entering, when a recording cannot be read.
        OSError: on entering, when the port is taken.
    """

    def __init__(
        self,
        recordings: Iterable[Recording] = (),
        *,
        venue: str = "BINANCE",
        generated: Making | None = None,
        speed: float | None = 1.0,
        faults: Iterable[str | Fault] = (),
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        expect_routes: Iterable[str] | None = None,
        expect_streams: Iterable[str] = (),
        wait_for: str = "client",
        settle_s: float = 1.0,
        snapshot_hold_s: float = 10.0,
        weight_limit: int | None = None,
        ping_interval_s: float | None = None,
        max_connection_s: float | None = None,
        client_idle_s: float | None = None,
        server_idle_s: float | None = None,
        accounts: Iterable[AccountSpec] = (),
        queue: str = "through",
        trading_faults: Iterable[str] = (),
    ) -> None:
        self.dialect = dialect_of(venue)
        self.recordings = [replace(one, symbol=self.dialect.recorded_symbol(one.symbol)) for one in recordings]
        symbols = [recording.symbol for recording in self.recordings]
        if (not symbols and generated is None) or len(set(symbols)) != len(symbols):
            raise ValueError(f"recordings: expected one or more with different symbols, got {symbols}")
        _check_speed(speed)
        if wait_for not in ("client", "route", "none"):
            raise ValueError(f"wait_for: expected client, route or none, got {wait_for!r}")
        routes = None if expect_routes is None else frozenset(expect_routes)
        if routes is not None and not routes <= {"public", "market"}:
            raise ValueError(f"expect_routes: expected public and/or market, got {sorted(routes)}")
        self.plan = FaultPlan(list(faults), seed, self.dialect.vital, self._names)
        self.markets: dict[str, Market] = {}
        self.playbacks: dict[str, Playback] = {}
        self.connections: set[Connection] = set()
        self.port = port
        self.host = host
        dialect = self.dialect
        self.ping_interval_s = dialect.ping_s if ping_interval_s is None else ping_interval_s
        self.max_connection_s = dialect.max_age_s if max_connection_s is None else max_connection_s
        self.client_idle_s = dialect.client_idle_s if client_idle_s is None else client_idle_s
        self.server_idle_s = dialect.server_idle_s if server_idle_s is None else server_idle_s
        self.weight_limit = dialect.weight_limit if weight_limit is None else weight_limit
        self._speed = speed
        self._seed = seed
        specs = list(accounts)
        self.generation: Generation | None = None
        if generated is not None:
            self.generation = Generation(generated, self.dialect, self.plan, self.connections, seed, settle_s)
            # Accounts need a moving market even without subscribers, unless subscribers are expected.
            self.generation.waits = not specs or bool(expect_streams)
        self._timeline: dict[str, Any] = {
            "expect_routes": routes,
            "expect_streams": frozenset(expect_streams),
            "wait_for": wait_for,
            "settle_s": settle_s,
            "snapshot_hold_s": snapshot_hold_s,
        }
        self.trading = Trading(specs, self.dialect.venue, self.now, queue=queue, faults=trading_faults, seed=seed) if specs else None
        self._runner: web.AppRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._listings: list[asyncio.Task[None]] = []

    # --- life ---------------------------------------------------------------------------------------------------------
    @property
    def ws_url(self) -> str:
        """Base of the websocket routes, e.g. ``ws://127.0.0.1:1234``."""
        return f"ws://{self.host}:{self.port}"

    @property
    def rest_url(self) -> str:
        """Base of the REST interface, e.g. ``http://127.0.0.1:1234``."""
        return f"http://{self.host}:{self.port}"

    @property
    def finished(self) -> bool:
        """Whether every timeline has ended."""
        return all(market.over for market in self.markets.values())

    async def __aenter__(self) -> RecordedVenue:
        for recording in self.recordings:
            facts = await asyncio.to_thread(survey, recording)
            playback = Playback(recording, facts, self.dialect, self.plan, self._speed, **self._timeline)
            playback.funding = read_funding(recording)
            self.playbacks[playback.symbol] = self.markets[playback.symbol] = playback
        if self.generation is not None:
            self._generate(self.generation)
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/control/status", self._status)
        app.router.add_post("/control/pause", self._pause)
        app.router.add_post("/control/resume", self._resume)
        app.router.add_post("/control/speed", self._set_speed)
        app.router.add_post("/control/faults", self._add_faults)
        app.router.add_post("/control/burst", self._add_burst)
        app.router.add_post("/control/list", self._listed(self.list_instrument))
        app.router.add_post("/control/delist", self._listed(self.delist_instrument))
        app.router.add_delete("/control/faults", self._clear_faults)
        for path, (route, named) in self.dialect.sockets.items():
            app.router.add_get(path, self._ws_handler(route, named=named))
        rest = Rest(self, self.weight_limit, self.dialect.weight_s)
        answered: frozenset[str] = frozenset()
        if self.trading is not None:
            self.trading.open(self.markets)
            answered = self.trading.add_routes(app, rest.limiter)
        rest.add_routes(app, without=answered)
        # The process around the venue handles signals. Its clients may leave slowly.
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        if self.trading is not None:
            self.trading.server.start()
        self._tasks = [asyncio.create_task(self._play(playback)) for playback in self.playbacks.values()]
        if self.generation is not None:
            self._tasks.append(asyncio.create_task(self._run_generated(self.generation)))
        self._schedule()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in [*self._tasks, *self._listings]:
            task.cancel()
        results = await asyncio.gather(*self._tasks, *self._listings, return_exceptions=True)
        if self.trading is not None:
            await self.trading.server.stop()
        for connection in list(self.connections):
            connection.close(WSCloseCode.GOING_AWAY, "venue stops")
        if self._runner is not None:
            await self._runner.cleanup()
        failures = [result for result in results if isinstance(result, Exception)]
        if failures and error is None:
            raise failures[0]

    async def wait_finished(self) -> None:
        """Wait until every timeline has ended. Raises the error of a timeline."""
        await asyncio.gather(*self._tasks)

    async def _play(self, playback: Playback) -> None:
        try:
            await playback.run()
        except Exception:
            # The rest cannot be served, and clients must not mistake the silence for a quiet market.
            for connection in list(self.connections):
                if playback in self._owners(connection):
                    connection.close(WSCloseCode.INTERNAL_ERROR, "recording cannot be read")
            raise
        for connection in list(self.connections):
            self.end_if_over(connection)

    # --- made-up markets ----------------------------------------------------------------------------------------------
    def _generate(self, generation: Generation) -> None:
        at = generation.making.first
        while len(generation.markets) < generation.making.instruments:
            spec = spec_of(at, self.dialect.quote)
            at += 1
            if self.dialect.market_symbol(spec.name) not in self.markets:  # a recording goes before
                market = generation.add(spec)
                self.markets[market.symbol] = market
        if generation.making.ahead:
            generation.ahead = MadeAhead(generation, generation.making.ahead)

    async def _run_generated(self, generation: Generation) -> None:
        await generation.run()
        for connection in list(self.connections):
            self.end_if_over(connection)

    def _schedule(self) -> None:
        """Set a clock for the listings and delistings of the plan."""
        faults, self.plan.listings = self.plan.listings, []
        self._listings += [asyncio.create_task(self._listing(fault)) for fault in faults]

    async def _listing(self, fault: Fault) -> None:
        await asyncio.sleep(fault.s)
        if fault.kind == "list":
            self.list_instrument(fault.symbol or "")
        else:
            self.delist_instrument(fault.symbol or "")

    def list_instrument(self, name: str) -> Market:
        """Start trading in a made-up instrument, in the spelling of recordings or of the venue. A delisted one starts again.

        Raises:
            ValueError: it trades already, or there is no made-up timeline for it.
        """
        name = self.dialect.recorded_symbol(name)
        symbol = self.dialect.market_symbol(name)
        known = self.markets.get(symbol)
        if self.generation is None or (known is not None and known.listed):
            raise ValueError(f"list: {symbol} {'trades already' if known is not None else 'needs made-up markets (--instruments)'}")
        market = self.generation.add(spec_named(name, *split_symbol(name)))
        self.markets[symbol] = market
        if self.trading is not None:
            self.trading.listed(market)
        self.plan.applied["list"] = self.plan.applied.get("list", 0) + 1
        for connection in self.connections:  # earlier subscriptions to it, or to all, start now
            for wire in connection.streams:
                for owner, stream in self.targets(wire, connection.path):
                    if owner is market and self.dialect.route(stream) == connection.route:
                        market.subscribe(connection, stream)
        return market

    def delist_instrument(self, name: str) -> Market:
        """End trading in an instrument: its streams stop, and REST shows it as closed.

        Raises:
            ValueError: it does not trade.
        """
        market = self.markets.get(name) or self.markets.get(self.dialect.market_symbol(self.dialect.recorded_symbol(name)))
        if market is None or not market.listed:
            raise ValueError(f"delist: {name} does not trade")
        market.delist()
        if self.trading is not None:
            self.trading.delisted(market)
        if isinstance(market, GeneratedMarket) and self.generation is not None:
            self.generation.drop(market)
        self.plan.applied["delist"] = self.plan.applied.get("delist", 0) + 1
        return market

    # --- websocket ----------------------------------------------------------------------------------------------------
    def _ws_handler(self, route: str, *, named: bool) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            # We close the connection: the end of a recording is sent after the last frame, then we wait for the client's reply.
            ws = web.WebSocketResponse(autoclose=False, autoping=False, compress=False)
            writer = await ws.prepare(request)
            connection = Connection(self, ws, request, route, named)
            self.connections.add(connection)
            try:
                if writer is not None:
                    await connection.run(writer, self.dialect.initial(request.path, request.query))
            finally:
                self.connections.discard(connection)
                self.unsubscribed(connection, list(connection.streams))
            return ws

        return handle

    def targets(self, wire: str, path: str) -> list[tuple[Market, str]]:
        """Return the markets and the stream of a wire name on a path; none for an unknown name or market."""
        target = self.dialect.target(wire, path)
        if target is None:
            return []
        if target[0] == "*":
            return [(market, target[1]) for market in self.markets.values()]
        market = self.markets.get(target[0])
        return [] if market is None else [(market, target[1])]

    def _owners(self, connection: Connection) -> list[Market]:
        return [market for wire in connection.streams for market, _ in self.targets(wire, connection.path)]

    def now(self) -> int:
        """Return the venue's clock, ms: that of the slowest timeline."""
        return min(market.now() for market in self.markets.values())

    def subscribed(self, connection: Connection, streams: list[str]) -> None:
        """Join a connection to the timelines of streams (wire names) that its route serves."""
        for wire in streams:
            for market, stream in self.targets(wire, connection.path):
                if market.state != "finished" and self.dialect.route(stream) == connection.route:
                    market.subscribe(connection, stream)
        self.end_if_over(connection)

    def unsubscribed(self, connection: Connection, streams: list[str]) -> None:
        """Take a connection off the timelines of streams (wire names)."""
        for wire in streams:
            for market, stream in self.targets(wire, connection.path):
                market.unsubscribe(connection, stream)

    def snapshot_fetched(self, market: Market) -> None:
        """Record that a depth snapshot was served."""
        if isinstance(market, Playback):
            market.snapshot_fetched()

    def end_if_over(self, connection: Connection) -> None:
        """Close a connection when every recording that it subscribed to has ended (or, with none, when all have)."""
        owners = self._owners(connection)
        ended = all(owner.over for owner in owners) and any(owner.state == "finished" for owner in owners)
        if ended or self.finished:
            connection.close(WSCloseCode.OK, END_REASON)

    def _names(self, stream: str) -> tuple[str, str, str]:
        return stream, self.dialect.head(stream), self.dialect.topic(stream)

    # --- control ------------------------------------------------------------------------------------------------------
    def status(self) -> dict[str, Any]:
        """Return the status of every playback, the connections, and the active and applied faults."""
        return {
            "recorded": True,
            "finished": self.finished,
            "venue": self.dialect.venue,
            "symbols": {symbol: market.status() for symbol, market in self.markets.items()},
            "generated": self.generation.status() if self.generation is not None else None,
            "connections": [{"route": c.route, "streams": list(c.streams)} for c in self.connections if c.open],
            "faults": [fault.kind for fault in self.plan.faults],
            "faults_applied": dict(self.plan.applied),
        }

    def failure(self) -> BaseException | None:
        """Return the error that ended a playback early, if any."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                return task.exception()
        return None

    async def _health(self, request: web.Request) -> web.Response:
        failure = self.failure()
        report = {"service": "simulate", "ok": failure is None, "finished": self.finished}
        if failure is not None:
            report["error"] = f"{type(failure).__name__}: {failure}"
        return web.json_response(report, status=200 if failure is None else 503)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self.status())

    def _hold(self, request: web.Request, paused: bool) -> None:
        for playback in self._chosen(request):
            if paused:
                playback.pause()
            else:
                playback.resume()
        if self.generation is not None and "symbol" not in request.query:
            self.generation.pause(paused)

    def _chosen(self, request: web.Request) -> list[Playback]:
        symbol = request.query.get("symbol")
        if symbol is None:
            return list(self.playbacks.values())
        if symbol not in self.playbacks:
            raise web.HTTPNotFound(text=f"symbol: {symbol!r} is not served here\n")
        return [self.playbacks[symbol]]

    async def _pause(self, request: web.Request) -> web.Response:
        self._hold(request, True)
        return web.json_response(self.status())

    async def _resume(self, request: web.Request) -> web.Response:
        self._hold(request, False)
        return web.json_response(self.status())

    async def _set_speed(self, request: web.Request) -> web.Response:
        """Take ``{"speed": 10}`` or ``{"speed": "max"}``."""
        try:
            wanted = orjson.loads(await request.read())["speed"]
            speed = None if wanted == "max" else float(wanted)
            _check_speed(speed)
        except (ValueError, KeyError, TypeError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        for playback in self._chosen(request):
            playback.set_speed(speed)
        return web.json_response(self.status())

    async def _add_faults(self, request: web.Request) -> web.Response:
        """Take ``{"faults": ["drop:stream=aggTrade,n=3", ...]}``."""
        try:
            body = orjson.loads(await request.read())
            faults = body["faults"] if isinstance(body, dict) else body
            if not isinstance(faults, list) or not all(isinstance(fault, str) for fault in faults):
                raise ValueError("faults: expected a list of texts")
            self.plan.add(faults)
            self._schedule()
        except (ValueError, KeyError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return web.json_response(self.status())

    async def _add_burst(self, request: web.Request) -> web.Response:
        """Take ``{"messages": 100000}``: so many trades are made, and then sent as fast as the clients read."""
        try:
            messages = orjson.loads(await request.read())["messages"]
            if type(messages) is not int or messages < 1 or self.generation is None:
                raise ValueError("messages: expected a number, at a venue with made-up markets")
        except (ValueError, KeyError, TypeError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        self.generation.burst(messages)
        return web.json_response(self.status())

    def _listed(self, change: Callable[[str], Market]) -> Any:
        """Take ``{"symbol": "NEWUSDT"}``."""

        async def handle(request: web.Request) -> web.Response:
            try:
                change(orjson.loads(await request.read())["symbol"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise web.HTTPBadRequest(text=f"{error}\n") from error
            return web.json_response(self.status())

        return handle

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self.plan.clear()
        return web.json_response(self.status())


def _check_speed(speed: float | None) -> None:
    if speed is not None and not 0 < speed < inf:
        raise ValueError(f"speed: expected a positive number, or None for as fast as possible, got {speed!r}")
