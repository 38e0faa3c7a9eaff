"""Messages that are made before the venue opens, so that sending them costs little: a load generator whose work is not part of what is measured."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import NamedTuple

from producers.simulated.market.generated import GeneratedMarket, Generation
from producers.simulated.market.market import Market


class Made(NamedTuple):
    """A message without its time.

    Attributes:
        number: Of the message that the timeline makes, from 0: its place on the timeline. Some make no stream speak.
        symbol, stream: Of the market. data: the message, its times those of the timeline at which it was made.
    """

    number: int
    symbol: str
    stream: str
    data: bytes


class _Maker(GeneratedMarket):
    """A market's double that keeps what it says. The market itself stays as it is at the start, and so does what REST tells of its book."""

    kept: list[Made]
    streams: frozenset[str]
    number = 0

    def wants(self, stream: str) -> bool:
        """Return whether the stream is to be made."""
        return stream in self.streams

    def emit(self, stream: str, data: bytes) -> None:
        """Keep a message."""
        if stream in self.streams:
            self.kept.append(Made(self.number, self.symbol, stream, data))


class MadeAhead:
    """All messages of made-up markets, in the order in which they are sent.

    Args:
        generation: Their timeline, before it runs.
        streams: Names of the streams that are made, e.g. ``depth@100ms``.

    Raises:
        ValueError: the timeline has no end or no rate, or books of this venue begin with a snapshot on the stream, or times are not in ms.
    """

    def __init__(self, generation: Generation, streams: tuple[str, ...]) -> None:
        making, dialect = generation.making, generation.dialect
        if making.messages is None or making.rate is None:
            raise ValueError("ahead: needs a rate and a number of messages")
        if not dialect.rest_book:
            raise ValueError(
                f"ahead: the books of {dialect.venue} begin on the stream, so what it sends depends on when somebody subscribes"
            )
        unknown = set(streams) - dialect.by_name.keys()
        if unknown:
            raise ValueError(f"ahead: expected some of {', '.join(dialect.by_name)}, got {', '.join(sorted(unknown))}")
        self.made: list[Made] = []
        self._start, self._rate = generation.clock(), making.rate
        makers = {}
        for market in generation.markets:
            makers[market] = maker = generation.double(market, _Maker, self._start)
            maker.kept, maker.streams = self.made, frozenset(streams)
        # Millions of objects that all stay: looking for garbage among them takes longer than making them.
        gc.disable()
        try:
            for number, (market, kind) in enumerate(generation.draw(making.messages)):
                maker = makers[market]
                maker.number = number
                at = self._at(self._start, number)
                before = len(self.made)
                maker.step(kind, at)
                if any(str(at).encode() not in one.data for one in self.made[before:]):
                    raise ValueError(f"ahead: {dialect.venue} does not tell times in ms")
            gc.collect()
            gc.freeze()
        finally:
            gc.enable()

    def _at(self, start: int, number: int) -> int:
        return start + int(number * 1000 / self._rate)

    def sent(self, markets: dict[str, Market], start: int) -> Iterator[int]:
        """Send one message after the other; yield before each the number of its place on the timeline.

        Args:
            markets: By symbol. start: when the timeline began, ms UTC: the times in the messages are moved to it.
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
