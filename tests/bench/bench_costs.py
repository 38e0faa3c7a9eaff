"""What an event costs the engine, by window length, number of events, instruments and strategies. Run: ``perpflow bench --only costs``.

The cores alone, in this process on one core, fed with raw record batches as Kafka delivers them; times are CPU seconds, contestants take turns and the
least time of each counts, because what else the machine does can only add. Every run's features are held to the trades before its time counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from schemas.settings import Settings
from stream_apps.core.log.outputs import OutputRecord
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.market.windows import WINDOWS
from stream_apps.core.signals.engine import SignalsEngine
from stream_apps.engines import SIGNALS
from tests.bench.engine_log import EngineLog
from tests.bench.rows import Figure, Row
from tests.bench.running import Run
from tests.bench.worker_workload import Workload

# Contestants may differ by so much: 10 % (issue: constant in window length within 10 %).
CONSTANT = 0.9
DAY_MINUTES = 1440


class Features:
    """Takes outputs and holds the CVD of every window to the trades."""

    def __init__(self, workload: Workload, lengths: list[int]) -> None:
        self.seen = 0
        self._workload, self._lengths = workload, lengths
        self._decode = workload.settings.codec.decode
        self._sums = {i.name: np.concatenate([[0], np.cumsum(workload.panes_of(i))]) for i in workload.instruments}
        self._first = {i.name: -(-int(i.times[0]) // workload.grid) - workload.first_pane for i in workload.instruments}

    def take(self, output: OutputRecord) -> None:
        """Check a record of features.

        Raises:
            AssertionError: a window's CVD is not what the trades say.
        """
        if output.topic != "features" or output.value is None:
            return
        record = self._decode("features", output.value)
        name, pane = record["instrument"], record["event_time"] // self._workload.grid - self._workload.first_pane
        for window, length in zip(WINDOWS, self._lengths, strict=True):
            known = pane - self._first[name] + 1 >= length
            expected = (self._sums[name][pane + 1] - self._sums[name][pane + 1 - length]) / 1000 if known else None
            assert record[f"cvd_{window}"] == expected, f"{name} pane {pane}: cvd_{window} is {record[f'cvd_{window}']}, not {expected}"
        self.seen += 1


class Contestant:
    """One way of working a log off.

    Args:
        log: The log.
        config: Numbers of the engine.
        panes: Length of every window; None: the windows as they are.
    """

    def __init__(self, log: EngineLog, config: EngineConfig, panes: int | None = None) -> None:
        self._log, self._config, self._panes = log, config, panes
        self.least = float("inf")

    def _prepare(self, engine: SignalsEngine) -> None:
        if self._panes is not None:
            engine.state.window_panes[:] = self._panes

    def check(self) -> int:
        """Hold the features to the trades; return their number."""
        lengths = EngineLengths.of(self._config) if self._panes is None else [self._panes] * len(WINDOWS)
        features = Features(self._log.workload, lengths)
        self._log.drive(self._config, self._prepare, features.take)
        assert features.seen, "no features at all"
        return features.seen

    def run(self) -> None:
        """Measure once."""
        self.least = min(self.least, self._log.drive(self._config, self._prepare)[0])

    @property
    def rate(self) -> float:
        """Trades a CPU second."""
        return self._log.workload.trades / self.least


class EngineLengths:
    """Window lengths in panes."""

    @staticmethod
    def of(config: EngineConfig) -> list[int]:
        """Return them in the order of WINDOWS."""
        panes: list[int] = SignalsEngine(0, config, Settings().codec).state.window_panes.tolist()
        return panes


def turns(contestants: dict[str, Contestant], rounds: int) -> dict[str, Figure]:
    """Check all, measure them in turns, and return trades a CPU second of each."""
    seen = {name: one.check() for name, one in contestants.items()}
    for number in range(rounds):
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            contestants[name].run()
    return {name: Figure(round(one.rate), repetitions=rounds, detail={"features": seen[name]}) for name, one in contestants.items()}


def row(name: str, ours: str, figures: dict[str, Figure], bars: dict[str, float], note: str) -> Row:
    """Return the row in which one contestant stands beside the others."""
    peers = {peer: figure for peer, figure in figures.items() if peer != ours}
    return Row(f"costs: {name}", "trades/CPU s", figures[ours], peers, bars=bars, note=f"ours is {ours}; {note}")


def rows(run: Run) -> Iterator[Row]:
    """Yield a row a dimension."""
    settings, config = run.settings, SIGNALS.config(run.settings)
    scale, rounds = (1, 2) if run.quick else (4, 7)
    with run.cores.ours():
        yield from measured(settings, config, 60_000 * scale, 96 * scale, rounds)


def measured(
    settings: Settings, config: EngineConfig, trades: int, panes: int, rounds: int, minutes: int = 2 * DAY_MINUTES, most: int = 600
) -> Iterator[Row]:
    """Yield the rows; ``trades`` of twenty instruments over ``panes`` grid steps are the middle of all that is measured.

    Args:
        settings, config: Of the engines.
        trades, panes: The middle.
        rounds: How often each is measured.
        minutes: Span of the log in which windows differ.
        most: The larger number of instruments.
    """
    middle = EngineLog(Workload(trades, panes, settings))
    # On a grid of a minute two days are few enough steps; a window of a day is known for the second one.
    coarse = settings.model_copy(update={"grid_ms": 60_000})
    by_minutes, two_days = SIGNALS.config(coarse), EngineLog(Workload(trades, minutes, coarse, 4))
    lengths = {"windows of 24 h": DAY_MINUTES, "windows of 5 m": 5}
    found = turns({name: Contestant(two_days, by_minutes, length) for name, length in lengths.items()}, rounds)
    note = "all six windows have this length; 0.90 is the bar: within 10 %; two days on a grid of a minute"
    yield row("window length", "windows of 24 h", found, {"windows of 5 m": CONSTANT}, note)

    quarter = EngineLog(Workload(trades // 4, panes // 4, settings))
    found = turns({f"{trades:,} trades": Contestant(middle, config), f"{trades // 4:,} trades": Contestant(quarter, config)}, rounds)
    yield row("events", f"{trades:,} trades", found, {f"{trades // 4:,} trades": CONSTANT}, "the same density; linear: as many a second")

    # As many trades and as many instants of instruments: thirty times the instruments over a thirtieth of the time.
    many = EngineLog(Workload(trades, max(4, panes // 30), settings, 600))
    found = turns({"600 instruments": Contestant(many, config), "20 instruments": Contestant(middle, config)}, rounds)
    yield row(
        "instruments", "600 instruments", found, {"20 instruments": 1.0}, "as many trades and instants; more in a partition share a call"
    )

    several = {f"{each} strategies": Contestant(EngineLog(middle.workload, each), config) for each in (1, 4, 16)}
    found = turns({"no strategy": Contestant(middle, config), **several}, rounds)
    cost = {name: 1e6 / (figure.value or 1.0) for name, figure in found.items()}
    one, more = cost["1 strategies"] - cost["no strategy"], (cost["16 strategies"] - cost["1 strategies"]) / 15
    note = f"an instrument; the first costs {one:.2f} us a trade, each further one {more:.2f}: what they share is read once"
    yield row("strategies", "1 strategies", found, {}, note)
