"""The other stream processors of the worker's benchmark: how each is started, what it is given, and what of it is durable."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic

from deploy.stack.topics import led
from schemas.catalogue import schema_text
from schemas.cluster import admin
from schemas.codec.avro import parsed
from schemas.settings import Settings
from tests.bench.peers import install
from tests.bench.running import Run

PEERS = Path(__file__).parent / "peers"
PATIENCE_S, QUICK_PATIENCE_S = 600.0, 150.0  # of a job to its end
LED_S = 120.0
PIECE_S, SILENCE_S = 0.1, 30.0
KILLED = 9  # the exit code of a job that halted itself


@dataclass(frozen=True)
class Peer:
    """One of them.

    Attributes:
        name: For people.
        durable: What survives a kill -9.
        trades, quick_trades: How many of the log's trades it gets: more would only take longer. The short form starts with the second number,
            about four seconds of its work, and takes more where what is timed ends too soon.
        command: Told of what is fetched, returns the program before its arguments. Raises when it cannot be had.
        kind: Of a Kafka Streams job; "" for Python's.
        windows_only: It does the 5 m window alone.
        check_trades: How many trades it is checked with, at most.
        survives: Its sums go on after a kill: it is killed once when it is checked.
        changelog: How the changelog that its library would make is called, behind the job's name. "" leaves it to the library.
    """

    name: str
    durable: str
    trades: int
    quick_trades: int
    command: Callable[[Callable[[str], None]], list[str]]
    kind: str = ""
    windows_only: bool = False
    check_trades: int = 24_000
    survives: bool = False
    changelog: str = ""


def _python(script: str) -> Callable[[Callable[[str], None]], list[str]]:
    return lambda progress: [str(install.python(progress)), str(PEERS / script)]


_STORE = "closed panes in RocksDB with a changelog"
_ALL = "all of it: head, open pane and closed panes in RocksDB with a changelog, exactly once"
ALL = (
    # Faust makes its changelog and joins its group at once. A busy broker does not list the topic yet, and Faust asks again after five minutes.
    Peer(
        "plain Faust",
        "closed panes in a changelog",
        60_000,
        40_000,
        lambda _: [sys.executable, str(PEERS / "plain_faust.py")],
        changelog="-panes-changelog",
    ),
    Peer("Quix Streams", _STORE, 400_000, 260_000, _python("quix.py")),
    Peer("Bytewax, in process", "nothing", 1_000_000, 800_000, _python("bytewax_job.py")),
    # As its users write it: Avro by Avro's library, as all peers read it, and state that survives a kill, as ours does.
    Peer("Kafka Streams, hand-written panes", _ALL, 3_000_000, 1_500_000, install.kafka_streams, "library", survives=True),
    # What a user gains who leaves the library, and then durability, behind.
    Peer("Kafka Streams, Avro read by hand", _ALL, 4_000_000, 2_000_000, install.kafka_streams, "durable", survives=True),
    Peer("Kafka Streams, Avro read by hand, state on the heap", _STORE, 4_000_000, 2_000_000, install.kafka_streams, "panes"),
    Peer(
        "Kafka Streams, hopping 5 m only",
        "windows in RocksDB with a changelog",
        400_000,
        60_000,
        install.kafka_streams,
        "hopping",
        True,
        6_000,
    ),
)


@dataclass(frozen=True)
class Rate:
    """Trades, and the wall and CPU seconds that they took: of a peer, the second half of its trades.

    ``restored`` is how many trades a peer's process found taken by the one before it.
    """

    trades: int
    seconds: float
    cpu_seconds: float
    restored: int = 0

    @property
    def wall(self) -> float:
        """Trades a second."""
        return self.trades / self.seconds

    @property
    def cpu(self) -> float:
        """Trades a CPU second."""
        return self.trades / max(self.cpu_seconds, 1e-9)


class Played:
    """A peer's job over a topic.

    Args:
        run: Where logs go and who runs where.
        settings: Topics of the run.
        peer: The peer.
        trades: After how many it ends.
        checking: It is run for its sums, not for its speed, and not pinned.
    """

    def __init__(self, run: Run, settings: Settings, peer: Peer, trades: int, checking: bool = False) -> None:
        self.run, self.settings, self.peer, self.trades, self.checking = run, settings, peer, trades, checking
        self.name = f"peer-{uuid.uuid4().hex[:8]}"
        self.output = f"{settings.topic_prefix}{self.name}"

    def play(self) -> Rate:
        """Run it to its end. Raises RuntimeError when it fails."""
        command = self.peer.command(self.run.say)
        self._create_topics()
        arguments = [*command, *self._arguments(self.run.folder / self.name)]
        if not (self.checking and self.peer.survives):
            return Rate(**json.loads(self._ended(arguments).splitlines()[-1]))
        last = self.trades * 2 // 3
        self._ended([*arguments, str(last)], KILLED)
        rate = Rate(**json.loads(self._ended(arguments).splitlines()[-1]))
        if not 0 < rate.restored < last:
            raise RuntimeError(f"killed behind {last} trades it went on behind {rate.restored}: the kill showed nothing")
        return rate

    def _ended(self, arguments: list[str], expected: int = 0) -> bytes:
        """Run its process to its end, and return what it printed. Raises RuntimeError when its exit code is another one than expected."""
        log = self.run.folder / f"{self.name}.log"
        with log.open("ab") as errors:
            more: dict[str, Any] = {"stdout": subprocess.PIPE, "cwd": self.run.folder}
            variables = self.run.variables(self.settings) | {"PYTHONPATH": str(PEERS)}
            # Timed, nobody's compiler is held back; a check is over before the second one pays.
            variables.pop("JDK_JAVA_OPTIONS", None)
            if self.checking:
                variables["JDK_JAVA_OPTIONS"] = "-XX:TieredStopAtLevel=1"
                process = subprocess.Popen(arguments, env=variables, stderr=errors, **more)
            else:
                process = self.run.cores.start(arguments, variables, log, **more)
            try:
                out, _ = process.communicate(timeout=QUICK_PATIENCE_S if self.run.quick else PATIENCE_S)
            finally:
                process.kill()
        if process.returncode != expected:
            raise RuntimeError(f"ended with {process.returncode}: {log.read_text(errors='replace').strip()[-1500:]}")
        return bytes(out)

    def _arguments(self, folder: Path) -> list[str]:
        bootstrap, group = self.settings.kafka_bootstrap_servers, self.output
        source = self.settings.topic("agg_trades")
        if self.peer.kind:
            return [self.peer.kind, bootstrap, source, self.output, str(self.trades), group, str(folder), schema_text("agg_trades")]
        asked = {"bootstrap": bootstrap, "partitions": self.settings.partitions, "input": source, "output": self.output, "trades": self.trades,
                 "group": group, "folder": str(folder), "schema": {k: v for k, v in parsed("agg_trades").items() if not k.startswith("__")}}  # fmt: skip
        return [json.dumps(asked)]

    def _create_topics(self) -> None:
        """Make its topics, and wait until the broker leads them. Raises RuntimeError when it does not."""
        broker = admin(self.settings)  # kept until the answer is here
        names, partitions = [self.output], self.settings.partitions
        # Some keep the trades' own time, which is long ago.
        topics = [NewTopic(self.output, partitions, 1, config={"retention.ms": "-1"})]
        if self.peer.changelog:
            names.append(self.output + self.peer.changelog)
            topics.append(NewTopic(names[-1], partitions, 1, config={"cleanup.policy": "compact"}))
        for future in broker.create_topics(topics).values():
            future.result(timeout=60)
        places = [TopicPartition(name, number) for name in names for number in range(partitions)]
        deadline = time.monotonic() + LED_S
        while not led(broker, places):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the broker does not lead {', '.join(names)} {LED_S:.0f} s after they were made")
            time.sleep(0.05)

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield instrument and features of all that it wrote."""
        for message in consume(self.settings, self.output):
            yield message.key().decode(), json.loads(message.value())


