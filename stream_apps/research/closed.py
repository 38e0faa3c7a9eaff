"""The results that research keeps of a replay: the closed trades of each strategy, without those that rest on a data gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.codec.avro import Codec
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.replay.data_gaps import TradeGaps, marked
from stream_apps.replay.run import Result
from stream_apps.replay.sources.source import Piece
from stream_apps.research.splits import Interval


class ClosedTrades:
    """Collects the results of a run. It decodes only closed trades and gaps, so hundreds of strategies cost little."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._gaps = TradeGaps()
        self._trades: list[dict[str, Any]] = []

    def on_piece(self, piece: Piece) -> None:
        """Keep the gaps of a piece of the input."""
        if piece.topic == "gaps":
            for row in range(len(piece.records)):
                self._gaps.add(self._codec.decode("gaps", piece.records.value(row)))

    def take(self, partition: int, result: Result) -> None:
        """Take a result."""
        if result.topic == "trades_closed":
            self._trades.append(self._codec.decode(result.topic, result.value))

    def of(self, strategies: Sequence[StrategyConfig], within: Interval, run_out: bool) -> list[list[dict[str, Any]]]:
        """Return each strategy's trades entered and closed within an interval (or closed later, with ``run_out``), in order of their exits."""
        windows = {one.strategy_id: (one.cvd_fast_window, one.cvd_slow_window) for one in strategies}
        found: dict[str, list[dict[str, Any]]] = {one.strategy_id: [] for one in strategies}
        for trade in marked(self._trades, windows.__getitem__, self._gaps.found()):
            inside = within.begin <= trade["entry_time"] < within.end and (run_out or trade["event_time"] < within.end)
            if inside and trade["void"] is None:
                found[trade["strategy_id"]].append(trade)
        return [sorted(trades, key=lambda row: (row["event_time"], row["trade_id"])) for trades in found.values()]
