"""A made-up market (pure): a random walk of prices, a book, and consistent trades, quotes, marks, liquidations and open interest.

Everything except time depends only on the seed and the order of the calls. Invariants:

- the book is never crossed; between two depth messages it changes only by trades;
- after a depth message clients have the true book, and quotes show the best levels of the newest depth message;
- a trade takes from the best level of a side, at that level's price.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any
from zlib import crc32

from producers.simulated.recording.events import AGG, DEPTH, INTEREST, LIQUIDATION, MARK, SNAPSHOT, TICKER, TRADE, Event
from producers.simulated.recording.recording import Facts
from producers.simulated.recording.statistics import DAY_MINUTES, MINUTE_MS, Bar
from producers.simulated.recording.trade_history import Trade

HOUR_MS = 3_600_000
# Levels a side: contiguous ticks from the best one on.
LEVELS = 25
# Number of different histories, and the length of their bars. A producer requests a day and a quarter on a cold start, which must include
# "24 h ago".
PATHS = 16
PAST_MINUTES = 26 * 60
# Units of a typical size.
UNITS = 16
# Fast diffs of a made-up book. None is merged, so the number of messages is the requested one.
DEPTH_STREAM = "depth@100ms"
# Base, price, decimals of prices and of quantities, funding interval in hours. The rest of the alphabet follows as SIM001, SIM002, ...
_KNOWN = (
    ("BTC", 61_800.0, 1, 3, 8),
    ("ETH", 2_650.0, 2, 3, 8),
    ("SOL", 155.0, 2, 2, 8),
    ("XRP", 0.58, 4, 1, 8),
    ("DOGE", 0.105, 5, 0, 8),
    ("LTC", 72.0, 2, 3, 8),
    ("BNB", 520.0, 2, 2, 8),
    ("ADA", 0.36, 4, 0, 4),
    ("LINK", 11.2, 3, 2, 8),
    ("AVAX", 24.5, 3, 1, 4),
    ("TRX", 0.131, 5, 0, 8),
    ("DOT", 4.6, 3, 1, 1),
)


@dataclass(frozen=True)
class Spec:
    """The definition of a made-up instrument.

    Attributes:
        name: Symbol in the recordings' spelling, e.g. ``SIM001USDT``. base, quote: Its assets.
        price: First price. price_decimals, quantity_decimals: Of the texts; one tick and one lot are their last digits. volume: Quote
        volume of the 24 h before its start.
        funding_hours: Funding interval.
    """

    name: str
    base: str
    quote: str
    price: float
    price_decimals: int
    quantity_decimals: int
    volume: float
    funding_hours: int


def spec_of(index: int, quote: str) -> Spec:
    """Return the instrument number ``index`` (from 0): volumes fall with the number, intervals vary."""
    if index < len(_KNOWN):
        base, price, places, lots, hours = _KNOWN[index]
    else:
        number = index - len(_KNOWN) + 1
        base, hours = f"SIM{number:03d}", (8, 4, 1)[number % 3]
        price, places, lots = ((0.0125, 6, 0), (1.5, 4, 1), (85.0, 2, 2))[number % 3]
    return Spec(base + quote, base, quote, price, places, lots, 2.0e9 / (index + 1), hours)


def spec_named(name: str, base: str, quote: str) -> Spec:
    """Return an instrument with the user's name, for a new listing."""
    for known, price, places, lots, hours in _KNOWN:
        if known == base:
            return Spec(name, base, quote, price, places, lots, 1.0e6, hours)
    return Spec(name, base, quote, 1.5, 4, 1, 1.0e6, 4)


