"""Settings of every process, from the environment (secrets also from files). One class, with the same names everywhere."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.codec.avro import Codec, Registry
from schemas.partition import AssetGroups, partition_of

# Roles of the database with least privilege; each is perpflow_<role> there. The owner of the tables migrates, maintains and backs up.
ROLES = ("writer", "reader", "executor", "console")


class Settings(BaseSettings):
    """The settings of a process. The aliases name the environment variables."""

    model_config = SettingsConfigDict(populate_by_name=True, extra="ignore")

    kafka_bootstrap_servers: str = Field(
        "localhost:9092", alias="KAFKA_BOOTSTRAP_SERVERS", description="Kafka brokers, host:port,host:port."
    )
    database_url: str = Field("", alias="DATABASE_URL", description="PostgreSQL or TimescaleDB, postgresql://user@host:port/name.")
    writer_password: str = Field(
        "", alias="PERPFLOW_WRITER_PASSWORD", repr=False, description="Password of the role perpflow_writer (the sink)."
    )
    reader_password: str = Field(
        "", alias="PERPFLOW_READER_PASSWORD", repr=False, description="Password of the role perpflow_reader (Grafana, reports)."
    )
    executor_password: str = Field(
        "", alias="PERPFLOW_EXECUTOR_PASSWORD", repr=False, description="Password of the role perpflow_executor."
    )
    console_password: str = Field(
        "", alias="PERPFLOW_CONSOLE_PASSWORD", repr=False, description="Password of the role perpflow_console (users, audit, annotations)."
    )
    schema_registry_url: str = Field(
        "", alias="SCHEMA_REGISTRY_URL", description="Confluent schema registry; empty: single-object encoding."
    )
    topic_prefix: str = Field(
        "", alias="PERPFLOW_TOPIC_PREFIX", description="Prefix of all topics and consumer groups; separates environments."
    )
    partitions: int = Field(
        12, alias="PERPFLOW_PARTITIONS", ge=1, description="Partitions of the co-partitioned topics. Fixed for the life of an environment."
    )
    asset_groups: str = Field(
        "",
        alias="PERPFLOW_ASSET_GROUPS",
        description="Assets that share a partition, so that one strategy may trade them: BTC+ETH,SOL+XRP. Fixed for the life of an environment.",
    )
    keep_history: bool = Field(
        False,
        alias="PERPFLOW_KEEP_HISTORY",
        description="Create topics without retention. For recordings: retention by event time would delete old records at once.",
    )
    replication_factor: int = Field(1, alias="PERPFLOW_REPLICATION_FACTOR", ge=1)
    grid_ms: int = Field(
        15_000, alias="PERPFLOW_GRID_MS", gt=0, description="Evaluation grid, ms of event time; also the length of a pane."
    )
    allowed_lateness_ms: int = Field(
        250, alias="PERPFLOW_ALLOWED_LATENESS_MS", ge=0, description="An instant T fires at the first mark with t >= T + this."
    )
    analytics: str = Field(
        "all",
        alias="PERPFLOW_ANALYTICS",
        description="Measures of stream_apps/core/market/analytics to keep: all, none, or names separated by commas.",
    )
    vpin_buckets: str = Field(
        "",
        alias="PERPFLOW_VPIN_BUCKETS",
        description="Volume of a VPIN bucket by base asset, base units: BTC=100,ETH=1000. Others have 1/50 of 24 h.",
    )
    vpin_bucket_count: int = Field(50, alias="PERPFLOW_VPIN_BUCKET_COUNT", ge=1, description="Number of buckets in VPIN.")
    engine_settings: str = Field(
        "",
        alias="PERPFLOW_ENGINE_SETTINGS",
        description="Defaults of an engine's other numbers: stale_book_ms=3000,p99_floor.BTC=12. See `perpflow settings doc`.",
    )
    mark_step_ms: int = Field(250, alias="PERPFLOW_MARK_STEP_MS", gt=0, description="Step of the progress marks, ms of event time.")
    http_port: int = Field(0, alias="PERPFLOW_HTTP_PORT", ge=0, le=65535, description="Port of /health and /metrics; 0: any free port.")
    log_level: str = Field("info", alias="PERPFLOW_LOG_LEVEL")

    @field_validator("asset_groups")
    @classmethod
    def _asset_groups(cls, text: str) -> str:
        AssetGroups.parse(text)
        return text

    @model_validator(mode="after")
    def _passwords_from_files(self) -> Settings:
        """A password may be in a file that ``<variable>_FILE`` names, as container engines provide secrets."""
        for role in ROLES:
            path = os.environ.get(f"PERPFLOW_{role.upper()}_PASSWORD_FILE")
            if path and not getattr(self, f"{role}_password"):
                try:
                    setattr(self, f"{role}_password", Path(path).read_text(encoding="utf-8").strip())
                except (OSError, UnicodeDecodeError) as error:
                    raise ValueError(f"PERPFLOW_{role.upper()}_PASSWORD_FILE: {path}: {type(error).__name__}") from None
        return self

    def role_url(self, role: str) -> str:
        """Return DATABASE_URL for one of ROLES: with its name and password if the password is known, else unchanged."""
        password = getattr(self, f"{role}_password")
        if not password or not self.database_url:
            return self.database_url
        parts = urlsplit(self.database_url)
        return urlunsplit(parts._replace(netloc=f"perpflow_{role}:{quote(password, safe='')}@{parts.netloc.rpartition('@')[2]}"))

    @cached_property
    def codec(self) -> Codec:
        """Return the codec for SCHEMA_REGISTRY_URL."""
        return Codec(Registry(self.schema_registry_url, self.topic_prefix) if self.schema_registry_url else None)

    @property
    def groups(self) -> AssetGroups:
        """The assets that share a partition."""
        return AssetGroups.parse(self.asset_groups)

    def partition_of(self, asset: str) -> int:
        """Return the partition of a (mapped) base asset in the co-partitioned topics."""
        return partition_of(asset, self.partitions, self.groups)

    def topic(self, name: str) -> str:
        """Return the wire name of a topic of the catalogue."""
        return f"{self.topic_prefix}{name}"

    def group(self, service: str) -> str:
        """Return the consumer group of a service."""
        return f"{self.topic_prefix}perpflow-{service}"
