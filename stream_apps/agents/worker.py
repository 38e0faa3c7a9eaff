"""The worker: a Faust app with one agent over all inputs of the engine, and its state table.

One agent takes all inputs, so that all inputs of a partition meet. One table holds the state; its changelog is co-partitioned with the
inputs. The hot path avoids Faust's per-record code: ``transport``, ``runner``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faust
import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from faust.serializers.schemas import Schema

from schemas import catalogue, metrics
from schemas.codec import zstd
from schemas.process.pins import check_pins
from schemas.process.service import Service, configure_logging
from schemas.settings import Settings
from stream_apps.agents.output import CHECKPOINT_MAX_BYTES, COMPRESSION
from stream_apps.agents.partitions import Partitions
from stream_apps.agents.recovery import EngineTables
from stream_apps.agents.runner import Limits
from stream_apps.agents.transport import RawTransport, broker_urls
from stream_apps.core.log.engine import PartitionEngine

TABLE = "state"
# Time in which a stopping or revoked worker writes its last checkpoints. It is below the rebalance timeout, or the group goes on without
# the worker.
CLOSE_TIMEOUT_S = 8.0
COMMIT_TIMEOUT_S = 3.0
STOP_TIMEOUT_S = 15.0
EXIT_TIMEOUT_S = 18.0
SESSION_TIMEOUT_S = 10.0
# The next owner overwrites late records of a former owner. Compaction must not run before that.
CHANGELOG_COMPACTION_LAG_MS = 6 * 3600 * 1000
FETCH_BYTES = 4 << 20
BATCH_BYTES = 512 << 10
# Composites that may wait for the agent; each holds up to FETCH_BYTES.
BUFFERED_COMPOSITES = 16


class WorkerError(RuntimeError):
    """The worker cannot run here. The message says what is missing and how to get it."""


class RepeatFilter(logging.Filter):
    """Limits repeated log lines of libraries: a client that cannot reach a broker logs ten lines a second.

    Args:
        interval_s: Smallest time between two lines of one kind (logger and message template).
        clock: Monotonic seconds.
    """

    def __init__(self, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval = interval_s
        self._clock = clock
        self._last: dict[tuple[str, str], float] = {}
        self._kept: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is logged. The logged line then says how many like it were dropped."""
        kind = (record.name, str(record.msg))
        now = self._clock()
        if now - self._last.get(kind, now - self._interval) < self._interval:
            self._kept[kind] = self._kept.get(kind, 0) + 1
            return False
        self._last[kind] = now
        if kept := self._kept.pop(kind, 0):
            record.msg, record.args = f"{record.getMessage()} (and {kept} more like it)", None
        return True


class _Composite(Schema):
    """Passes a composite through without decoding it."""

    def loads_key(self, app: Any, message: Any, **kwargs: Any) -> None:
        return None

    def loads_value(self, app: Any, message: Any, **kwargs: Any) -> Any:
        return message.value


class WorkerApp(faust.App):
    """The Faust app. ``partitions`` holds the state of what is assigned."""

    partitions: Partitions
    failure: BaseException | None = None

    def _new_transport(self) -> RawTransport:
        return RawTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> RawTransport:
        return RawTransport(self.conf.broker_producer, self)

    async def _consumer_wait_empty(self, consumer: Any, logger: Any) -> None:
        """Write the last checkpoints. Faust calls this before it revokes partitions and before it stops, when nothing flows any more."""
        await self.partitions.close(CLOSE_TIMEOUT_S)
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                await consumer.commit()
        except TimeoutError:
            structlog.get_logger().warning(
                "no answer to the last commit; the next owner reads from the positions in the state", timeout_s=COMMIT_TIMEOUT_S
            )
        await self.partitions.abandon()

    def fail(self, error: BaseException) -> None:
        """End the worker after an error. A restart goes on from the last checkpoint."""
        if self.failure is None:
            self.failure = error
            structlog.get_logger().error("worker failed", error=f"{type(error).__name__}: {error}", exc_info=error)