def played(run: Run, settings: Settings, peer: Peer, trades: int, checking: bool = False) -> tuple[Played, Rate]:
    """Run a peer's job, once more when its process fails: Quix Streams may not find a topic that it has just made, on a busy broker."""
    for last in (False, True):
        job = Played(run, settings, peer, trades, checking)
        try:
            return job, job.play()
        except RuntimeError:
            if last:
                raise
    raise AssertionError("not reached")


def consumer(settings: Settings, **more: Any) -> Consumer:
    """Return a client that fetches in large pieces."""
    return Consumer(more | {
        "bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False,
        "max.partition.fetch.bytes": 4 << 20, "fetch.max.bytes": 64 << 20, "queued.max.messages.kbytes": 1 << 18,
    })  # fmt: skip


def consume(settings: Settings, wire: str, batch: int = 10_000) -> Iterator[Any]:
    """Yield the messages that a topic holds now, but those of aborted transactions."""
    # Offsets do not tell how many there are: the end of a transaction has one, too.
    client = consumer(settings, **{"enable.partition.eof": True})
    client.assign([TopicPartition(wire, p, 0) for p in range(settings.partitions)])
    ended: set[int | None] = set()
    heard = time.monotonic()
    try:
        while len(ended) < settings.partitions:
            messages = client.consume(batch, PIECE_S)
            heard = time.monotonic() if messages else heard
            assert time.monotonic() - heard < SILENCE_S, f"{wire}: {settings.partitions - len(ended)} partitions did not come to their end"
            for message in messages:
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    raise KafkaException(error)
    finally:
        client.close()
