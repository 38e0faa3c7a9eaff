"""What a benchmark is given: where broker and database are, topics and a database of its own, how much to do."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from deploy.database import migrate as database
from deploy.stack.topics import create_topics
from schemas.cluster import admin
from schemas.settings import Settings
from tests.bench.machine import Cores
from tests.support.paths import ROOT


@dataclass(frozen=True)
class Run:
    """One run of a benchmark.

    Attributes:
        quick: Its short form is wanted.
        folder: For logs and scratch files; empty at the start, removed afterwards.
        cores: Who runs where.
        settings: Broker and database of the run; topics and tables are had by ``environment``.
        began: When it began, monotonic seconds.
    """

    quick: bool
    folder: Path
    cores: Cores
    settings: Settings
    began: float = field(default_factory=time.monotonic)

    @property
    def repetitions(self) -> int:
        """How often a contestant is measured."""
        return 1 if self.quick else 3

    def say(self, message: str) -> None:
        """Tell the user what happens, and when since the benchmark's start."""
        print(f"    {time.monotonic() - self.began:5.1f} s  {message}", flush=True)

    def variables(self, settings: Settings) -> dict[str, str]:
        """Return the environment of a process that works under some settings."""
        names = {field.alias: getattr(settings, name) for name, field in Settings.model_fields.items()}
        ours = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in names.items() if key}
        return {**os.environ, **ours, "PYTHONPATH": str(ROOT), "PERPFLOW_HTTP_PORT": "0", "PERPFLOW_LOG_LEVEL": "warning"}

    @contextmanager
    def environment(self, *, tables: bool = False, **changes: object) -> Iterator[Settings]:
        """Make topics under a prefix of their own, and a database when ``tables``; remove them afterwards.

        Args:
            tables: Make and migrate a database, too.
            **changes: Fields of the settings.
        """
        name = f"bench{uuid.uuid4().hex[:8]}"
        settings = self.settings.model_copy(update={"topic_prefix": f"{name}.", "keep_history": True, **changes})
        if tables:
            self._sql(f"CREATE DATABASE {name}")
            settings = settings.model_copy(update={"database_url": f"{settings.database_url.rpartition('/')[0]}/{name}"})
        try:
            if tables:
                database.migrate(settings.database_url)
            create_topics(settings)
            yield settings
        finally:
            remove_topics(settings)
            if tables:
                self._sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _sql(self, statement: str) -> None:
        with psycopg.connect(self.settings.database_url, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]


def remove_topics(settings: Settings) -> None:
    """Delete all topics of a prefix, those that others than we made among them."""
    broker = admin(settings)
    wires = [topic for topic in broker.list_topics(timeout=10).topics if topic.startswith(settings.topic_prefix)]
    for future in (broker.delete_topics(wires, request_timeout=60) if wires else {}).values():
        future.result(timeout=60)