def build_app(
    app_id: str,
    settings: Settings,
    engine: type[PartitionEngine],
    config: Any,
    *,
    limits: Limits,
    datadir: Path,
    session_timeout_s: float,
    instance_id: str | None = None,
) -> WorkerApp:
    """Make the app: Faust's settings with their reasons, the table, the agent."""
    app = WorkerApp(
        app_id,
        broker=broker_urls(settings.kafka_bootstrap_servers),
        autodiscover=False,
        store="memory://",
        datadir=datadir,
        web_enabled=False,
        # Faust identifies members by this address. Nothing listens there.
        canonical_url=f"http://{instance_id or uuid.uuid4().hex}",
        consumer_group_instance_id=instance_id,
        TableManager=EngineTables,
        topic_partitions=settings.partitions,
        topic_replication_factor=settings.replication_factor,
        topic_disable_leader=True,
        stream_buffer_maxsize=BUFFERED_COMPOSITES,
        # Composites ahead of the marks stay unacknowledged, so Faust must not wait for all. See WorkerApp._consumer_wait_empty.
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=session_timeout_s / 5,
        broker_rebalance_timeout=max(30.0, session_timeout_s),
        broker_request_timeout=max(30.0, session_timeout_s),
        broker_commit_interval=1.0,
        broker_commit_every=1_000_000_000,  # only the timer commits
        consumer_max_fetch_size=FETCH_BYTES,
        consumer_auto_offset_reset="earliest",
        producer_max_batch_size=BATCH_BYTES,
        producer_compression_type=COMPRESSION,
        producer_max_request_size=CHECKPOINT_MAX_BYTES + (1 << 20),
        producer_linger=0.0,
    )
    table: Any = app.Table(
        TABLE,
        key_type=bytes,
        value_type=bytes,
        partitions=settings.partitions,
        extra_topic_configs=changelog_config(),
    )
    app.partitions = Partitions(app, engine, config, settings, table.changelog_topic_name, limits)
    sources = app.topic(*(settings.topic(name) for name in engine.inputs()), schema=_Composite())

    @app.agent(sources, name="engine")
    async def engine_agent(stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                await app.partitions.feed(event)
            except Exception as error:
                app.fail(error)
                raise

    return app


def changelog_config() -> dict[str, str]:
    """Return the broker configuration of the changelog topic."""
    return {
        "cleanup.policy": "compact",
        "max.message.bytes": str(CHECKPOINT_MAX_BYTES + (1 << 20)),
        "min.compaction.lag.ms": str(CHANGELOG_COMPACTION_LAG_MS),
    }


def check_topics(settings: Settings, engine: type[PartitionEngine], changelog: str) -> None:
    """Check that every input and output exists with the environment's partition count. Create the changelog when it is missing.

    Raises:
        WorkerError: the broker does not answer, or a topic is missing or has another partition count.
    """
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers, "log_level": 0})
    try:
        existing = {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=30).topics.items()}
    except KafkaException as error:
        raise WorkerError(f"no Kafka broker answers at {settings.kafka_bootstrap_servers} (KAFKA_BOOTSTRAP_SERVERS): {error}") from error
    wanted = {settings.topic(name): settings.partitions for name in engine.inputs()}
    wanted |= {settings.topic(name): catalogue.TOPICS[name].partition_count(settings.partitions) for name in engine.WRITES}
    if absent := sorted(wanted.keys() - existing.keys()):
        raise WorkerError(f"topics are missing: {', '.join(absent)} (create them with: perpflow topics create)")
    if existing.get(changelog, settings.partitions) != settings.partitions:
        wanted[changelog] = settings.partitions
    if other := [f"{name} has {existing[name]}, not {count}" for name, count in sorted(wanted.items()) if existing[name] != count]:
        raise WorkerError(f"partition counts differ from PERPFLOW_PARTITIONS={settings.partitions}: {'; '.join(other)}")
    if changelog not in existing:
        new = NewTopic(changelog, settings.partitions, settings.replication_factor, config=changelog_config())
        try:
            admin.create_topics([new])[changelog].result(timeout=30)
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":  # another worker was faster
                raise WorkerError(f"{changelog} cannot be created: {error}") from error


