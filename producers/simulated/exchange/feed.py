"""Trading beside a market-data simulator. Orders are filled in the market that its streams show.

For instruments with orders or positions the core gets trades, mark prices and books as they are played. For others it gets the state when a
request needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from aiohttp import web

from producers.simulated.exchange.control import LOTS, Control
from producers.simulated.exchange.core import risk
from producers.simulated.exchange.core.market_state import Level
from producers.simulated.exchange.core.rules import Contract
from producers.simulated.exchange.registry import PROTOCOLS
from producers.simulated.exchange.server import TradingServer
from producers.simulated.exchange.session.faults import ExchangePlan
from producers.simulated.exchange.session.keys import AccountSpec
from producers.simulated.exchange.session.trading_session import Desk
from producers.simulated.market.market import Market
from producers.simulated.recording.events import AGG, DEPTH, MARK, TICKER, TRADE, Event
from producers.simulated.recording.recording import decimal_step
from producers.simulated.wire.limits import WeightLimiter

# Levels a side of a book that the core gets.
DEPTH_LEVELS = 100


class Trading:
    """Accounts that trade in the markets of a simulator.

    Args:
        accounts: Accounts with keys and deposits. venue: The venue's protocol.
        queue: Model of resting orders, see ``engine``. faults, seed: see ``faults``.
        clock: Venue time, ms UTC.

    Raises:
        ValueError: a venue without trading, an account or key twice, or a fault that cannot be.
    """

    def __init__(
        self,
        accounts: Iterable[AccountSpec],
        venue: str,
        clock: Callable[[], int],
        *,
        queue: str = "through",
        faults: Iterable[str] = (),
        seed: int = 0,
    ) -> None:
        if venue not in PROTOCOLS:
            raise ValueError(f"accounts: trading is simulated for {' and '.join(PROTOCOLS)}, not for {venue}")
        self.exchange = PROTOCOLS[venue].exchange([], queue)
        # A recording's clock is of another year, so signatures with the wall clock are accepted, too.
        self.desk = Desk(self.exchange, clock, ExchangePlan(faults, seed), other_clock=_wall_ms, before=self._before)
        self._specs = list(accounts)
        self._markets: dict[str, Market] = {}
        self._books: dict[str, tuple[int | None, str | None]] = {}
        self._funding: dict[str, tuple[int, Decimal, Decimal]] = {}
        self.server = TradingServer(self.desk, PROTOCOLS[venue](), limiter=self._limiter)
        self.control = Control(self.desk, self.server.streams, self.server.flush)
        self._limiters: Callable[[str], WeightLimiter] | None = None

    def _limiter(self, remote: str) -> WeightLimiter:
        if self._limiters is None:
            raise AssertionError("routes are added with the limiters")
        return self._limiters(remote)

    def open(self, markets: Mapping[str, Market]) -> None:
        """Start trading in markets, and open the accounts."""
        for market in markets.values():
            self.listed(market)
        self.desk.open_accounts(self._specs)
        self.exchange.drain()  # no stream is connected yet

    def listed(self, market: Market) -> None:
        """Start trading in a market, also in a relisted one."""
        self._markets[market.symbol] = market
        self._books.pop(market.symbol, None)
        self.exchange.list_contract(contract_of(market))
        market.watcher = self.take
        self._state(market)
        self._funding.pop(market.symbol, None)
        if market.mark is not None:
            self._announced(market, market.mark)

    def delisted(self, market: Market) -> None:
        """End trading in a market."""
        risk.delist(self.exchange, market.symbol, self.desk.clock())
        self.server.flush()

    def add_routes(self, app: web.Application, limiters: Callable[[str], WeightLimiter]) -> frozenset[str]:
        """Register trading, its user streams and its control. Return its GET paths."""
        self._limiters = limiters
        self.server.add_routes(app)
        self.control.add_routes(app, market=False)
        return frozenset(action.path for action in self.server.protocol.trading if action.method == "GET")

    # --- what is played -----------------------------------------------------------------------------------------------
    def take(self, market: Market, event: Event) -> None:
        """Pass a played message of a market to the core."""
        symbol, kind = market.symbol, event.kind
        if kind == MARK:
            self._settle(market, event)
        if not self.exchange.watched(symbol):
            return
        now = event.clock
        if kind == market.trade_kind and kind in (AGG, TRADE):
            self._book(market, now)
            body = event.body
            price = Decimal(body["p"])
            self.exchange.on_trade(symbol, price, Decimal(body["q"]), "SELL" if body["m"] else "BUY", now)
            if market.mark is None:  # a recording without mark prices uses the last price
                self.exchange.on_mark(symbol, price, now)
        elif kind == MARK:
            self._book(market, now)
            self.exchange.on_mark(symbol, Decimal(event.body["p"]), now, _decimal(event.body.get("i")))
        elif kind in (DEPTH, TICKER):
            self._book(market, now)
        if self.exchange.events:
            self.server.flush()

    def _settle(self, market: Market, event: Event) -> None:
        """Settle funding after its announced time, at the last announced rate."""
        before, due = self._funding.get(market.symbol), int(event.body.get("T") or 0)
        if before is not None and due > before[0]:
            risk.settle_funding(self.exchange, market.symbol, before[1], event.clock, before[2])
        self._announced(market, event.body)

    def _announced(self, market: Market, body: Mapping[str, Any]) -> None:
        due, rate = body.get("T"), _decimal(body.get("r"))
        if due and rate is not None:
            state = self.exchange.markets[market.symbol]
            state.funding_rate, state.next_funding = rate, int(due)
            self._funding[market.symbol] = (int(due), rate, Decimal(body["p"]))

    def _before(self, symbol: str | None) -> None:
        """Update the core from the playback: one whole instrument, or the prices of all."""
        market = self._markets.get(symbol or "")
        if market is not None:
            self._state(market)
            self._book(market, market.now())
        elif not symbol:
            for one in self._markets.values():
                self._state(one)

    def _state(self, market: Market) -> None:
        state, last = self.exchange.markets[market.symbol], market.statistics.last_price
        if last is not None:
            state.last = Decimal(last)
        mark = (market.mark or {}).get("p") or last
        if mark is not None:
            state.mark = Decimal(mark)
            state.index = _decimal((market.mark or {}).get("i")) or state.mark

    def _book(self, market: Market, now: int) -> None:
        """Set the core's book if it is old. A market without a book uses the best quotes, or the last price."""
        quote, last = market.quote, market.statistics.last_price
        version = (market.book.last_update_id, None) if market.book.last_update_id is not None else (None, f"{quote}|{last}")
        if self._books.get(market.symbol) == version:
            return
        self._books[market.symbol] = version
        contract = self.exchange.markets[market.symbol].contract
        top = market.book.top(DEPTH_LEVELS)
        bids: list[Level]
        asks: list[Level]
        if top is not None:
            bids, asks = ([(Decimal(price), Decimal(size)) for price, size in side] for side in (top.bids, top.asks))
        elif quote is not None:
            bids, asks = [(Decimal(quote["b"]), Decimal(quote["B"]))], [(Decimal(quote["a"]), Decimal(quote["A"]))]
        elif last is not None:
            price = Decimal(last)
            bids, asks = [(price - contract.tick, contract.lot * LOTS)], [(price + contract.tick, contract.lot * LOTS)]
        else:
            return
        self.exchange.on_book(market.symbol, bids, asks, now)


def contract_of(market: Market) -> Contract:
    """Return the rules of a market, as far as its recording or generator has them."""
    facts = market.facts
    return Contract.of(
        market.symbol,
        decimal_step(facts.tick_decimals),
        decimal_step(facts.step_decimals),
        base=facts.base_asset,
        quote=facts.quote_asset,
        min_notional=market.min_notional or "5",
        price_decimals=max(facts.price_decimals, facts.tick_decimals),
    )


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
