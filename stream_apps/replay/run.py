"""One partition of the pipeline in process: engine, scorer and paper model over the same records that the services read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from schemas.catalogue import TOPICS
from schemas.codec import Codec, CodecError
from schemas.columnar import KeyTable
from schemas.memory import seldom_collected
from schemas.recordset import RecordSet
from stream_apps.core.ahead import completed
from stream_apps.core.config import EngineConfig
from stream_apps.core.engine import OutputRecord, PartitionEngine
from stream_apps.core.inbox import TRADE_FIELDS
from stream_apps.core.paper import PaperBook
from stream_apps.core.paper_feed import PaperFeed, Step
from stream_apps.core.paper_position import PaperSettings
from stream_apps.core.paper_trades import book_block, trade_block
from stream_apps.core.strategy import StrategyConfig
from stream_apps.replay.decoded import with_columns
from stream_apps.replay.source import Piece, Source

# Beyond every offset: marks that wait for records of a topic that is not read are not held up.
_NEVER = 2**62


class Result(NamedTuple):
    """One record of a run: topic, key, encoded value."""

    topic: str
    key: bytes
    value: bytes


class PartitionReplay:
    """Feed the input topics of one partition in offset order; take the results of all stages.

    Args:
        partition: Kafka partition.
        config: Numbers of the market state.
        codec: Codec of the environment.
        paper: Numbers of the paper model.
        strategies: To run instead of those of the log; None: those of the log.

    Raises:
        StrategyError: a strategy breaks a rule.
    """

    def __init__(
        self,
        partition: int,
        config: EngineConfig,
        codec: Codec,
        paper: PaperSettings | None = None,
        strategies: Sequence[StrategyConfig] | None = None,
    ) -> None:
        self.engine = PartitionEngine(partition, config, codec)
        if strategies is not None:
            for strategy in strategies:
                self.engine.take_strategy(strategy)
            self.engine.skip_to("strategies", _NEVER)
        self.book = PaperBook(paper)
        self._feed = PaperFeed()
        self._codec = codec
        self._signals = 0
        self._keys = KeyTable()
        self._encode = {topic: codec.encoder(topic) for topic in ("orders", "fills", "positions", "trades_closed")}

    def feed(self, topic: str, records: RecordSet) -> Iterator[Result]:
        """Take records of a topic and yield what the pipeline writes because of them, in order."""
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
                        continue  # the engine makes the dead letter of it
                (self._feed.add_settlements if topic == "funding" else self._feed.add_instruments)(rows)
        yield from self._pass_on((*outputs, *self.engine.advance()))

    def _pass_on(self, outputs: Iterable[OutputRecord]) -> Iterator[Result]:
        """Yield what the engine wrote, and after each step what the paper model writes at it."""
        for output in outputs:
            topic, key, value, _ = output
            if topic != "worker_progress":
                if topic == "signals":
                    self._feed.add_signals([(self._signals, self._codec.decode("signals", value))])
                    self._signals += 1
                yield Result(topic, key, value)
                continue
            value = completed(value, self._signals)
            yield Result("worker_progress", key, value)
            step = Step.from_record(self._codec.decode("worker_progress", value))
            for topic, record in self._feed.step(step, self.book):
                yield Result(topic, str(record[TOPICS[topic].key]).encode(), self._encode[topic](record))


def drive(
    source: Source,
    config: EngineConfig,
    codec: Codec,
    take: Callable[[int, Result], None],
    *,
    paper: PaperSettings | None = None,
    strategies: Mapping[int, Sequence[StrategyConfig]] | None = None,
    hear: Callable[[Piece], None] = lambda piece: None,
) -> dict[int, PartitionReplay]:
    """Run a source through the cores.

    Args:
        source: What is replayed.
        config, codec: Of the environment.
        take: Is given (partition, result) of every result, each partition's in order.
        paper: Numbers of the paper model.
        strategies: Partition -> the strategies to run; None: those of the log.
        hear: Is given every piece before it is fed: progress, gaps.

    Returns:
        Partition -> its engine and paper model after the last record.

    Raises:
        StrategyError: a strategy breaks a rule.
    """
    runs: dict[int, PartitionReplay] = {}

    def run_of(partition: int) -> PartitionReplay:
        run = runs.get(partition)
        if run is None:
            given = None if strategies is None else strategies.get(partition, ())
            run = runs[partition] = PartitionReplay(partition, config, codec, paper, given)
        return run

    with seldom_collected():
        for piece in source.pieces(lambda partition: run_of(partition).engine):
            hear(piece)
            if piece.topic in PartitionEngine.INPUTS:
                for result in run_of(piece.partition).feed(piece.topic, piece.records):
                    take(piece.partition, result)
    return runs
