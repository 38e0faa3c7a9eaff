"""Markets made up by seed: taker flow that keeps its side for a while, and a price that follows it (an edge) or does not (none)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from schemas.codec.avro import Codec
from stream_apps.core.log.engine import PartitionEngine
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.paper.position import FeeRates, PaperSettings
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.replay.run import drive
from stream_apps.replay.sources.source import AUTHOR, Entry, Piece, SynthesisedLog
from stream_apps.research.closed import ClosedTrades
from stream_apps.research.splits import Interval

CODEC = Codec()
NAME = "BINANCE:LTCUSDT-PERP"
MINUTE = 60_000
BEGIN = 1_760_000_400_000 // (1440 * MINUTE) * (1440 * MINUTE)
GRID = MINUTE
FREE = PaperSettings(latency_ms=0, slippage_bps=0.0, fees=FeeRates(taker=0.0, maker=0.0))

# Of every strategy that is tried: trades alone, so the gates and layers without inputs are off.
PARENT = StrategyConfig(
    strategy_id="made",
    instrument=NAME,
    display_name="made",
    cvd_fast_window="15m",
    cvd_slow_window="1h",
    weight_direction=80,
    weight_env=5,
    weight_aux=0,
    weight_momentum=15,
    entry_score=70.0,
    flip_threshold=80.0,
    gate_vol_enabled=False,
    gate_whale_enabled=False,
    gate_obi_enabled=False,
    gate_spot_perp_enabled=False,
    sl_atr_multiplier=2.0,
    tp1_ratio=1.0,
    tp2_ratio=2.0,
    timeout_minutes=120,
)


@dataclass
class MadeMarket:
    """A source of made-up trades.

    Attributes:
        seed: Of everything random.
        hours: Length.
        edge: Price drift a minute in the direction of the flow, in standard deviations of a minute's return; 0: none.
        each: Trades a minute. keep: Mean length of the flow's side, minutes.
    """

    seed: int
    hours: int = 48
    edge: float = 0.0
    each: int = 6
    keep: float = 90.0
    _pieces: list[Piece] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[int, list[tuple[int, float, float, bool]]]]:
        """Yield minute by minute (end of the minute, its trades (time, price, quantity, buyer is maker))."""
        source = np.random.default_rng(self.seed)
        minutes = self.hours * 60
        side = np.where(np.cumsum(source.random(minutes) < 1 / self.keep) % 2, 1, -1) * source.choice((-1, 1))
        # The drift follows a minute late: who acts on the flow of the past earns it.
        drift = np.concatenate([[0], side[:-1]]) * self.edge
        step = 8e-4
        returns = step * (source.standard_normal((minutes, self.each)) / np.sqrt(self.each) + drift[:, None] / self.each)
        prices = 100.0 * np.exp(np.cumsum(returns.ravel())).reshape(minutes, self.each)
        buys = source.random((minutes, self.each)) < 0.5 + 0.3 * side[:, None]
        sizes = np.round(np.exp(source.normal(0, 1, (minutes, self.each))) + 0.01, 3)
        for minute in range(minutes):
            at = BEGIN + minute * MINUTE
            gap = MINUTE // self.each
            yield (
                at + MINUTE,
                [
                    (at + 1 + place * gap, round(float(prices[minute, place]), 4), float(sizes[minute, place]), not buys[minute, place])
                    for place in range(self.each)
                ],
            )

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        """Yield the log of an importer of these trades."""
        if not self._pieces:
            self._pieces = list(self._log())
        yield from self._pieces

    def _log(self) -> Iterator[Piece]:
        log = SynthesisedLog(CODEC, "BINANCE", (0,))
        contract: dict[str, Any] = {
            "instrument": NAME, "event_time": BEGIN, "author": AUTHOR, "venue": "BINANCE", "symbol": "LTCUSDT", "base_asset": "LTC",
            "quote_asset": "USDT", "kind": "perp", "status": "trading", "tick_size": 1e-4, "step_size": 1e-3, "min_notional": None, "price_decimals": 4,
            "quantity_decimals": 3, "funding_interval_hours": None, "recorded": True,
        }  # fmt: skip
        yield from log.step(None, [Entry(0, "instruments", contract)])
        ids = 0
        for end, trades in self.rows():
            entries = []
            for time, price, quantity, maker in trades:
                ids += 1
                entries.append(Entry(0, "agg_trades", {
                    "instrument": NAME, "event_time": time, "agg_id": ids, "first_trade_id": ids, "last_trade_id": ids, "price": price,
                    "quantity": quantity, "buyer_is_maker": maker, "backfilled": False,
                }))  # fmt: skip
            yield from log.step(end + 250, entries)
        yield from log.flush()

    @property
    def period(self) -> Interval:
        """All of it."""
        return Interval(BEGIN, BEGIN + self.hours * 60 * MINUTE)


class Engine:
    """The cores over one made market, as ``search`` wants them. What a strategy did is kept: a point that another fold tries too is not run again.

    Args:
        market: The source.
        paper: Costs.
        whole: Run a strategy once over everything and take the trades of a stretch out of that; else every stretch is run by itself, to its end.
    """

    def __init__(self, market: Any, paper: PaperSettings = FREE, whole: bool = True) -> None:
        self.market = market
        self.paper = paper
        self.whole = whole
        self.asked: list[tuple[Interval, bool]] = []
        self._done: dict[str, list[dict[str, Any]]] = {}

    def __call__(self, strategies: Sequence[StrategyConfig], within: Interval, run_out: bool = False) -> list[list[dict[str, Any]]]:
        self.asked.append((within, run_out))
        if not self.whole:
            begun = [replace(one, effective_time=within.begin) for one in strategies]
            return self._run(begun, Cut(self.market, within.end + (400 * MINUTE if run_out else 0))).of(begun, within, run_out)
        named = {one.strategy_id: repr({**one.to_record(), "strategy_id": ""}) for one in strategies}
        fresh = {key: one for one in strategies if (key := named[one.strategy_id]) not in self._done}
        if fresh:
            taken = self._run(list(fresh.values()), self.market)
            for key, trades in zip(fresh, taken.of(list(fresh.values()), Interval(0, 2**62), True), strict=True):
                self._done[key] = trades
        return [
            [
                row
                for row in self._done[named[one.strategy_id]]
                if within.begin <= row["entry_time"] < within.end and (run_out or row["event_time"] < within.end)
            ]
            for one in strategies
        ]

    def _run(self, strategies: list[StrategyConfig], source: Any) -> ClosedTrades:
        taken = ClosedTrades(CODEC)
        drive(
            source,
            EngineConfig(grid_ms=GRID, quantile_history_ms=0),
            CODEC,
            taken.take,
            paper=self.paper,
            strategies={0: strategies},
            on_piece=taken.on_piece,
        )
        return taken


@dataclass
class Cut:
    """A source without the pieces' records after a time: what is not there cannot be looked at."""

    source: Any
    end: int

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        for piece in self.source.pieces(engine_of):
            records = piece.records.rows(0, len(piece.records))
            keep = int(np.searchsorted(records.timestamps, self.end, "right"))
            if keep:
                yield piece._replace(records=piece.records.rows(0, keep))
            if keep < len(piece.records) and piece.topic == "progress":
                return
