"""Made-up markets on one timeline, with a rate and mix of messages, and bursts as fast as the clients read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from math import inf
from random import Random
from typing import Any, Protocol, TypeVar

import structlog

from producers.simulated.market.instrument import Instrument, Spec
from producers.simulated.market.market import Market
from producers.simulated.recording.events import DEPTH, INTEREST, LIQUIDATION, MARK, TICKER, Event
from producers.simulated.wire.connection import Connection
from producers.simulated.wire.faults import FaultPlan
from producers.simulated.wire.protocol import MarketDialect

# Share of the kinds of messages, of 1,000. Trades and liquidations are more frequent for symbols with a higher volume; other kinds are
# even.
TRADES = "trades"
MIX = {TRADES: 400, DEPTH: 300, TICKER: 250, MARK: 40, INTEREST: 5, LIQUIDATION: 5}
# Length of a step of the timeline at a given rate, seconds.
TICK_S = 0.005
# Messages between two checks of the sockets without a rate.
BATCH = 512
# Trades before the start, settled fundings, and trades of all markets kept for REST.
PAST_TRADES, PAST_FUNDINGS, KEEP_TRADES = 50, 90, 200_000

log = structlog.get_logger()


class Pregenerated(Protocol):
    """Messages that were made before the venue opened (``pregenerated``)."""

    def sent(self, markets: dict[str, Market], start: int) -> Iterator[int]:
        """Send the messages in order. Before each yield its index on the timeline."""


@dataclass(frozen=True)
class Making:
    """Settings of made-up markets.

    Attributes:
        instruments: Their number. first: Index of the first; from 12 on names are made up (``instrument.spec_of``). rate: Messages a second
        in total; None: as fast as the clients read. Messages without a subscriber count, too. messages: Number of messages until the end;
        None: endless. burst: Trades that are made in advance and sent at once when all clients have subscribed; 0: none.
        start: Venue time of the first message, ms UTC; None: the wall clock's, so that the venue's clock is ours. kinds: Kinds of messages;
        empty: all that the venue streams. Names as in ``MIX``. ahead: Streams whose messages are all made before the venue opens. REST then
        shows the markets at the start. Empty: messages are made when they are due. past_trades: Trades before the start, one a second,
        which REST serves as history.
    """

    instruments: int
    rate: float | None = 1000.0
    messages: int | None = None
    burst: int = 0
    start: int | None = None
    kinds: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()
    first: int = 0
    past_trades: int = PAST_TRADES

    def __post_init__(self) -> None:
        if self.instruments < 1:
            raise ValueError(f"instruments: expected 1 or more, got {self.instruments}")
        if self.rate is not None and not 0 < self.rate < inf:
            raise ValueError(f"rate: expected a positive number, or None for as fast as possible, got {self.rate!r}")
        if self.rate is None and self.messages is None:
            raise ValueError("messages: a market without a rate needs an end")
        if self.past_trades < 1:
            raise ValueError(f"past_trades: expected 1 or more, got {self.past_trades}")
        unknown = set(self.kinds) - MIX.keys()
        if unknown:
            raise ValueError(f"kinds: expected some of {', '.join(MIX)}, got {', '.join(sorted(unknown))}")


class GeneratedMarket(Market):
    """One made-up instrument, with a history before the start."""

    def __init__(
        self, spec: Spec, dialect: MarketDialect, plan: FaultPlan, seed: int, start: int, keep: int, past: int, now: Callable[[], int]
    ) -> None:
        self._now = now
        trade_kind = dialect.trade_source
        self.instrument = Instrument(spec, seed, start, trade_kind)
        super().__init__(spec.name, self.instrument.facts(start), dialect, plan, keep)
        self.min_notional = "5"
        self.weight = spec.volume
        if dialect.kind == "perp":
            self.funding_interval_hours = spec.funding_hours
            self.funding = self.instrument.past_funding(start, PAST_FUNDINGS)
            self.mark = self.instrument.mark(start).body
            self.interest = self.instrument.interest(start).body
        self.quote = self.instrument.quote(start).body
        self.statistics.begin(self.instrument.past_day(start), partial(self.instrument.past_bars, start))
        for trade in self.instrument.past_trades(start, past):
            self.history.append(trade)
            self.statistics.last_price, self.statistics.last_quantity, self.statistics.last_time = trade.price, trade.quantity, trade.time

    def now(self) -> int:
        """Return the venue's time, ms, also without trades."""
        return max(self.clock, self._now())

    def step(self, kind: str, clock: int) -> None:
        """Make and send the next message of a kind."""
        event = self.instrument.step(kind, clock)
        if kind == MARK:
            self._settle(event)
        self.take(event)

    def _settle(self, event: Event) -> None:
        if self.mark is not None and event.body["T"] != self.mark["T"]:
            self.funding.append({"fundingTime": self.mark["T"], "fundingRate": self.mark["r"]})

    def interest_points(self, step_ms: int, count: int, end: int | None = None) -> list[tuple[int, str, str]]:
        """Return past open interest."""
        return self.instrument.past_interest(min(self.now(), end or self.now()), step_ms, count)

    def ratio_points(self, name: str, step_ms: int, count: int, end: int | None = None) -> list[tuple[int, float]]:
        """Return past shares of longs."""
        last = min(self.now(), end or self.now())
        times = [last - last % step_ms - back * step_ms for back in range(count - 1, -1, -1)]
        return [(time, 0.4 + 0.2 * Random(f"{name}|{self.name}|{time}").random()) for time in times]