class Instrument:
    """A made-up market.

    Args:
        spec: Its definition. seed: Of its random walk. start: Venue time of its start, ms UTC. trade_kind: Kind of its trade events,
        ``trade`` or ``aggTrade``.
    """

    def __init__(self, spec: Spec, seed: int, start: int, trade_kind: str) -> None:
        self.spec = spec
        self._random = Random(f"{seed}|{spec.name}")
        self._trade_kind = trade_kind
        self._scale = 10**spec.price_decimals
        self._lot_scale = 10**spec.quantity_decimals
        ticks = max(2 * LEVELS, round(spec.price * self._scale))
        # A level has about 2,000 quote units. All sizes are multiples of a unit, so that their texts can be cached.
        self._unit = max(1, round(2000.0 / spec.price * self._lot_scale / UNITS))
        self.first_price = ticks / self._scale
        self._bid, self._ask = ticks, ticks + 1
        self._bids = {ticks - at: self._size() for at in range(LEVELS)}
        self._asks = {ticks + 1 + at: self._size() for at in range(LEVELS)}
        self._bid_changes: dict[int, int] = {}
        self._ask_changes: dict[int, int] = {}
        self._prices: dict[int, str] = {}
        self._sizes: dict[int, str] = {}
        self._update = 1_000_000 + self._random.randrange(1_000_000_000)
        self._trade = 1_000_000 + self._random.randrange(100_000_000)
        self._interest = round(spec.volume / spec.price * 0.2 * self._lot_scale)
        self._index = 1.0
        self.rate = 0.0001
        self.next_funding = start - start % (spec.funding_hours * HOUR_MS) + spec.funding_hours * HOUR_MS
        self._shown = self._best()

    # --- texts -------------------------------------------------------------------------------------------------------
    def price_text(self, tick: int) -> str:
        """Return a price as decimal text."""
        text = self._prices.get(tick)
        if text is None:
            if len(self._prices) > 4096:
                self._prices.clear()
            text = self._prices[tick] = _decimal(tick, self.spec.price_decimals)
        return text

    def _lots(self, lots: int) -> str:
        text = self._sizes.get(lots)
        if text is None:
            if len(self._sizes) > 4096:
                self._sizes.clear()
            text = self._sizes[lots] = _decimal(lots, self.spec.quantity_decimals)
        return text

    def _size(self) -> int:
        return self._unit * (1 + int(self._random.random() * 2 * UNITS))

    # --- beginning ---------------------------------------------------------------------------------------------------
    def facts(self, start: int) -> Facts:
        """Return its facts, with the first book."""
        spec = self.spec
        kinds = {DEPTH_STREAM: 0, TICKER: 0, self._trade_kind: 0, "markPrice@1s": 0, LIQUIDATION: 0}
        return Facts(
            spec.name,
            spec.base,
            spec.quote,
            start,
            start,
            kinds,
            spec.price_decimals,
            spec.quantity_decimals,
            spec.price_decimals,
            spec.quantity_decimals,
            self._book(start),
        )

    def _book(self, clock: int) -> Event:
        bids = [[self.price_text(tick), self._lots(self._bids[tick])] for tick in sorted(self._bids, reverse=True)]
        asks = [[self.price_text(tick), self._lots(self._asks[tick])] for tick in sorted(self._asks)]
        body = {"lastUpdateId": self._update, "E": clock, "T": clock, "bids": bids, "asks": asks}
        return Event(SNAPSHOT, clock, "", b"", body)

    def past_bars(self, start: int) -> list[Bar]:
        """Return the one-minute bars of 26 hours before ``start``; they end at the first price, and the last day's sum up to the volume."""
        first, path = start - start % MINUTE_MS, _path(crc32(self.spec.name.encode()) % PATHS)
        bars = []
        for minute in range(PAST_MINUTES, 0, -1):
            opened, closed = path[minute] * self.first_price, path[minute - 1] * self.first_price
            quote = self.spec.volume / DAY_MINUTES
            volume = quote / closed
            bars.append(
                Bar(
                    first - minute * MINUTE_MS,
                    opened,
                    max(opened, closed),
                    min(opened, closed),
                    closed,
                    volume,
                    quote,
                    20,
                    volume / 2,
                    quote / 2,
                )
            )
        return bars

    def past_day(self, start: int) -> Bar:
        """Return the bars of the last day as one. The base volume is exact to one part in a thousand."""
        path = _path(crc32(self.spec.name.encode()) % PATHS)[: DAY_MINUTES + 1]
        price, volume = self.first_price, self.spec.volume / self.first_price
        begins = start - start % MINUTE_MS - DAY_MINUTES * MINUTE_MS
        bar = Bar(begins, path[-1] * price, max(path) * price, min(path) * price, price, volume, self.spec.volume, 20 * DAY_MINUTES)
        bar.taker, bar.taker_quote = volume / 2, self.spec.volume / 2
        return bar

    def past_trades(self, start: int, count: int) -> list[Trade]:
        """Return the trades before ``start``, oldest first, with ids up to that of the first live trade."""
        draw = Random(f"trades|{self.spec.name}")
        trades = []
        for back in range(count, 0, -1):
            sell, number = draw.random() < 0.5, self._trade + 1 - back
            price = self.price_text(self._bid if sell else self._ask)
            trades.append(
                Trade(number, start - back * 1000, price, self._lots(self._unit * (1 + draw.randrange(UNITS))), number, number, sell)
            )
        return trades

    def past_funding(self, start: int, count: int) -> list[dict[str, Any]]:
        """Return settled funding rates before ``start``, oldest first."""
        draw = Random(f"funding|{self.spec.name}")
        step = self.spec.funding_hours * HOUR_MS
        last = self.next_funding - step
        rates = [f"{0.0001 + (draw.random() - 0.5) * 0.0002:.8f}" for _ in range(count)]
        return [{"fundingTime": last - back * step, "fundingRate": rates[back]} for back in range(count - 1, -1, -1)]

    def past_interest(self, clock: int, step_ms: int, count: int) -> list[tuple[int, str, str]]:
        """Return (time ms, amount, value in quote units) of open interest at the last full steps before ``clock``."""
        points = []
        for back in range(count - 1, -1, -1):
            time = clock - clock % step_ms - back * step_ms
            share = 1 + (Random(f"interest|{self.spec.name}|{time}").random() - 0.5) * 0.02
            amount = round(self._interest * share)
            points.append((time, self._lots(amount), f"{amount / self._lot_scale * self._bid / self._scale:.4f}"))
        return points

    # --- events ------------------------------------------------------------------------------------------------------
    def step(self, kind: str, clock: int) -> Event:
        """Return the next message of a kind at a venue time, ms."""
        return _STEPS[kind](self, clock)

    def trade(self, clock: int) -> Event:
        """A taker takes part of the best level of one side."""
        draw = self._random.random
        sell = draw() < 0.5
        side, changes = (self._bids, self._bid_changes) if sell else (self._asks, self._ask_changes)
        tick = self._bid if sell else self._ask
        there = side[tick]
        lots = min(there, self._unit * (1 + int(draw() * draw() * UNITS)))
        self._trade += 1
        if lots < there:
            side[tick] = changes[tick] = there - lots
        else:
            self._lose_best(sell)
        if draw() < 0.3:
            self._interest += lots if draw() < 0.5 else -min(lots, self._interest // 2)
        number = self._trade
        body = {
            "e": self._trade_kind,
            "E": clock,
            "a": number,
            "t": number,
            "p": self.price_text(tick),
            "q": self._lots(lots),
            "f": number,
            "l": number,
            "T": clock,
            "m": sell,
        }
        return Event(self._trade_kind, clock, self._trade_kind, b"", body)

    def depth(self, clock: int) -> Event:
        """Sizes change, a gap in the middle closes, sometimes a best level is withdrawn. The message has all changes since the last one."""
        draw = self._random.random
        if self._ask - self._bid > 1:
            self._improve(draw() < 0.5)
        elif draw() < 0.05:
            self._lose_best(draw() < 0.5)
        for _ in range(1 + int(draw() * 3)):
            tick = self._bid - int(draw() * LEVELS)
            if tick in self._bids:
                self._bids[tick] = self._bid_changes[tick] = self._size()
            tick = self._ask + int(draw() * LEVELS)
            if tick in self._asks:
                self._asks[tick] = self._ask_changes[tick] = self._size()
        before = self._update
        self._update += 1 + int(draw() * 5)
        price, lots = self.price_text, self._lots
        body = {
            "e": "depthUpdate",
            "E": clock,
            "T": clock,
            "U": before + 1,
            "u": self._update,
            "pu": before,
            "b": [[price(tick), lots(size)] for tick, size in self._bid_changes.items()],
            "a": [[price(tick), lots(size)] for tick, size in self._ask_changes.items()],
        }
        self._bid_changes, self._ask_changes = {}, {}
        self._shown = self._best()
        return Event(DEPTH, clock, DEPTH_STREAM, b"", body)

    def quote(self, clock: int) -> Event:
        """The best levels as of the newest depth message."""
        return Event(TICKER, clock, TICKER, b"", {**self._shown, "T": clock, "E": clock})

    def _best(self) -> dict[str, Any]:
        bid, ask = self._bid, self._ask
        bid_size, ask_size = self._lots(self._bids[bid]), self._lots(self._asks[ask])
        return {"u": self._update, "b": self.price_text(bid), "B": bid_size, "a": self.price_text(ask), "A": ask_size}

    def mark(self, clock: int) -> Event:
        """Mark and index price near the mid price; the expected funding rate and its time."""
        draw = self._random.random
        while clock >= self.next_funding:
            self.next_funding += self.spec.funding_hours * HOUR_MS
        middle = (self._bid + self._ask) / 2 / self._scale
        self._index = 1 + (self._index - 1) * 0.98 + (draw() - 0.5) * 0.0002
        self.rate = 0.0001 + (self.rate - 0.0001) * 0.99 + (draw() - 0.5) * 0.00001
        mark, index = f"{middle:.8f}", f"{middle * self._index:.8f}"
        body = {"e": "markPriceUpdate", "E": clock, "p": mark, "P": index, "i": index, "r": f"{self.rate:.8f}", "T": self.next_funding}
        return Event(MARK, clock, "markPrice@1s", b"", body)

    def liquidation(self, clock: int) -> Event:
        """A position is liquidated at the best price of the other side."""
        draw = self._random.random
        sell = draw() < 0.5  # a long is liquidated
        price, lots = self.price_text(self._bid if sell else self._ask), self._lots(self._unit * (1 + int(draw() * UNITS)))
        side = "SELL" if sell else "BUY"
        order = {"S": side, "o": "LIMIT", "f": "IOC", "q": lots, "p": price, "ap": price, "X": "FILLED", "l": lots, "z": lots, "T": clock}
        return Event(LIQUIDATION, clock, LIQUIDATION, b"", {"e": LIQUIDATION, "E": clock, "o": order})

    def interest(self, clock: int) -> Event:
        """Open interest, in base units."""
        return Event(INTEREST, clock, INTEREST, b"", {"e": INTEREST, "E": clock, "openInterest": self._lots(self._interest)})

    # --- the book ----------------------------------------------------------------------------------------------------
    def _lose_best(self, bid: bool) -> None:
        """Remove the best level of a side and add one at the far end, so that the book keeps its size."""
        if bid and self._bid > 2 * LEVELS:
            del self._bids[self._bid]
            self._bid_changes[self._bid] = 0
            self._bid -= 1
            far = self._bid - LEVELS + 1
            self._bids[far] = self._bid_changes[far] = self._size()
        elif bid:  # the lowest possible price: the level is filled again
            self._bids[self._bid] = self._bid_changes[self._bid] = self._size()
        else:
            del self._asks[self._ask]
            self._ask_changes[self._ask] = 0
            self._ask += 1
            far = self._ask + LEVELS - 1
            self._asks[far] = self._ask_changes[far] = self._size()

    def _improve(self, bid: bool) -> None:
        """Add a new best level and remove the farthest one."""
        if bid:
            self._bid += 1
            self._bids[self._bid] = self._bid_changes[self._bid] = self._size()
            far = self._bid - LEVELS
            del self._bids[far]
            self._bid_changes[far] = 0
        else:
            self._ask -= 1
            self._asks[self._ask] = self._ask_changes[self._ask] = self._size()
            far = self._ask + LEVELS
            del self._asks[far]
            self._ask_changes[far] = 0


_STEPS = {
    TRADE: Instrument.trade,
    AGG: Instrument.trade,
    DEPTH: Instrument.depth,
    TICKER: Instrument.quote,
    MARK: Instrument.mark,
    LIQUIDATION: Instrument.liquidation,
    INTEREST: Instrument.interest,
}


@lru_cache(maxsize=PATHS)
def _path(number: int) -> list[float]:
    """Return relative prices of the minutes before the start, back from 1. They are made once for many markets, to save time."""
    draw = Random(f"path|{number}")
    path = [1.0]
    for _ in range(PAST_MINUTES):
        path.append(path[-1] * (1 + (draw.random() - 0.5) * 0.001))
    return path


def _decimal(units: int, places: int) -> str:
    if places == 0:
        return str(units)
    text = str(units).rjust(places + 1, "0")
    return f"{text[:-places]}.{text[-places:]}"
