"""The results that a replay keeps while it runs: lists of rare records, thinned series and counts of the rest.

Memory does not grow with the trades.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

from schemas.catalogue import RESULT_TOPICS
from schemas.codec.avro import Codec
from stream_apps.replay.data_gaps import TradeGaps
from stream_apps.replay.run import Result
from stream_apps.replay.sources.source import Piece

Record = dict[str, Any]
# A series keeps at least this many points and at most twice as many.
POINTS = 4_000
TIMEFRAMES = ("1m", "5m", "15m", "1h", "4h", "1d")
# Maximum number of bars kept of a timeframe. Beyond it a longer timeframe is drawn.
MOST_BARS = 800
SILENCE_MS = 300_000
# Width in points of a step in the counts of scores.
SCORE_STEP = 5
DECODED = frozenset({"features", "bars", "scores", "signals", "trades_closed", "fills", "orders", "dead_letters"})


@dataclass
class ThinnedSeries:
    """Rows of a series. When there are too many, every other one is dropped. The newest is always kept."""

    rows: list[Sequence[float]] = field(default_factory=list)
    last: Sequence[float] | None = None
    _stride: int = 1
    _seen: int = 0

    def add(self, row: Sequence[float]) -> None:
        """Add the next row."""
        self.last = row
        if self._seen % self._stride == 0:
            self.rows.append(row)
            if len(self.rows) > 2 * POINTS:
                self.rows = self.rows[::2]
                self._stride *= 2
        self._seen += 1

    def all(self) -> list[Sequence[float]]:
        """Return the rows, including the newest."""
        return [*self.rows, self.last] if self.last is not None and self.rows[-1] is not self.last else self.rows


@dataclass
class InstrumentResults:
    """Results of one instrument.

    Attributes:
        features: (time, one value of each of the collector's feature names). NaN: undefined.
        bars: Timeframe -> (end, open, high, low, close, volume). A timeframe with too many bars is omitted.
        flow: (end of a 1m bar with trades, close, running CVD).
        instants: Number of evaluated instants. first, last: their times, ms UTC.
        missing, stale: Input -> number of instants without a value, and of these the number with a stale value.
        late: Number of late trades.
        silences: Stretches of instants without a trade, at least ``SILENCE_MS`` long.
        trades: Number of aggregate trades in closed panes.
    """

    features: ThinnedSeries = field(default_factory=ThinnedSeries)
    bars: dict[str, list[Sequence[float]]] = field(default_factory=lambda: {name: [] for name in TIMEFRAMES})
    flow: ThinnedSeries = field(default_factory=ThinnedSeries)
    instants: int = 0
    first: int | None = None
    last: int | None = None
    missing: Counter[str] = field(default_factory=Counter)
    stale: Counter[str] = field(default_factory=Counter)
    late: int = 0
    silences: list[tuple[int, int]] = field(default_factory=list)
    trades: int = 0
    cvd: float = 0.0
    quiet_since: int | None = None


@dataclass
class StrategyResults:
    """Evaluations of one strategy: one entry of each array per evaluation.

    Attributes:
        times: ms UTC. scores: Points after gates. states: Index into ``Collector.states``. sides: 1 LONG, -1 SHORT, 0 none.
        places: Index into ``instruments``, which the strategy traded, in order of their first evaluation.
        ungated: Floor of the points before gates / ``SCORE_STEP`` -> number of warm evaluations, by the judged side.
        passed: The same for those that passed all gates.
    """

    times: array[int] = field(default_factory=lambda: array("q"))
    scores: array[float] = field(default_factory=lambda: array("d"))
    states: array[int] = field(default_factory=lambda: array("b"))
    sides: array[int] = field(default_factory=lambda: array("b"))
    places: array[int] = field(default_factory=lambda: array("b"))
    instruments: list[str] = field(default_factory=list)
    ungated: Counter[tuple[str, int]] = field(default_factory=Counter)
    passed: Counter[tuple[str, int]] = field(default_factory=Counter)
    regimes: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)

    def on(self, instrument: str) -> StrategyResults:
        """Return the arrays of the evaluations on one instrument."""
        if self.instruments == [instrument]:
            return self
        chosen = [name == instrument for name in map(self.instruments.__getitem__, self.places)]
        times, states, sides, places = (
            array(row.typecode, compress(row, chosen)) for row in (self.times, self.states, self.sides, self.places)
        )
        return StrategyResults(times, array("d", compress(self.scores, chosen)), states, sides, places, self.instruments)


class Collector:
    """Collects the results of a run.

    Args:
        codec: Codec of the environment.
        instruments: Instruments to keep. None: all.
        since, until: Only results of this period are kept, ms UTC, both inclusive. None: no limit.
        features: Names of features to keep as series.
    """

    def __init__(
        self, codec: Codec, instruments: Iterable[str] | None, since: int | None, until: int | None, features: tuple[str, ...]
    ) -> None:
        self.markets: dict[str, InstrumentResults] = {}
        self.strategies: dict[str, StrategyResults] = {}
        self.states: list[str] = []
        self.signals: list[Record] = []
        self.trades: list[Record] = []
        self.fills: list[Record] = []
        self.refused: Counter[str] = Counter()
        self.dead_letters: Counter[tuple[str, str | None, str]] = Counter()
        self.trade_gaps = TradeGaps()
        self.inputs: Counter[str] = Counter()
        self.outputs: Counter[str] = Counter()
        self.feature_names = features
        self._codec = codec
        self._instruments = None if instruments is None else frozenset(instruments)
        self._since = -(2**62) if since is None else since
        self._until = 2**62 if until is None else until
        self._hashes: dict[tuple[str, int, str], Any] = {}
        self._notional: dict[str, list[float]] = {}

    # --- what comes ----------------------------------------------------------------------------------------------------

    def on_piece(self, piece: Piece) -> None:
        """Count a piece of the input and keep its gaps."""
        self.inputs[piece.topic] += len(piece.records)
        if piece.topic == "gaps":
            for row in range(len(piece.records)):
                gap = self._codec.decode("gaps", piece.records.value(row))
                if self._wanted(gap["instrument"]):
                    self.trade_gaps.add(gap)
        elif piece.topic == "dead_letters":
            for row in range(len(piece.records)):
                self._letter(self._codec.decode("dead_letters", piece.records.value(row)))

    def take(self, partition: int, result: Result) -> None:
        """Take a result."""
        topic = result.topic
        if topic not in DECODED:
            return
        record = self._codec.decode(topic, result.value)
        if topic == "dead_letters":
            self._letter(record)
            return
        if not (self._wanted(record["instrument"]) and self._since <= record["event_time"] <= self._until):
            return
        self.outputs[topic] += 1
        if topic in RESULT_TOPICS:
            whose = record["instrument"] if topic == "features" else record["strategy_id"]
            digest = self._hashes.get((topic, partition, whose))
            if digest is None:
                digest = self._hashes[topic, partition, whose] = hashlib.sha256()
            digest.update(len(result.value).to_bytes(4, "big"))
            digest.update(result.value)
        getattr(self, f"_{topic}")(record)

    def hashes(self) -> dict[str, str]:
        """Return topic -> sha256 over the sha256 of each strategy's records (for features: each instrument's), in order, each with its length."""
        found = {}
        for topic in RESULT_TOPICS:
            whole = hashlib.sha256()
            for (name, partition, whose), digest in sorted(self._hashes.items()):
                if name == topic:
                    whole.update(partition.to_bytes(4, "big") + whose.encode() + b"\0" + _digest(digest))
            found[topic] = whole.hexdigest()
        return found

    # --- parts of a run --------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return the data that another process needs to merge it. The codec is left out, and hashes are final."""
        kept = {name: value for name, value in vars(self).items() if name != "_codec"}
        return {**kept, "_hashes": {place: _digest(digest) for place, digest in self._hashes.items()}}

    def merge(self, other: Collector, market: bool = True) -> None:
        """Add the results of another collector: other strategies, or other partitions.

        Args:
            other: Collector of another part of the same run.
            market: Add its inputs, features and bars too. False if they are here already.
        """
        self.strategies.update({name: _renumbered(seen, other.states, self.states) for name, seen in other.strategies.items()})
        for mine, theirs in ((self.signals, other.signals), (self.trades, other.trades), (self.fills, other.fills)):
            mine.extend(theirs)
        self._notional.update(other._notional)
        self.refused.update(other.refused)
        shared = {"features", "bars"}
        self.outputs.update({topic: count for topic, count in other.outputs.items() if market or topic not in shared})
        self._hashes.update({place: digest for place, digest in other._hashes.items() if market or place[0] not in shared})
        if market:
            self.markets.update(other.markets)
            self.inputs.update(other.inputs)
            self.dead_letters.update(other.dead_letters)
            for gap in other.trade_gaps.gaps:
                self.trade_gaps.add(gap)

    def settle(self) -> None:
        """Sort everything, so that the result does not depend on how the run was split."""
        names = sorted(self.states)
        self.strategies = {name: _renumbered(self.strategies[name], self.states, names) for name in sorted(self.strategies)}
        self.states = names
        self.signals.sort(key=lambda row: (row["event_time"], row["signal_id"]))
        self.fills.sort(key=lambda row: (row["event_time"], row["fill_id"]))
        self.refused = Counter(dict(sorted(self.refused.items())))
        self.dead_letters = Counter(dict(sorted(self.dead_letters.items(), key=lambda item: tuple(map(str, item[0])))))

    def closed_trades(self) -> list[Record]:
        """Return the closed trades in order of exit, with the notional of their fills."""
        out = []
        for trade in sorted(self.trades, key=lambda row: (row["event_time"], row["trade_id"])):
            made, total = self._notional.get(trade["trade_id"], (None, None))
            out.append({**trade, "maker_notional": made, "notional": total})
        return out

    def _letter(self, record: Record) -> None:
        self.dead_letters[record["source"], record["field"], record["reason"][:200]] += 1

    # --- by topic ------------------------------------------------------------------------------------------------------

    def _wanted(self, instrument: str) -> bool:
        return self._instruments is None or instrument in self._instruments

    def _market(self, instrument: str) -> InstrumentResults:
        return self.markets.setdefault(instrument, InstrumentResults())

    def _features(self, record: Record) -> None:
        market, time = self._market(record["instrument"]), record["event_time"]
        market.instants += 1
        market.first = time if market.first is None else market.first
        market.last = time
        market.missing.update(record["missing_inputs"])
        market.stale.update(record["stale_inputs"])
        # Stale inputs have no value either.
        market.missing.update(record["stale_inputs"])
        market.late = record["late_trades"]
        market.trades += record["pane_trades"]
        if record["pane_trades"]:
            if market.quiet_since is not None and time - market.quiet_since >= SILENCE_MS:
                market.silences.append((market.quiet_since, time))
            market.quiet_since = time
        row = [float("nan") if record[name] is None else record[name] for name in self.feature_names]
        market.features.add((time, *row))

    def _bars(self, record: Record) -> None:
        market = self._market(record["instrument"])
        kept = market.bars.get(record["timeframe"])
        values = tuple(record[name] for name in ("event_time", "open", "high", "low", "close", "volume"))
        if kept is not None:
            kept.append(values)
            if len(kept) > MOST_BARS and record["timeframe"] != TIMEFRAMES[-1]:
                del market.bars[record["timeframe"]]
        if record["timeframe"] == "1m":
            market.cvd += record["cvd"]
            if record["volume"] > 0:
                market.flow.add((record["event_time"], record["close"], market.cvd))

    def _scores(self, record: Record) -> None:
        seen = self.strategies.setdefault(record["strategy_id"], StrategyResults())
        state = state_of(record)
        if state not in self.states:
            self.states.append(state)
        if record["instrument"] not in seen.instruments:
            seen.instruments.append(record["instrument"])
        seen.places.append(seen.instruments.index(record["instrument"]))
        seen.times.append(record["event_time"])
        seen.scores.append(record["score"])
        seen.states.append(self.states.index(state))
        seen.sides.append({"LONG": 1, "SHORT": -1}.get(record["direction"], 0))
        seen.regimes[record["regime"]] += 1
        seen.missing.update(record["missing_inputs"])
        if record["warm"]:
            place = (record["lean"], int(record["ungated_score"] // SCORE_STEP))
            seen.ungated[place] += 1
            if record["gate_passed"]:
                seen.passed[place] += 1

    def _signals(self, record: Record) -> None:
        self.signals.append(record)

    def _trades_closed(self, record: Record) -> None:
        self.trades.append(record)

    def _fills(self, record: Record) -> None:
        self.fills.append(record)
        notional = self._notional.setdefault(record["position_id"], [0.0, 0.0])
        value = record["price"] * record["quantity"]
        notional[0] += value if record["liquidity"] == "maker" else 0.0
        notional[1] += value

    def _orders(self, record: Record) -> None:
        if record["status"] in ("rejected", "cancelled") and record["leg"] == "entry":
            self.refused[record["reason"] or record["status"]] += 1


def _digest(digest: Any) -> bytes:
    return digest if isinstance(digest, bytes) else bytes(digest.digest())


def _renumbered(seen: StrategyResults, before: Sequence[str], after: list[str]) -> StrategyResults:
    """Return a strategy's evaluations. Their states are indices into ``after``, which is extended by new names."""
    after.extend(name for name in before if name not in after)
    places = [after.index(name) for name in before]
    return replace(seen, states=array("b", (places[state] for state in seen.states)))


def state_of(score: Record) -> str:
    """Return the outcome of an evaluation: ``not warm``, the kind of the block, ``signal``, ``flip signal``, ``cooldown``, ``below entry``, ``no signal``."""
    if not score["warm"]:
        return "not warm"
    if score["gate_block"] is not None:
        return str(score["gate_block"]).partition("(")[0]
    if score["signalled"]:
        return "flip signal" if score["cooldown"] else "signal"
    if score["cooldown"]:
        return "cooldown"
    return "below entry" if score["tier"] is None else "no signal"
