"""One partition of the pipeline in process: an engine, and for signals the paper model, over the records that the services read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from schemas.catalogue import TOPICS
from schemas.codec.avro import Codec, CodecError
from schemas.codec.key_table import KeyTable
from schemas.codec.recordset import RecordSet
from schemas.process.memory import rare_garbage_collection
from stream_apps.core.log.engine import PartitionEngine
from stream_apps.core.log.engine_settings import TOPIC as SETTINGS_TOPIC
from stream_apps.core.log.engine_settings import SettingsRevision
from stream_apps.core.log.inbox import TRADE_FIELDS
from stream_apps.core.log.outputs import OutputRecord
from stream_apps.core.log.steps import completed
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.paper.feed import PaperFeed, Step
from stream_apps.core.paper.market_rows import book_block, trade_block
from stream_apps.core.paper.model import PaperBook
from stream_apps.core.paper.position import PaperSettings
from stream_apps.core.paper.records import PAPER_TOPICS
from stream_apps.core.signals.engine import SignalsEngine
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.engines import SIGNALS, EngineSpec
from stream_apps.replay.decoded import with_columns
from stream_apps.replay.sources.source import Piece, Source

# Beyond every offset: no mark waits for records of a topic that is not read.
_NEVER = 2**62


class Result(NamedTuple):
    """One record of a run: topic, key, encoded value."""

    topic: str
    key: bytes
    value: bytes


class EngineReplay:
    """Feeds the input topics of one partition to an engine in offset order, and returns its outputs.

    Args:
        engine: The engine, new or restored.
        revisions: Settings to use instead of those of the log. None: those of the log.

    Raises:
        SettingsError: a revision breaks a rule.
    """

    def __init__(self, engine: PartitionEngine, revisions: Sequence[SettingsRevision] | None = None) -> None:
        self.engine = engine
        if revisions is not None:
            for revision in revisions:
                engine.take_settings(revision)
            engine.skip_to(SETTINGS_TOPIC, _NEVER)
        self._decisions = 0

    def feed(self, topic: str, records: RecordSet) -> Iterator[Result]:
        """Feed records of a topic. Yield the engine's outputs in order."""
        yield from self._pass_on((*self.engine.feed(topic, records), *self.engine.advance()))

    def _pass_on(self, outputs: Iterable[OutputRecord]) -> Iterator[Result]:
        """Yield the engine's outputs. Progress records get their last field as the worker writes it."""
        decisions, progress = self.engine.DECISIONS, self.engine.PROGRESS
        for topic, key, value, _ in outputs:
            if topic == progress:
                value = completed(value, self._decisions)
            elif topic == decisions:
                self._decisions += 1
            yield Result(topic, key, value)


class PartitionReplay(EngineReplay):
    """The signals engine of one partition, and the paper model that trades its signals.

    Args:
        partition: Kafka partition.
        config: Numbers of the market state.
        codec: Codec of the environment.
        paper: Numbers of the paper model.
        strategies: Strategies to run instead of those of the log. None: those of the log.
        revisions: Settings to use instead of those of the log. None: those of the log.

    Raises:
        StrategyError: a strategy breaks a rule.
        SettingsError: a revision breaks a rule.
    """

    engine: SignalsEngine

    def __init__(
        self,
        partition: int,
        config: EngineConfig,
        codec: Codec,
        paper: PaperSettings | None = None,
        strategies: Sequence[StrategyConfig] | None = None,
        revisions: Sequence[SettingsRevision] | None = None,
    ) -> None:
        super().__init__(SignalsEngine(partition, config, codec), revisions)
        if strategies is not None:
            for strategy in strategies:
                self.engine.take_strategy(strategy)
            self.engine.skip_to("strategies", _NEVER)
        self.book = PaperBook(paper)
        self._feed = PaperFeed()
        self._codec = codec
        self._keys = KeyTable()
        self._encode = {topic: codec.encoder(topic) for topic in PAPER_TOPICS}

    def feed(self, topic: str, records: RecordSet) -> Iterator[Result]:
        """Feed records of a topic. Yield the outputs of engine and paper model in order."""
        if topic == "agg_trades":
            records = with_columns(self._codec, topic, records, TRADE_FIELDS, self._keys)
        outputs = self.engine.feed(topic, records)
        if len(records):
            if topic == "agg_trades":
                self._feed.add_trades(trade_block(self._codec, records, self._keys))
            elif topic == "depth" and self.book.settings.walk_book:
                self._feed.add_books(book_block(self._codec, records, self._keys))
            elif topic in ("funding", "instruments"):
                rows = []
                plain = records.rows(0, len(records))
                for row, offset in enumerate(plain.offsets.tolist()):
                    try:
                        rows.append((offset, self._codec.decode(topic, plain.value(row))))
                    except CodecError:
                        continue  # the engine writes its dead letter
                (self._feed.add_settlements if topic == "funding" else self._feed.add_instruments)(rows)
        for result in self._pass_on((*outputs, *self.engine.advance())):
            yield result
            if result.topic == "signals":
                self._feed.add_signals([(self._decisions - 1, self._codec.decode("signals", result.value))])
            elif result.topic == "worker_progress":
                step = Step.from_record(self._codec.decode("worker_progress", result.value))
                for written, record in self._feed.step(step, self.book):
                    yield Result(written, str(record[TOPICS[written].key]).encode(), self._encode[written](record))


def drive(
    source: Source,
    config: Any,
    codec: Codec,
    take: Callable[[int, Result], None],
    *,
    engine: EngineSpec = SIGNALS,
    paper: PaperSettings | None = None,
    strategies: Mapping[int, Sequence[StrategyConfig]] | None = None,
    revisions: Sequence[SettingsRevision] | None = None,
    on_piece: Callable[[Piece], None] = lambda piece: None,
) -> dict[int, EngineReplay]:
    """Run a source through an engine, and through the paper model if it trades the engine's decisions.

    Args:
        source: The source.
        config: The engine's numbers.
        codec: Codec of the environment.
        take: Called with (partition, result) for every result, in order within a partition.
        engine: The engine.
        paper: Numbers of the paper model.
        strategies: Partition -> the strategies to run. None: those of the log.
        revisions: Settings to use instead of those of the log, oldest first. None: those of the log.
        on_piece: Called with every piece before it is fed; for progress and gaps.

    Returns:
        Partition -> its engine and paper model after the last record.

    Raises:
        StrategyError: a strategy breaks a rule.
        SettingsError: a revision of the settings breaks a rule.
    """
    runs: dict[int, EngineReplay] = {}
    kind = engine.kind()
    inputs = kind.inputs()

    def run_of(partition: int) -> EngineReplay:
        run = runs.get(partition)
        if run is None and engine.paper:
            given = None if strategies is None else strategies.get(partition, ())
            run = runs[partition] = PartitionReplay(partition, config, codec, paper, given, revisions)
        elif run is None:
            run = runs[partition] = EngineReplay(kind(partition, config, codec), revisions)
        return run

    with rare_garbage_collection():
        for piece in source.pieces(lambda partition: run_of(partition).engine):
            on_piece(piece)
            if piece.topic in inputs:
                for result in run_of(piece.partition).feed(piece.topic, piece.records):
                    take(piece.partition, result)
    return runs
