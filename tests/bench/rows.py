"""What a benchmark gives: rows of figures, ours beside its peers', and the list of all benchmarks.

A benchmark is a module of this folder with ``rows(run)``, a generator of ``Row``; its line in ``BENCHES`` gives it a name for ``perpflow bench --only``.
It runs as a process of its own against a broker and a database that ``run.py`` has started, in topics and a database of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

OURS = "ours"


@dataclass(frozen=True)
class Bench:
    """One benchmark.

    Attributes:
        module: Module of this folder.
        quick_s: Seconds that its ``--quick`` form takes on an idle machine of two cores; all in ``--quick`` together must stay below five minutes.
        about: What it measures.
        in_quick: Part of ``--quick`` when no names are given: what takes long for how little its short form says is not.
    """

    module: str
    quick_s: int
    about: str
    in_quick: bool = True


BENCHES: dict[str, Bench] = {
    "worker": Bench("bench_worker", 130, "trades to features with durable state on one core, beside other stream processors"),
    "replay": Bench("bench_replay", 45, "backtest from Kafka and from the archive, through scoring and paper execution"),
    "producer": Bench("bench_producer", 26, "websocket frames to acknowledged records"),
    "sink": Bench("bench_timescale_sink", 26, "topics to tables, beside raw binary COPY of the same rows"),
    "latency": Bench("bench_signals", 30, "a venue's frame to the decision in Kafka"),
    "scoring": Bench("bench_scoring", 12, "evaluations by number of strategies"),
    "costs": Bench("bench_costs", 20, "what a trade costs by window length, number of trades, instruments and strategies", in_quick=False),
    "console": Bench(
        "bench_console", 90, "the console's API at 200 requests a second, its pages, a year of minutes, memory", in_quick=False
    ),
    "console-live": Bench(
        "bench_console_live", 45, "CPU of the live stream with 100 clients at 25,000 market messages a second", in_quick=False
    ),
    "scaling": Bench("bench_scaling", 75, "two workers on two cores beside one, and what the broker takes", in_quick=False),
    "state": Bench("bench_state", 17, "recovery of 24 h of state after kill -9, and memory of 600 instruments with 24 h windows"),
    "sizes": Bench(
        "bench_table_sizes", 10, "bytes of a row in each table, rows a day, and the chunks that follow by deployment", in_quick=False
    ),
}


@dataclass(frozen=True)
class Figure:
    """What one contestant did.

    Attributes:
        value: Median of the repetitions, in the row's unit; None: it did not run, or its sums were wrong.
        low, high: Least and greatest of the repetitions.
        repetitions: How often it was measured.
        durable: What of its state and results survives a kill -9 at that speed; "" where nothing is stateful.
        reason: Why there is no value.
        detail: More of it, such as trades and CPU seconds.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    repetitions: int = 1
    durable: str = ""
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(values: Sequence[float], durable: str = "", **detail: Any) -> Figure:
        """Make a figure of repetitions."""
        return Figure(statistics.median(values), min(values), max(values), len(values), durable, None, detail)

    @staticmethod
    def none(reason: str, durable: str = "") -> Figure:
        """Make the figure of a contestant that could not be measured."""
        return Figure(None, repetitions=0, durable=durable, reason=reason)


@dataclass(frozen=True)
class Row:
    """One line of the result: the same work, done by us and by others, in one run.

    Attributes:
        name: What was done.
        unit: Of all values.
        ours: Our figure.
        peers: Name -> figure of the others.
        more_is_better: False for times and sizes.
        bars: ``ours`` -> the value that ours must reach; a peer's name -> how many times better than it ours must be.
        size: What was worked off: trades, instruments, hours.
        versions: Of the software that took part, beyond our own environment's.
        note: What a reader must know to read the row rightly.
    """

    name: str
    unit: str
    ours: Figure
    peers: Mapping[str, Figure] = field(default_factory=dict)
    more_is_better: bool = True
    bars: Mapping[str, float] = field(default_factory=dict)
    size: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def ratio(self, peer: str) -> float | None:
        """Return how many times better ours is than a peer, None when one of them has no value."""
        ours, other = self.ours.value, self.peers[peer].value
        if not ours or not other:
            return None
        return ours / other if self.more_is_better else other / ours

    def reached(self, who: str) -> bool | None:
        """Return whether the bar of ``ours`` or of a peer is reached; None: there is no bar, or no value."""
        bar = self.bars.get(who)
        value = self.ours.value if who == OURS else self.ratio(who)
        if bar is None or value is None:
            return None
        return value >= bar if who != OURS or self.more_is_better else value <= bar

    def as_json(self) -> dict[str, Any]:
        """Return the row for the JSON file: plain values by name first, all of each figure under ``figures``."""
        figures = {OURS: self.ours, **self.peers}
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours.value,
            "peers": {name: figure.value for name, figure in self.peers.items()},
            "ratio": {name: self.ratio(name) for name in self.peers},
            "more_is_better": self.more_is_better,
            "bars": {who: {"bar": bar, "reached": self.reached(who)} for who, bar in self.bars.items()},
            "figures": {name: asdict(figure) for name, figure in figures.items()},
            "size": dict(self.size),
            "versions": dict(self.versions),
            "note": self.note,
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Row:
        """Return the row of a record that ``as_json`` made."""
        figures = {name: Figure(**figure) for name, figure in record["figures"].items()}
        bars = {who: entry["bar"] for who, entry in record["bars"].items()}
        names = ("name", "unit", "more_is_better", "size", "versions", "note")
        return Row(ours=figures.pop(OURS), peers=figures, bars=bars, **{name: record[name] for name in names})


def alternate(
    contestants: Mapping[str, Callable[[], float]], repetitions: int, durable: Mapping[str, str] | None = None
) -> dict[str, Figure]:
    """Measure contestants in turns, every second round in the opposite order, and return their figures.

    Who raises is out, and its figure says why; ours is no exception.

    Args:
        contestants: Name -> measures once and returns the value.
        repetitions: Rounds.
        durable: Name -> what survives a kill.
    """
    values: dict[str, list[float]] = {name: [] for name in contestants}
    reasons: dict[str, str] = {}
    for number in range(repetitions):
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            if name not in reasons:
                try:
                    values[name].append(contestants[name]())
                except Exception as error:
                    reasons[name] = f"{type(error).__name__}: {error}"
    kept = durable or {}
    return {
        name: Figure.none(reasons[name], kept.get(name, "")) if name in reasons else Figure.of(values[name], kept.get(name, ""))
        for name in contestants
    }
