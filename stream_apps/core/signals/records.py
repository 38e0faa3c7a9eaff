"""Records of features and bars, encoded for many instants at once."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.codec.avro import Codec
from schemas.codec.recordwriter import text_bytes
from schemas.codec.rowwriter import RowWriter, texts_bytes
from stream_apps.core.log.outputs import OutputRecord, records_of
from stream_apps.core.log.steps import DECIDED, PANE
from stream_apps.core.market import columns as col
from stream_apps.core.market.config import TIMEFRAMES
from stream_apps.core.market.state import FEATURES, INPUTS, MarketState
from stream_apps.core.signals.instant_kernel import BARS, ROWS, InstantOutputs

I64 = npt.NDArray[np.int64]

# Numeric fields of a features record that are not in FEATURES. The instrument precedes them; the names of missing and stale inputs follow.
_FEATURE_LONGS = ("event_time", "receive_time", "large_buys", "large_sells", "pane_trades", "late_trades")
# Fields of a bars record that are neither the instrument nor a number.
_BAR_FRAMES = [text_bytes(frame) for frame in TIMEFRAMES]
_BAR_SOURCE = text_bytes("trades")

Name = tuple[bytes, bytes, bytes]  # an instrument's key, and the first bytes of its features and of its bars


class MarketRecords:
    """Encodes records of features and bars.

    Args:
        state: The market state; its names and scales.
        codec: Codec of the environment.
        grid_ms: Length of a pane.
    """

    def __init__(self, state: MarketState, codec: Codec, grid_ms: int) -> None:
        self._state, self._codec, self._grid = state, codec, grid_ms
        self._write_features = RowWriter("features", _FEATURE_LONGS, FEATURES)
        self._write_bar_times = RowWriter("bars", ("event_time", "receive_time"), ())
        self._write_bar_numbers = RowWriter("bars", ("trades",), ("open", "high", "low", "close", "volume", "cvd"))
        self._feature_head = codec.header("features")
        self._bar_head = codec.header("bars")
        self._encode_bar = codec.encoder("bars")
        self._heads: list[Name] = []  # by row of the state
        self._absences: dict[bytes, bytes] = {}  # states of the inputs -> the two lists of names at the end of a features record

    def named(self, instruments: I64) -> list[Name]:
        """Return the name of each row's instrument."""
        known = self._heads
        for name in self._state.names[len(known) :]:
            known.append((name.encode(), self._feature_head + text_bytes(name), self._bar_head + text_bytes(name)))
        return [known[i] for i in instruments.tolist()]

    def features(self, table: I64, found: InstantOutputs, named: list[Name]) -> list[OutputRecord]:
        """Return the feature rows of instants as records. ``table``: the steps. ``named``: the instruments of the rows."""
        n, rows = len(named), np.diff(found.ends[: len(table), ROWS], prepend=0)
        longs = np.empty((n, len(_FEATURE_LONGS)), dtype=np.int64)
        times = np.repeat(table[:, PANE] * self._grid, rows)
        longs[:, 0], longs[:, 1] = times, np.repeat(table[:, DECIDED], rows)
        longs[:, 2:4], longs[:, 4:6] = found.prints[:n], found.counts[:n]
        values = self._write_features.write(longs, found.features[:n])
        heads, absent = [head for _, head, _ in named], self._absent(found.states[:n])
        return records_of("features", [key for key, _, _ in named], map(b"".join, zip(heads, values, absent, strict=True)), times)

    def _absent(self, states: npt.NDArray[np.int8]) -> list[bytes]:
        """Return, for each row, the names of missing and of stale inputs.

        They are cached by the pattern of states, because patterns are few.
        """
        known, width, text = self._absences, states.shape[1], states.tobytes()
        found = []
        for at in range(0, len(text), width):
            pattern = text[at : at + width]
            absent = known.get(pattern)
            if absent is None:
                missing = [n for n, s in zip(INPUTS, pattern, strict=True) if s == col.MISSING]
                stale = [n for n, s in zip(INPUTS, pattern, strict=True) if s == col.STALE]
                absent = known[pattern] = texts_bytes(missing) + texts_bytes(stale)
            found.append(absent)
        return found

    def bars(self, table: I64, found: InstantOutputs, n: int) -> list[OutputRecord]:
        """Return the ``n`` bars that the instants closed, as records."""
        if not n:
            return []
        closed = found.bars[:n]
        decided_at = np.repeat(table[:, DECIDED], np.diff(found.ends[: len(table), BARS], prepend=0))
        instruments, times = closed[:, 0], closed[:, 2] * self._grid
        scale, numbers = self._state.a["scale"][instruments], np.empty((n, 6))
        numbers[:, :4], numbers[:, 4:] = closed[:, 3:7] / scale[:, :1], closed[:, 7:9] / scale[:, 1:]
        stamps = self._write_bar_times.write(np.stack([times, decided_at], axis=1), np.empty((n, 0)))
        middles = self._write_bar_numbers.write(closed[:, 9:].copy(), numbers)
        return [
            OutputRecord("bars", key, head + stamp + _BAR_FRAMES[frame] + middle + _BAR_SOURCE, time)
            for (key, _, head), frame, time, stamp, middle in zip(
                self.named(instruments), closed[:, 1].tolist(), times.tolist(), stamps, middles, strict=True
            )
        ]

    def venue_bar(self, kline: dict[str, Any], decided_at: int) -> OutputRecord | None:
        """Return a venue's bar as a record of ``bars``. None if it lacks the taker volume or the number of trades, which a bar needs."""
        if kline["taker_buy_volume"] is None or kline["trades"] is None:
            return None
        same = ("instrument", "event_time", "timeframe", "open", "high", "low", "close", "volume", "trades")
        cvd = float(2 * Decimal(repr(kline["taker_buy_volume"])) - Decimal(repr(kline["volume"])))
        bar = {**{name: kline[name] for name in same}, "receive_time": decided_at, "cvd": cvd, "source": "venue"}
        return OutputRecord("bars", bar["instrument"].encode(), self._encode_bar(bar), bar["event_time"])
