"""The channels of the live stream, and the grammar that selects them.

A list of channels is separated by commas. A channel is a name, and what it selects::

    candles:VENUE:SYMBOL:TIMEFRAME     candles:BINANCE:BTCUSDT-PERP:1m
    cvd|books|quotes:VENUE:SYMBOL      books:BINANCE:BTCUSDT-PERP
    scores:VENUE:SYMBOL[:STRATEGY]     scores:BINANCE:BTCUSDT-PERP:breakout, scores:*
    signals[:VENUE:SYMBOL]             signals, signals:*, signals:BINANCE:BTCUSDT-PERP
    risk, health                       always whole

A *state* channel has one newest message for each key, which replaces the earlier one. An *event* channel has messages that all count.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from functools import cache

from schemas.partition import base_of_instrument

ALL = "*"
TIMEFRAMES_MS = {"1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000, "4h": 14_400_000, "1d": 86_400_000}
# Longer ids are not of any venue or strategy.
LONGEST = 200

NONE, ONE, ANY = "none", "one instrument", "any instrument"


@dataclass(frozen=True)
class Kind:
    """What a channel name means.

    Attributes:
        selects: NONE: it has no instrument. ONE: it needs one. ANY: one or all.
        topics: Topics that feed it.
        event: All messages count, and they have ids; else only the newest for each key counts.
        detail: Name of the part after the instrument: timeframe, strategy, or "".
        about: For the documentation.
    """

    selects: str
    topics: tuple[str, ...]
    event: bool
    about: str
    detail: str = ""


KINDS: dict[str, Kind] = {
    "candles": Kind(ONE, ("bars", "agg_trades"), False, "the last three candles; the newest one is forming", "timeframe"),
    "cvd": Kind(ONE, ("agg_trades",), False, "cumulative volume delta: running total and the delta of the minute"),
    "books": Kind(ONE, ("depth",), False, "order book, 20 levels"),
    "quotes": Kind(ONE, ("quotes",), False, "best bid and ask"),
    "features": Kind(ANY, ("features",), False, "measures of the newest instant"),
    "scores": Kind(ANY, ("scores",), False, "newest score of each strategy", "strategy"),
    "funding": Kind(ANY, ("funding",), False, "mark price, index price, funding rates"),
    "positions": Kind(ANY, ("positions", "quotes", "funding"), False, "positions, valued at the mid or at the mark price"),
    "risk": Kind(NONE, ("risk_state",), False, "newest state of the risk guard of each account"),
    "health": Kind(NONE, (), False, "whether the live stream gets data from Kafka"),
    "alerts": Kind(NONE, (), False, "alerts that fire now"),
    "system": Kind(NONE, (), False, "health tree of all services"),
    "signals": Kind(ANY, ("signals",), True, "signals"),
    "orders": Kind(ANY, ("orders",), True, "changes of orders"),
    "fills": Kind(ANY, ("fills",), True, "fills"),
    "trades_closed": Kind(ANY, ("trades_closed",), True, "closed trades"),
    "liquidations": Kind(ANY, ("liquidations",), True, "liquidations"),
    "gaps": Kind(ANY, ("gaps",), True, "gaps of market data"),
    "data_quality": Kind(ANY, ("data_quality",), True, "findings of the data-quality monitor"),
    "strategies": Kind(ANY, ("strategies",), True, "revisions of strategies"),
    "risk_events": Kind(NONE, ("risk_state", "risk_commands"), True, "commands to the risk guard, and changes of its state"),
    "reconciliations": Kind(NONE, ("reconciliations",), True, "comparisons of the journal with the venue"),
}


class ChannelError(ValueError):
    """A channel that cannot be selected.

    Attributes:
        text: The channel as it was given.
        reason: What is wrong with it.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"{text!r}: {reason}")
        self.text = text
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Channel:
    """One selection.

    Attributes:
        name: A key of KINDS.
        instrument: Instrument id, ALL, or "" where the kind has none.
        detail: Timeframe or strategy; "": all.
    """

    name: str
    instrument: str = ""
    detail: str = ""

    @property
    def kind(self) -> Kind:
        """What the name means."""
        return KINDS[self.name]

    @property
    def text(self) -> str:
        """The one spelling of this selection."""
        return ":".join(part for part in (self.name, self.instrument, self.detail) if part)


def covering(name: str, instrument: str = "", detail: str = "") -> tuple[str, ...]:
    """Return the texts of all channels that select a message."""
    kind = KINDS[name]
    if kind.selects == NONE:
        return (name,)
    texts = (f"{name}:{ALL}", f"{name}:{instrument}") if kind.selects == ANY else ()
    return (*texts, f"{name}:{instrument}:{detail}") if kind.detail else texts or (f"{name}:{instrument}",)


def parse(text: str, known: Container[str] = ()) -> tuple[Channel, ...]:
    """Return the channels of a list separated by commas, without repeats.

    Args:
        text: The list.
        known: Instruments of the topic ``instruments``. Others must have an id from which the base asset can be read.

    Raises:
        ChannelError: one of them is not a channel; an empty list is one, too.
    """
    return tuple(dict.fromkeys(_one(part.strip(), known) for part in text.split(",")))


@cache
def _names() -> str:
    return ", ".join(KINDS)


def _one(text: str, known: Container[str]) -> Channel:
    if not text:
        raise ChannelError(text, f"an empty channel; the channels are {_names()}")
    if len(text) > LONGEST:
        raise ChannelError(text[:40], f"longer than {LONGEST} characters")
    name, *parts = text.split(":")
    kind = KINDS.get(name)
    if kind is None:
        raise ChannelError(text, f"no channel has this name; the channels are {_names()}")
    if kind.selects == NONE:
        if parts not in ([], [ALL]):
            raise ChannelError(text, f"{name} selects no instrument")
        return Channel(name)
    if kind.selects == ANY and parts in ([], [ALL]):
        return Channel(name, ALL)
    if len(parts) < 2:
        raise ChannelError(text, f"expected {_form(name, kind)}")
    instrument, rest = ":".join(parts[:2]), ":".join(parts[2:])
    if instrument not in known:
        try:
            base_of_instrument(instrument)
        except ValueError as error:
            raise ChannelError(text, str(error)) from error
    if kind.detail == "timeframe" and rest not in TIMEFRAMES_MS:
        raise ChannelError(text, f"timeframe: expected one of {', '.join(TIMEFRAMES_MS)}, got {rest!r}")
    if (rest or len(parts) > 2) and (not kind.detail or not rest):
        raise ChannelError(text, f"expected {_form(name, kind)}")
    return Channel(name, instrument, rest)


def _form(name: str, kind: Kind) -> str:
    form = f"{name}:VENUE:SYMBOL"
    if kind.detail:
        form += ":TIMEFRAME" if kind.detail == "timeframe" else "[:STRATEGY]"
    return f"{form}, or {name}:{ALL}" if kind.selects == ANY else form