async def _serve(app: WorkerApp, service: Service) -> int:
    """Run the app until it is stopped or fails; return the exit code."""
    loop = asyncio.get_running_loop()
    wake = asyncio.Event()

    def wake_up() -> None:
        loop.call_soon_threadsafe(wake.set)

    service.on_stop(wake_up)
    starting = asyncio.create_task(app.start())
    while not (service.stopping.is_set() or app.failure or app.crash_reason):
        if starting.done() and starting.exception() is not None:
            app.fail(starting.exception() or RuntimeError("start failed"))
            break
        try:
            await asyncio.wait_for(wake.wait(), timeout=0.2)
        except TimeoutError:
            continue
    # A hanging connection or thread must not keep the process alive.
    last_resort = threading.Timer(EXIT_TIMEOUT_S, _leave, [service])
    last_resort.daemon = True
    last_resort.start()
    failure = app.failure or app.crash_reason
    service.log.info("stopping", failure=None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        # The next start recomputes what is unwritten. No last checkpoint is written, because the state itself may be wrong.
        await app.partitions.abandon()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await app.stop()
    except TimeoutError:
        service.log.error("the app did not stop in time", timeout_s=STOP_TIMEOUT_S)
        return 1
    finally:
        starting.cancel()
    return 0 if failure is None else 1


def _leave(service: Service) -> None:
    service.log.error("exit forced: the app hangs while it stops", timeout_s=EXIT_TIMEOUT_S)
    os._exit(1)


def run(
    settings: Settings,
    app_id: str,
    engine: type[PartitionEngine],
    config: Any,
    *,
    datadir: Path | None = None,
    limits: Limits | None = None,
    session_timeout_s: float = SESSION_TIMEOUT_S,
    instance_id: str | None = None,
) -> int:
    """Run a worker until SIGTERM or SIGINT. Returns 0 after a clean stop, 1 after a failure (a supervisor restarts it then).

    An ``instance_id`` must be the same at every start and different for every worker. With it, a killed worker rejoins the group at once
    instead of after its session timeout. In return the group waits for that time before it gives a stopped worker's partitions to others.

    Raises:
        WorkerError: it cannot run here.
        RuntimeError: the installed versions of Faust or aiokafka are not the pinned ones.
    """
    check_pins()
    zstd.use_in_aiokafka()
    configure_logging(settings.log_level)
    for handler in logging.getLogger().handlers:
        handler.addFilter(RepeatFilter())
    app_id = f"{settings.topic_prefix}{app_id}"
    check_topics(settings, engine, f"{app_id}-{TABLE}-changelog")
    with tempfile.TemporaryDirectory(prefix="perpflow-worker-") as scratch:
        app = build_app(
            app_id,
            settings,
            engine,
            config,
            limits=limits or Limits(),
            datadir=datadir or Path(scratch),
            session_timeout_s=session_timeout_s,
            instance_id=instance_id,
        )
        started = time.monotonic()

        def health() -> dict[str, Any]:
            report = app.partitions.health()
            ready = app.partitions.generation is not None or time.monotonic() - started < 60 or app.rebalancing
            newest = [sample.value for family in metrics.WORKER_EVENT_TIME.collect() for sample in family.samples]
            return {
                "ok": app.failure is None and app.crash_reason is None and ready,
                "rebalancing": app.rebalancing,
                "event_time": max(newest, default=None),
                **report,
            }

        with Service("worker", settings.http_port, health) as service:
            code = asyncio.run(_serve(app, service))
    if code:
        # Faust's threads may hang in a broken connection. The process must end, so that a supervisor sees it.
        os._exit(code)
    return code
