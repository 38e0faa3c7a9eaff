"""Messages made before the venue opens, so that their sending is cheap. Benchmarks then do not measure the load generator."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import NamedTuple

from producers.simulated.market.generated import GeneratedMarket, Generation
from producers.simulated.market.market import Market


class Made(NamedTuple):
    """A message without its time.

    Attributes:
        number: Index of the timeline's message, from 0. Some indices have no message. symbol, stream: Of the market. data: The message,
        with the times of its timeline.
    """

    number: int
    symbol: str
    stream: str
    data: bytes


class _Maker(GeneratedMarket):
    """A copy of a market that stores its messages. The market itself stays at the start, and so do its REST responses."""

    kept: list[Made]
    streams: frozenset[str]
    number = 0

    def wants(self, stream: str) -> bool:
        """Return whether the stream's messages are to be made."""
        return stream in self.streams

    def emit(self, stream: str, data: bytes) -> None:
        """Store a message."""
        if stream in self.streams:
            self.kept.append(Made(self.number, self.symbol, stream, data))


class MadeAhead:
    """All messages of made-up markets, in sending order.

    Args:
        generation: Their timeline, before it runs.
        streams: Names of the streams, e.g. ``depth@100ms``.

    Raises:
        ValueError: the timeline has no end or no rate, this venue's books begin with a snapshot on the stream, or times are not in ms.
    """

    def __init__(self, generation: Generation, streams: tuple[str, ...]) -> None:
        making, dialect = generation.making, generation.dialect
        if making.messages is None or making.rate is None:
            raise ValueError("ahead: needs a rate and a number of messages")
        if not dialect.rest_book:
            raise ValueError(f"ahead: the books of {dialect.venue} begin on the stream, so its messages depend on the time of subscription")
        unknown = set(streams) - dialect.by_name.keys()
        if unknown:
            raise ValueError(f"ahead: expected some of {', '.join(dialect.by_name)}, got {', '.join(sorted(unknown))}")
        self.made: list[Made] = []
        self._start, self._rate = generation.clock(), making.rate
        makers = {}
        for market in generation.markets:
            makers[market] = maker = generation.double(market, _Maker, self._start)
            maker.kept, maker.streams = self.made, frozenset(streams)
        # Millions of objects that all stay: garbage collection would take longer than their creation.
        gc.disable()
        try:
            for number, (market, kind) in enumerate(generation.draw(making.messages)):
                maker = makers[market]
                maker.number = number
                at = self._at(self._start, number)
                before = len(self.made)
                maker.step(kind, at)
                if any(str(at).encode() not in one.data for one in self.made[before:]):
                    raise ValueError(f"ahead: {dialect.venue} does not send times in ms")
            gc.collect()
            gc.freeze()
        finally:
            gc.enable()

    def _at(self, start: int, number: int) -> int:
        return start + int(number * 1000 / self._rate)

    def sent(self, markets: dict[str, Market], start: int) -> Iterator[int]:
        """Send the messages in order. Before each yield its index on the timeline.

        Args:
            markets: By symbol. start: Start of the timeline, ms UTC. The times in the messages are shifted to it.
        """
        there = -1
        made = now = b""
        for number, symbol, stream, data in self.made:
            yield number
            at = self._at(start, number)
            if at != there:
                there = at
                made, now = str(self._at(self._start, number)).encode(), str(at).encode()
            markets[symbol].deliver(stream, [data.replace(made, now)])