Double = TypeVar("Double", bound=GeneratedMarket)


class Generation:
    """The timeline of all made-up markets.

    Args:
        making: Number and rate. dialect, plan: See ``Market``. connections: All present and future connections. seed: Of all random walks.
        settle_s: Quiet time after the last subscription before the start, seconds.

    Attributes:
        waits: It starts with the first subscriber, else at once. ahead: Messages made in advance, sent instead of new ones.
    """

    def __init__(
        self, making: Making, dialect: MarketDialect, plan: FaultPlan, connections: Collection[Connection], seed: int, settle_s: float
    ) -> None:
        self.making = making
        self.markets: list[GeneratedMarket] = []
        self.made = 0
        self.running = False
        self.waits = True
        self.ahead: Pregenerated | None = None
        self.dialect = dialect
        self._plan = plan
        self._connections = connections
        self._seed = seed
        self._settle_s = settle_s
        # Separate, so that draws do not depend on the number of messages in a step.
        self._draw_kind, self._draw_market = Random(f"{seed}|kinds"), Random(f"{seed}|markets")
        self._bursts: list[int] = [making.burst] if making.burst else []
        self._paused = False
        self._start = making.start if making.start is not None else _wall_ms()
        self._started_at = 0.0
        self._turn: dict[str, int] = {}
        self._cumulative: list[float] = []
        streamed = {source for stream in dialect.streams for source in stream.sources}
        kinds = [kind for kind in (making.kinds or MIX) if kind in streamed or kind == TRADES]
        self._kinds = [dialect.trade_source if kind == TRADES else kind for kind in kinds]
        self._shares = list(accumulate(MIX[kind] for kind in kinds))

    def add(self, spec: Spec) -> GeneratedMarket:
        """Add a market. While the timeline runs it starts at once."""
        if self.dialect.funding_hours is not None:
            spec = replace(spec, funding_hours=self.dialect.funding_hours)
        market = self._market(GeneratedMarket, spec, self.clock())
        market.state = "playing" if self.running else "waiting"
        self.markets.append(market)
        self._weigh()
        return market

    def double(self, market: GeneratedMarket, kind: type[Double], start: int) -> Double:
        """Return a market with the same walk, of another class. ``start``: venue time of its start, ms."""
        return self._market(kind, market.instrument.spec, start)

    def _market(self, kind: type[Double], spec: Spec, start: int) -> Double:
        keep = max(300, KEEP_TRADES // max(1, self.making.instruments), 2 * self.making.past_trades)
        return kind(spec, self.dialect, self._plan, self._seed, start, keep, self.making.past_trades, self.clock)

    def drop(self, market: GeneratedMarket) -> None:
        """Make no more messages of a market."""
        self.markets.remove(market)
        market.state = "finished"
        self._weigh()

    def _weigh(self) -> None:
        # The square root limits the share of the busiest markets.
        self._cumulative = list(accumulate(market.weight**0.5 for market in self.markets))

    def clock(self) -> int:
        """Return the venue's time, ms."""
        if not self.running:
            return self._start if self.making.start is not None else _wall_ms()
        return self._start + int((time.monotonic() - self._started_at) * 1000)

    def burst(self, messages: int) -> None:
        """Make so many trades and send them as fast as the clients read, without other messages in between."""
        self._bursts.append(messages)

    def pause(self, paused: bool) -> None:
        """Pause or resume the timeline."""
        self._paused = paused

    # --- running ------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Play until the requested number of messages was made. Like real markets they continue without subscribers."""
        if self.waits:
            await self._wait_for_clients()
        if self.making.start is None:
            self._start = _wall_ms()
        self._started_at = time.monotonic()
        self.running = True
        for market in self.markets:
            market.state = "playing"
        if self.ahead is not None:
            await self._send_ahead(self.ahead)
        while self.making.messages is None or self.made < self.making.messages:
            if self._bursts:
                await self._burst(self._bursts.pop(0))
            elif self._paused:
                await asyncio.sleep(TICK_S)
            else:
                await self._tick()
        for market in self.markets:
            for stream, data in self._plan.end(market.symbol):
                market.deliver(stream, [data])
        await self._flush()
        for market in self.markets:
            market.state = "finished"
        log.info("made-up markets ended", messages=self.made)

    async def _wait_for_clients(self) -> None:
        quiet_since, before = time.monotonic(), -1
        while True:
            listening = sum(len(connection.streams) for connection in self._listeners())
            if listening != before:
                quiet_since, before = time.monotonic(), listening
            if listening and time.monotonic() - quiet_since >= self._settle_s:
                return
            await asyncio.sleep(min(0.05, max(0.005, self._settle_s / 4)))

    async def _tick(self) -> None:
        rate = self.making.rate
        if rate is None:
            left = (self.making.messages or 0) - self.made
            self._make(min(BATCH, left), self.clock())
        else:
            due = int((time.monotonic() - self._started_at) * rate) - self.made
            if self.making.messages is not None:
                due = min(due, self.making.messages - self.made)
            # After a stall due messages are sent in several batches, with checks of the sockets in between.
            self._make(min(due, max(BATCH, int(rate * 0.05))), None)
        await self._flush()
        await asyncio.sleep(0 if rate is None else TICK_S)

    def _make(self, count: int, clock: int | None) -> None:
        """Make messages. ``clock`` None: each has the time of its place on the timeline."""
        if count <= 0 or not self.markets:
            return
        rate = self.making.rate or 1.0
        for market, kind in self.draw(count):
            at = self._start + int(self.made * 1000 / rate) if clock is None else clock
            self.made += 1
            market.step(kind, at)

    def draw(self, count: int) -> Iterator[tuple[GeneratedMarket, str]]:
        """Draw the next market and its kind of message."""
        for kind in self._draw_kind.choices(self._kinds, cum_weights=self._shares, k=count):
            yield self._choose(kind), kind

    def _choose(self, kind: str) -> GeneratedMarket:
        if kind in (self.dialect.trade_source, LIQUIDATION):
            return self._draw_market.choices(self.markets, cum_weights=self._cumulative)[0]
        turn = self._turn[kind] = (self._turn.get(kind, -1) + 1) % len(self.markets)
        return self.markets[turn]

    async def _send_ahead(self, ahead: Pregenerated) -> None:
        """Send the messages made in advance, each at its time. Late ones are sent at once."""
        assert self.making.rate is not None and self.making.messages is not None
        markets: dict[str, Market] = {market.symbol: market for market in self.markets}
        for number in ahead.sent(markets, self._start):
            self.made = number
            if number % BATCH == 0:
                await self._flush()  # also while it is late
            while number > int((time.monotonic() - self._started_at) * self.making.rate):
                await self._flush()
                await asyncio.sleep(TICK_S)
        self.made = self.making.messages

    async def _burst(self, messages: int) -> None:
        started = time.monotonic()
        kind = self.dialect.trade_source
        for number in range(messages):
            self._choose(kind).step(kind, self.clock())
            if number % 5000 == 4999:
                await asyncio.sleep(0)
        made = time.monotonic()
        await asyncio.gather(*(connection.pour() for connection in self._listeners()))
        took = time.monotonic() - made
        log.info(
            "burst sent",
            messages=messages,
            made_s=round(made - started, 3),
            sent_s=round(took, 3),
            a_second=round(messages / max(took, 1e-9)),
        )
        # Messages of a pause are not made up for.
        if self.making.rate is not None:
            self._started_at += time.monotonic() - started
            self._start += int((time.monotonic() - started) * 1000)

    async def _flush(self) -> None:
        connections = self._listeners()
        for connection in connections:
            connection.flush()
        for connection in connections:
            await connection.drain()

    def _listeners(self) -> list[Connection]:
        return [connection for connection in self._connections if connection.streams]

    def status(self) -> dict[str, Any]:
        """Return its progress."""
        return {"instruments": len(self.markets), "messages": self.made, "running": self.running, "rate": self.making.rate}


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
