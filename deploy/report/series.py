"""Data of an instrument for charts. Times are ms UTC as numbers; prices and quantities are doubles. NaN: no value, interrupts a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

# Shortest pause to report. Liquid pairs trade every few seconds.
SILENCE_MS = 300_000
LONGEST_SILENCES = 10
# Most points of a line: more than a wide screen has pixels.
MOST_POINTS = 4_000
# Bucket lengths of the trade line, ms, from single trades to one day.
BUCKETS = (100, 250, 1_000, 5_000, 15_000, 60_000, 300_000, 900_000, 3_600_000, 14_400_000, 86_400_000)
# Most candles. The finest timeframe with at most this many is used.
TIMEFRAMES = (("1m", 60_000), ("5m", 300_000), ("15m", 900_000), ("1h", 3_600_000), ("4h", 14_400_000), ("1d", 86_400_000))
MOST_CANDLES = 800
LARGEST_PRINTS = 300
# Longer lists are cut, with a note in the report.
MOST_ROWS = 500

Row = dict[str, Any]
Array = np.ndarray


@dataclass(frozen=True)
class Silence:
    """A period without a trade: times of the trades before and after it."""

    since: int
    until: int


class Drawn(Protocol):
    """Settings of a strategy that a chart shows."""

    @property
    def strategy_id(self) -> str: ...
    @property
    def instrument(self) -> str: ...
    @property
    def display_name(self) -> str: ...
    @property
    def entry_score(self) -> float: ...
    @property
    def flip_threshold(self) -> float: ...


@dataclass(frozen=True)
class Scores:
    """Evaluations of one strategy on one instrument, in order of time.

    Attributes:
        state: Outcome of each: ``not warm``, the kind of the block, ``below entry``, ``cooldown``, ``signal``, ``flip signal`` (during the
            cooldown: it only closes an opposite position), or ``no signal`` (the strategy's direction forbids it).
        counts: State -> number of evaluations, if the lists are thinned. None: the lists are complete.
    """

    strategy_id: str
    time: Array
    score: Array
    state: list[str]
    direction: list[str]
    counts: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Series:
    """Chart data of one instrument.

    Attributes:
        bucket_ms: Step of ``trade_time``: the end of each bucket that had a trade, with its last price and the running CVD there.
        timeframe: Of ``bars``; empty without bars.
        bars: Columns time (end), open, high, low, close, volume.
        features: Columns by field, and ``time``.
        prints: Largest aggregate trades: time, price, quantity, buy (1 or 0).
        gaps: Rows of the gaps table.
        fills: Paper fills. closed: Paper trades.
    """

    instrument: str
    bucket_ms: int
    trade_time: Array
    trade_price: Array
    trade_cvd: Array
    timeframe: str
    bars: dict[str, Array]
    features: dict[str, Array]
    scores: list[Scores]
    prints: dict[str, Array]
    gaps: list[Row] = field(default_factory=list)
    fills: list[Row] = field(default_factory=list)
    closed: list[Row] = field(default_factory=list)


# Inputs of a decision to draw.
FEATURES = ("price", "cvd_30m", "cvd_4h", "vwap_30m", "obi", "mark_price", "index_price", "estimated_funding_rate", "whale_flow", "atr")
