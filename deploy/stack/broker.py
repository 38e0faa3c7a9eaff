"""The Kafka broker of the local stack: configuration, storage, start and health."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil

from deploy.stack import processes
from deploy.stack.errors import StackError, log_tail
from deploy.stack.java import Progress, find_java, kafka_jars

# A record batch of the worker's changelog or a large book may exceed Kafka's 1 MB default.
MESSAGE_MAX_BYTES = 16 * 1024 * 1024
HEAP = "768m"
START_TIMEOUT_S = 60.0

_LOG4J = """status = warn
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = ${sys:perpflow.log}
appender.file.filePattern = ${sys:perpflow.log}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = [%d{yyyy-MM-dd'T'HH:mm:ss,SSS}{UTC}] %p %m (%c)%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 20MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""


class Broker:
    """One Kafka node that is broker and controller (KRaft), in a folder.

    Args:
        folder: Folder of configuration and data.
        logs: Folder of the log files.
    """

    program = "java"

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self.log = logs / "kafka.log"
        self.output = logs / "kafka.out"
        self.properties = folder / "server.properties"

    @property
    def marker(self) -> str:
        """Command-line argument that identifies this broker's process."""
        return f"-Dperpflow.stack={self.folder}"

    def configure(self, port: int, controller_port: int) -> None:
        """Write the configuration files."""
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        host = processes.HOST
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{host}:{controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{host}:{port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            # Relative to the working directory: a path may have commas, or characters that a properties file cannot have.
            "log.dirs": "data",
            # One node, so no replication.
            "default.replication.factor": 1,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # Internal topics of a few partitions instead of 50: fewer files to open and recover.
            "offsets.topic.num.partitions": 8,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.num.partitions": 1,
            # A consumer that joins an empty group starts at once instead of after 3 s.
            "group.initial.rebalance.delay.ms": 0,
            # A misspelt topic is an error, not a new topic.
            "auto.create.topics.enable": "false",
            # After a kill the controller considers the broker alive, and rejects the new one, until its session ends.
            "broker.session.timeout.ms": 5000,
            "broker.heartbeat.interval.ms": 1000,
            "message.max.bytes": MESSAGE_MAX_BYTES,
            "replica.fetch.max.bytes": MESSAGE_MAX_BYTES,
            "fetch.max.bytes": 4 * MESSAGE_MAX_BYTES,
            "num.recovery.threads.per.data.dir": 2,
        }
        self.properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(_LOG4J, encoding="utf-8")

    def _command(self, jars: list[Path], log: Path, main: str, *arguments: str, marked: bool = False) -> list[str]:
        return [
            str(find_java()),
            f"-Xmx{HEAP}",
            "-Xms128m",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            # Write nothing outside the stack's folder: no unpacked libraries and no performance data in /tmp.
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            "-XX:-UsePerfData",
            # zstd and snappy are native libraries; Java 24 and later warn without this.
            "--enable-native-access=ALL-UNNAMED",
            *([self.marker] if marked else []),
            f"-Dperpflow.log={os.path.relpath(log, self.folder)}",
            "-Dlog4j2.configurationFile=log4j2.properties",
            "-cp",
            ":".join(str(jar) for jar in jars),
            main,
            *arguments,
        ]

    def format(self, progress: Progress) -> None:
        """Format the storage if it is not formatted.

        Raises:
            StackError: Java or the jars are missing, or the tool failed.
        """
        if (self.folder / "data" / "meta.properties").exists():
            return
        jars = kafka_jars(progress)
        progress("formatting the broker's storage")
        # The id may start with "-", so it is passed with "=".
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = self._command(
            jars,
            self.log.with_name("kafka-format.log"),
            "kafka.tools.StorageTool",
            "format",
            f"--cluster-id={cluster}",
            "-c",
            self.properties.name,
        )
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder, env=_environment())
        if done.returncode != 0:
            raise StackError(f"the broker's storage could not be formatted (exit code {done.returncode}):\n{done.stdout}{done.stderr}")

    def start(self, progress: Progress) -> psutil.Process:
        """Start the broker's process. ``wait`` returns when it answers."""
        jars = kafka_jars(progress)
        progress("starting the Kafka broker")
        command = self._command(jars, self.log, "kafka.Kafka", self.properties.name, marked=True)
        return processes.start_detached(command, self.output, env=_environment(), cwd=self.folder)

    def wait(self, process: psutil.Process, port: int) -> None:
        """Wait until the broker answers.

        Raises:
            StackError: it exited or did not answer in time. Shows the end of its log.
        """
        if not processes.wait_until(lambda: ready(port), process, START_TIMEOUT_S):
            ended = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
            processes.kill(process)
            raise StackError(
                f"the Kafka broker {'exited during its start' if ended else f'did not answer within {START_TIMEOUT_S:.0f} s'}. "
                f"The end of {self.log}:\n{log_tail(self.log)}\n{log_tail(self.output, 5)}"
            )


def _environment() -> dict[str, str]:
    """Return the broker's environment, with a UTF-8 locale because Java uses it to decode paths."""
    return {**os.environ, "LC_ALL": "C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8"}


def answers(port: int, timeout: float = 2.0) -> bool:
    """Return whether the broker on ``port`` answers a metadata request."""
    return _metadata(port, timeout) is not None


def ready(port: int, timeout: float = 5.0) -> bool:
    """Return whether the broker on ``port`` leads all its partitions. A restarted broker answers before that."""
    topics = _metadata(port, timeout)
    if topics is None:
        return False
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    from deploy.stack.topics import led

    places = [TopicPartition(name, number) for name, topic in topics.items() for number in topic.partitions]
    return led(AdminClient(_client_settings(port, timeout)), places, timeout)


def _client_settings(port: int, timeout: float) -> dict[str, str | int | float | bool]:
    return {"bootstrap.servers": f"{processes.HOST}:{port}", "log_level": 0, "socket.timeout.ms": int(timeout * 1000)}


def _metadata(port: int, timeout: float) -> dict[str, Any] | None:
    if not processes.accepts_connections(port):
        return None
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        found = AdminClient(_client_settings(port, timeout)).list_topics(timeout=timeout)
    except KafkaException:
        return None
    topics: dict[str, Any] = found.topics
    return topics if found.brokers else None
