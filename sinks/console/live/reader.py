"""The one Kafka consumer of the console: a thread that reads what somebody looks at, and passes what changed to the event loop once a tick.

Partitions are assigned, without a group and without commits. Whole record sets are fetched and decoded by compiled code. What happens at each failure:

- broker away: reading waits; ``health`` says so within a few seconds; afterwards reading continues where it was.
- a record that cannot be decoded: counted in ``perpflow_console_refused_records``, named in the log, skipped.
- a topic that does not exist yet: it is read as soon as it exists.
- a log that was cut or made again: reading begins anew at its end; clients of its events get a ``reset``.
- the process dies: browsers connect again with the id of their last event; the next process reads the newest events again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from aiokafka.structs import TopicPartition
from confluent_kafka import KafkaException

from schemas import metrics
from schemas.codec.key_table import KeyTable
from schemas.codec.recordset import RecordSet, RecordSetError
from schemas.partition import base_of_instrument, partition_of
from schemas.settings import Settings
from sinks.console.data.records import times
from sinks.console.live.candles import MINUTE_MS
from sinks.console.live.channels import ALL, Channel
from sinks.console.live.event_ids import EVENT_TOPICS
from sinks.console.live.events import events_of
from sinks.console.live.hub import Batch, Snapshot, made_again
from sinks.console.live.market import Market
from sinks.console.live.messages import frame, framed
from sinks.console.live.placing import Cluster, Place, Placed, Placing, Start
from sinks.console.live.states import Positions, Records
from sinks.consuming.fetcher import FetchedRecords, Fetcher

# Events that are read again at a start, of each partition: a browser that was away for less resumes without a reset.
EVENTS_BACK = 200
# Every account's guard writes its state every two seconds: some minutes of some accounts.
RISK_BACK = 1_000
# Quotes and books: the newest one of a quiet instrument.
BOOK_BACK_MS = 10_000
DAY_MS = 86_400_000
LOOK_S = 2.0
# Health is sent again after this time, so that a page sees that the stream lives.
HEALTH_S = 5.0
LOG_S = 10.0

# Read while somebody looks at them.
WATCHED = ("agg_trades", "bars", "depth", "quotes", "features", "scores")
ALWAYS = ("instruments", "positions", "funding", *EVENT_TOPICS)


class Reader(threading.Thread):
    """Reads and publishes until stopped.

    Args:
        settings: The environment.
        log: Structured log.
        publish: Receives a batch a tick. Called in this thread.
        tick_s: Time between two batches.
    """

    def __init__(self, settings: Settings, log: Any, publish: Callable[[Batch], None], tick_s: float) -> None:
        super().__init__(name="live-reader", daemon=True)
        self._settings, self._log, self._publish, self._tick_s = settings, log, publish, tick_s
        self._orders: SimpleQueue[frozenset[Channel]] = SimpleQueue()
        self._stop_asked = threading.Event()
        self._placing = Placing(settings, (*WATCHED, *ALWAYS))
        self._fetcher = Fetcher(settings.kafka_bootstrap_servers, log)
        self._plain = {settings.topic(topic): topic for topic in (*WATCHED, *ALWAYS)}
        self._channels: frozenset[Channel] = frozenset()
        self._texts: frozenset[str] = frozenset()
        self._watched: dict[str, set[str]] = {topic: set() for topic in WATCHED}
        self._tables: dict[str, KeyTable] = {topic: KeyTable() for topic in WATCHED}
        self._cluster: Cluster | None = None
        self._asked_cluster: Future[Cluster] | None = None
        self._asked_starts: tuple[Future[dict[Place, Placed]], dict[Place, Start]] | None = None
        self._unplaced: dict[Place, Start] = {}
        self._positions_of: dict[Place, int] = {}
        self._turns: dict[Place, int] = {}
        self._turn = 0
        self._loading: dict[Place, int] = {}
        self._looked = self._told = 0.0
        self._refused_at: dict[str, float] = {}
        self._batch = Batch()
        self.market = Market(settings.codec, self._refuse)
        self.states = Records(settings.codec, self._refuse)
        self.positions = Positions(settings.codec, self._refuse)
        self.trouble: str | None = "not connected yet"
        self._since = time.time()

    # --- for the event loop ----------------------------------------------------------------------------------------
    def look_at(self, channels: frozenset[Channel]) -> None:
        """Read what these channels need, and nothing else. Thread-safe."""
        self._orders.put(channels)
        self._fetcher.wake()

    def stop(self) -> None:
        """Stop the thread, and wait for it."""
        self._stop_asked.set()
        self._fetcher.wake()
        if self.is_alive():
            self.join(10.0)

    def report(self) -> dict[str, Any]:
        """Return the health of reading."""
        lag = sum(self._lags().values())
        report: dict[str, Any] = {"ok": self.trouble is None, "partitions": len(self._positions_of), "lag_records": lag}
        if self.trouble is not None:
            report["kafka"] = self.trouble
        return report

    # --- the loop --------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Read until stopped."""
        self._fetcher.start()
        due = time.monotonic() + self._tick_s
        while not self._stop_asked.is_set():
            try:
                found = self._fetcher.get(max(0.0, due - time.monotonic()))
                if found is not None:
                    self._take(found)
                now = time.monotonic()
                if now >= due:
                    due = max(due + self._tick_s, now)
                    self._tick(now)
            except RuntimeError as error:  # the fetcher's thread ended
                self._log.error("the fetcher ended; starting another one", error=str(error))
                self._trouble(str(error))
                self._stop_asked.wait(1.0)
                self._fetch_anew()
            except Exception as error:  # no fault of one message may end the picture of all
                self._log.error("unexpected error in the live reader", exc_info=error)
        self._fetcher.close()
        self._placing.close()

    def _fetch_anew(self) -> None:
        self._fetcher.close()
        self._fetcher = Fetcher(self._settings.kafka_bootstrap_servers, self._log)
        self._fetcher.start()
        for place, offset in self._positions_of.items():
            self._want(place, offset)

    def _tick(self, now: float) -> None:
        self._heed()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._look()
        self._hear()
        self._flush(now)
        self._publish(self._filled())

    def _filled(self) -> Batch:
        batch, self._batch = self._batch, Batch()
        batch.topics = None if self._cluster is None else self._cluster.event_topics
        events_placed = all(place[0] not in EVENT_TOPICS for place in self._unplaced)
        batch.loaded = self._cluster is not None and not self._loading and events_placed
        return batch

    # --- what to read ----------------------------------------------------------------------------------------------
    def _heed(self) -> None:
        newest = None
        try:
            while True:
                newest = self._orders.get_nowait()
        except Empty:
            pass
        if newest is not None:
            new = newest - self._channels
            self._channels, self._texts = newest, frozenset(channel.text for channel in newest)
            self._touch(new)
        self._watch()

    def _touch(self, new: frozenset[Channel]) -> None:
        """Show what is known already to those that look at new channels."""
        names = {channel.name for channel in new}
        for channel in new:
            self.market.touch(channel)
        for name in names & {"features", "scores", "funding", "risk"}:
            getattr(self.states, name).touch()
        if "positions" in names:
            self.positions.touch()
        if "health" in names:
            self._told = 0.0

    def _watch(self) -> None:
        """Find out which partitions of watched topics are needed now, and from where."""
        wanted: dict[str, set[str]] = {topic: set() for topic in WATCHED}
        for channel in self._channels:
            for topic in channel.kind.topics:
                if topic in wanted and channel.name != "positions":
                    wanted[topic].add(channel.instrument)
        for channel in self._channels:
            if channel.name == "positions":
                wanted["quotes"] |= (
                    self.positions.instruments if channel.instrument == ALL else {channel.instrument} & self.positions.instruments
                )
        for topic, names in wanted.items():
            if names != self._watched[topic]:
                self._change(topic, names)

    def _change(self, topic: str, names: set[str]) -> None:
        old, self._watched[topic] = self._watched[topic], names
        self._tables[topic] = KeyTable(sorted(names - {ALL}))
        if topic == "agg_trades":
            self.market.watch_trades(self._watched["agg_trades"] | self._watched["bars"])
        needed = self._partitions(topic, names)
        for place in [one for one in (*self._positions_of, *self._unplaced) if one[0] == topic and one not in needed]:
            self._let_go(place)
        if topic in ("features", "scores") and not names:
            getattr(self.states, topic).clear()
        for place in self._partitions(topic, names - old):
            self._unplaced[place] = self._start(topic)

    def _start(self, topic: str) -> Start:
        if topic == "agg_trades":
            # The forming minute, and the one before, whose bar the worker may not have written yet.
            return Start(back_ms=MINUTE_MS + 1, step_ms=MINUTE_MS)
        if topic == "bars":
            return Start(back_ms=DAY_MS, step_ms=MINUTE_MS)
        if topic in ("depth", "quotes"):
            return Start(back_ms=BOOK_BACK_MS)
        if topic in ("features", "scores"):
            return Start(back_ms=self._settings.grid_ms + 1)  # the newest instant of all instruments
        if topic == "funding":
            return Start(back_ms=MINUTE_MS)
        if topic == "risk_state":
            return Start(rows=RISK_BACK)
        return Start(rows=EVENTS_BACK) if topic in EVENT_TOPICS else Start()

    def _partitions(self, topic: str, names: set[str]) -> set[Place]:
        count = 0 if self._cluster is None else self._cluster.partitions.get(topic, 0)
        if ALL in names:
            return {(topic, partition) for partition in range(count)}
        return {(topic, partition) for name in names if (partition := self._partition(name, count)) is not None}

    def _partition(self, instrument: str, count: int) -> int | None:
        try:
            asset = self.market.bases.get(instrument) or base_of_instrument(instrument)
            return partition_of(asset, count, self._settings.groups) if count else None
        except ValueError:
            return None

    def _let_go(self, place: Place) -> None:
        self._unplaced.pop(place, None)
        self._turns.pop(place, None)
        if self._positions_of.pop(place, None) is not None:
            self._fetcher.want({self._wire(place): None})

    def _wire(self, place: Place) -> TopicPartition:
        return TopicPartition(self._settings.topic(place[0]), place[1])

    def _want(self, place: Place, offset: int) -> None:
        self._turn += 1
        self._turns[place], self._positions_of[place] = self._turn, offset
        self._fetcher.want({self._wire(place): (offset, self._turn)})

    # --- the broker ------------------------------------------------------------------------------------------------
    def _look(self) -> None:
        if self._asked_cluster is None:
            self._asked_cluster = self._placing.cluster()
        for topic, lag in self._lags().items():
            metrics.CONSOLE_LAG.labels(topic).set(lag)

    def _lags(self) -> dict[str, int]:
        lags: dict[str, int] = {}
        ends = self._fetcher.ends
        for place, position in list(self._positions_of.items()):
            end = ends.get(self._wire(place))
            if end is not None:
                lags[place[0]] = lags.get(place[0], 0) + max(0, end - position)
        return lags

    def _hear(self) -> None:
        """Take the broker's answers."""
        if self._asked_cluster is not None and self._asked_cluster.done():
            answer, self._asked_cluster = self._asked_cluster, None
            try:
                self._know(answer.result())
                self._trouble(None)
            except (KafkaException, TimeoutError) as error:
                self._trouble(f"the broker does not answer: {error}")
        if self._asked_starts is not None and self._asked_starts[0].done():
            (starts, asked), self._asked_starts = self._asked_starts, None
            try:
                for place, placed in starts.result().items():
                    if self._unplaced.get(place) == asked[place]:
                        del self._unplaced[place]
                        self._begin(place, placed)
            except (KafkaException, TimeoutError) as error:
                self._log.warning("no offsets from the broker; trying again", error=str(error))
        if self._asked_starts is None and self._unplaced and self.trouble is None:
            asked = dict(self._unplaced)
            self._asked_starts = self._placing.starts(asked), asked

    def _know(self, cluster: Cluster) -> None:
        before, self._cluster = self._cluster, cluster
        if before == cluster:
            return
        if before is not None and made_again(before.event_topics, cluster.event_topics):
            self._log.warning("topics were made again; reading begins anew")
            self.market.forget(self._watched["agg_trades"])
            self.positions = Positions(self._settings.codec, self._refuse)
            for place in list(self._positions_of):
                self._let_go(place)
        for topic in ALWAYS:
            for partition in range(cluster.partitions.get(topic, 0)):
                place = topic, partition
                if place not in self._positions_of:
                    self._unplaced[place] = self._start(topic)
        for topic, names in self._watched.items():
            for place in self._partitions(topic, names) - self._positions_of.keys():
                self._unplaced[place] = self._start(topic)

    def _begin(self, place: Place, placed: Placed) -> None:
        topic = place[0]
        if topic in EVENT_TOPICS:
            self._batch.placed[place] = placed
            if placed.offset < placed.end:
                self._loading[place] = placed.end
            else:
                self._loading.pop(place, None)
        if topic == "agg_trades":
            count = self._cluster.partitions.get(topic, 0) if self._cluster else 0
            here = [name for name in self._watched[topic] if self._partition(name, count) == place[1]]
            self.market.reading_trades(here, placed.since or 0)  # of an empty log everything is read
        self._want(place, placed.offset)

    def _trouble(self, trouble: str | None) -> None:
        if (trouble is None) != (self.trouble is None):
            self._since, self._told = time.time(), 0.0
            if trouble is None:
                self._log.info("kafka answers")
            else:
                self._log.warning("no live data; clients stay connected", reason=trouble)
        self.trouble = trouble

    # --- records ---------------------------------------------------------------------------------------------------
    def _take(self, found: FetchedRecords) -> None:
        place = self._plain[found.partition.topic], found.partition.partition
        if self._turns.get(place) != found.turn:
            return
        if found.raw is None:  # the offset is not in the log
            self._positions_of.pop(place, None)
            self._unplaced[place] = self._start(place[0])
            if place[0] == "agg_trades":
                self.market.forget(self._watched["agg_trades"])
            return
        self._positions_of[place] = found.raw.last + 1
        try:
            records = RecordSet.from_raw(found.raw.data, found.raw.first, found.raw.last)
            if len(records):
                self._apply(*place, records)
        except RecordSetError as error:
            self._refuse(place[0], found.raw.first, str(error))
        finally:
            if self._loading.get(place, 1 << 62) <= found.raw.last + 1:
                del self._loading[place]

    def _apply(self, topic: str, partition: int, records: RecordSet) -> None:
        metrics.CONSOLE_EVENT_TIME.labels(topic).set(int(records.timestamps[-1]) / 1000)
        if topic == "instruments":
            self.market.take_instruments(records)
        elif topic == "positions":
            self.positions.take(records)
        elif topic == "funding":
            self.positions.repriced(self.states.take_funding(records))
        elif topic in EVENT_TOPICS:
            self._batch.events += events_of(topic, partition, records, self._settings.codec, self.states, self._refuse)
        else:
            self._apply_watched(topic, records)

    def _apply_watched(self, topic: str, records: RecordSet) -> None:
        table = self._tables[topic]
        if ALL not in self._watched[topic]:
            ids = table.match(records)
            rows = np.flatnonzero(ids >= 0)
            if not len(rows):
                return
            if len(rows) < len(records):
                records, ids = RecordSet(records.buffer, records.index[rows], records.next_offset), ids[rows]
        if topic == "features":
            self.states.take_features(records)
        elif topic == "scores":
            self.states.take_scores(records)
        else:
            self.market.take(topic, records, ids, table.keys)
            if topic == "quotes":
                self.positions.repriced(self.market.changed_mids())

    def _refuse(self, topic: str, offset: int, reason: str) -> None:
        metrics.CONSOLE_REFUSED.labels(topic).inc()
        now = time.monotonic()
        if now - self._refused_at.get(topic, -LOG_S) >= LOG_S:
            self._refused_at[topic] = now
            self._log.warning("a record cannot be shown", topic=topic, offset=offset, reason=reason)

    # --- out -------------------------------------------------------------------------------------------------------
    def _flush(self, now: float) -> None:
        out = self._batch.snapshots
        for event, key, covers, data in self.market.flush(self._channels):
            out[key] = Snapshot(framed(event, data), covers)
        for states in (self.states.features, self.states.scores, self.states.funding, self.states.risk):
            for event, key, covers, data in states.flush(self._texts):
                out[key] = Snapshot(framed(event, data), covers)
        for event, key, covers, data, over in self.positions.flush(self._texts, self.market.quotes, self.states.funding):
            out[key] = Snapshot(framed(event, data), covers, over)
        if "health" in self._texts and now - self._told >= HEALTH_S:
            self._told = now
            out["health"] = Snapshot(frame("health", self._health()), ("health",))

    def _health(self) -> dict[str, Any]:
        at = time.time()
        return {
            **times(time=int(at * 1000)),
            "kafka": "ok" if self.trouble is None else "away",
            "reason": self.trouble,
            "since_ms": int(self._since * 1000),
            "lag_records": sum(self._lags().values()),
        }
