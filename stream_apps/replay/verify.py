"""Replay of all partitions of the topics through the cores, and comparison with the records of the services (``replay --verify``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from schemas.settings import Settings
from stream_apps.core.paper.position import PaperSettings
from stream_apps.engines import SIGNALS, EngineSpec
from stream_apps.replay.results import Difference, ResultSet, differences
from stream_apps.replay.run import Result, drive
from stream_apps.replay.sources.source import Piece, Topics
from stream_apps.replay.sources.topics import TopicSource


@dataclass
class ReplayReport:
    """The result of a replay.

    Attributes:
        results: Records by result topic.
        outputs: Topic -> number of records of every kind written by the cores.
        inputs: Topic -> number of records read.
        seconds: Duration, wall clock.
        differences: Differences from the topics, if compared.
    """

    results: ResultSet
    outputs: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    written: ResultSet | None = None
    differences: list[Difference] = field(default_factory=list)


Progress = Callable[[int, str, int], None]


def read_results(settings: Settings, topics: tuple[str, ...] = SIGNALS.results) -> ResultSet:
    """Return the records that the services have written to result topics."""
    written = ResultSet.of(settings.codec, topics)
    with TopicSource(settings, topics) as source:
        for _, topic, records in source.everything():
            for row in range(len(records)):
                written.add(topic, records.value(row))
    return written


def replay_topics(
    settings: Settings,
    paper: PaperSettings | None = None,
    compare: bool = True,
    progress: Progress | None = None,
    engine: EngineSpec = SIGNALS,
) -> ReplayReport:
    """Replay every partition from the beginning of its topics to their present end.

    Args:
        settings: Environment.
        paper: Numbers of the paper model. For a comparison they must be the executor's.
        compare: Read the services' results and list the differences.
        progress: Called with (partition, topic, records) as records are read.
        engine: The engine whose results are compared.

    Raises:
        TopicsError: no broker answers, or it refuses.
    """
    report = ReplayReport(ResultSet.of(settings.codec, engine.results))

    def on_piece(piece: Piece) -> None:
        report.inputs[piece.topic] = report.inputs.get(piece.topic, 0) + len(piece.records)
        if progress is not None:
            progress(piece.partition, piece.topic, len(piece.records))

    def take(partition: int, result: Result) -> None:
        report.outputs[result.topic] = report.outputs.get(result.topic, 0) + 1
        report.results.add(result.topic, result.value)

    started = time.perf_counter()
    source = Topics(partial(TopicSource, settings), tuple(range(settings.partitions)), inputs=engine.kind().inputs())
    drive(source, engine.config(settings), settings.codec, take, engine=engine, paper=paper, on_piece=on_piece)
    report.seconds = time.perf_counter() - started
    if compare:
        report.written = read_results(settings, engine.results)
        report.differences = differences(report.written, report.results)
    return report
