"""The topic catalogue: every topic exists once, here (DESIGN 2).

Topics, tables, documentation and the codec's schemas come from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

DAY_MS = 24 * 3600 * 1000
# Long enough to replay a week. Disk a day is the limit.
MARKET_RETENTION_MS = 7 * DAY_MS
# Decisions and their consequences are small, and people ask about them later.
DECISION_RETENTION_MS = 90 * DAY_MS
# A compacted topic that replay reads must keep every revision as long as the market data.
COMPACTION_LAG_MS = MARKET_RETENTION_MS


@dataclass(frozen=True)
class Topic:
    """One topic.

    Attributes:
        name: Plain name; the wire name has the environment's prefix.
        key: Field (or fields joined by ``|``) of the record key, for the documentation.
        record_id: Fields that identify a record for ever. Readers drop repeats by them. Empty: the whole record, receive time included.
        rising: Fields of which at least one grows with each new record of a key. A record above the highest known value is no repeat.
        co_partitioned: Partition by base asset, with the market data's partition count.
        compacted: Log compaction by key instead of retention by time.
        retention_ms: Retention by record timestamp. For compacted topics: minimum age before compaction.
        partitions: Fixed number, or None for the environment's market-data count.
        market_data: Written by producers.
    """

    name: str
    key: str
    record_id: tuple[str, ...]
    rising: tuple[str, ...] = ()
    co_partitioned: bool = True
    compacted: bool = False
    retention_ms: int = MARKET_RETENTION_MS
    partitions: int | None = None
    market_data: bool = False

    def partition_count(self, default: int) -> int:
        """Return the number of partitions, given the environment's market-data count."""
        return self.partitions if self.partitions is not None else default

    def config(self) -> dict[str, str]:
        """Return the topic's broker configuration."""
        if self.compacted:
            return {"cleanup.policy": "compact", "min.compaction.lag.ms": str(self.retention_ms)}
        return {"cleanup.policy": "delete", "retention.ms": str(self.retention_ms)}


def _market(name: str, record_id: tuple[str, ...], rising: tuple[str, ...] = (), **more: Any) -> Topic:
    return Topic(name, "instrument", record_id, rising or ("event_time",), market_data=True, **more)


def _decision(name: str, key: str, record_id: tuple[str, ...], **more: Any) -> Topic:
    return Topic(name, key, record_id, retention_ms=DECISION_RETENTION_MS, **more)


_TOPICS = (
    _market("agg_trades", ("instrument", "agg_id"), ("agg_id",)),
    _market("depth", ("instrument", "epoch", "last_update_id", "state"), ("epoch", "last_update_id", "event_time")),
    # Update ids of some venues are times, and some restart. So the time is part of the id.
    _market("quotes", ("instrument", "update_id", "event_time"), ("update_id", "event_time")),
    _market("liquidations", ()),
    _market("funding", ()),
    _market("market_indicators", ()),
    _market("klines", ("instrument", "timeframe", "event_time")),
    _market("gaps", ()),
    _market("instruments", (), compacted=True, retention_ms=COMPACTION_LAG_MS),
    Topic("progress", "author", (), ("event_time",)),
    # The number of a refused revision may be used again.
    _decision("strategies", "strategy_id", ("strategy_id", "revision", "event_time"), compacted=True),
    _decision("engine_settings", "settings_id", ("settings_id", "revision", "event_time"), compacted=True),
    _decision("features", "instrument", ("instrument", "event_time")),
    _decision("bars", "instrument", ("instrument", "timeframe", "source", "event_time")),
    _decision("scores", "instrument", ("score_id",)),
    _decision("signals", "instrument", ("signal_id",)),
    _decision("labels", "instrument", ("instrument", "evaluated_at")),
    _decision("worker_progress", "author", ("author", "event_time", "progress_offset")),
    _decision("orders", "instrument", ("order_id", "status")),
    _decision("fills", "instrument", ("fill_id",)),
    _decision("positions", "position_id", ("position_id", "status", "event_time"), compacted=True),
    _decision("trades_closed", "instrument", ("trade_id",)),
    _decision("execution_cost_events", "instrument", ("trade_id",)),
    _decision("reconciliations", "account", ("account", "event_time"), co_partitioned=False, partitions=1),
    _decision("data_quality", "instrument", ("quality_id",)),
    Topic("risk_state", "account", ("account", "sequence"), co_partitioned=False, compacted=True, retention_ms=DAY_MS, partitions=1),
    _decision("risk_commands", "account", ("command_id",), co_partitioned=False, partitions=1),
    Topic("dead_letters", "source", (), ("event_time",), co_partitioned=False, partitions=1, retention_ms=DECISION_RETENTION_MS),
)

TOPICS: dict[str, Topic] = {topic.name: topic for topic in _TOPICS}

# Inputs of the engine, in the order of topics among records of one event time (DESIGN 3).
ENGINE_INPUTS = (
    "agg_trades", "depth", "engine_settings", "funding", "instruments", "klines", "liquidations", "market_indicators", "quotes", "strategies",
)  # fmt: skip
# Topics whose records are a run's result (hashes in tests, demo and replay).
RESULT_TOPICS = ("features", "scores", "signals", "trades_closed")


# Schemas of registered topics. Those of the catalogue are in avro/.
_REGISTERED: dict[str, str] = {}


def register(topic: Topic, schema_text: str) -> None:
    """Add the topic of an engine outside perpflow (``stream_apps.engines``), with its .avsc text.

    Raises:
        ValueError: the catalogue already has a topic of that name.
    """
    if topic.name in TOPICS and topic.name not in _REGISTERED:
        raise ValueError(f"topic: {topic.name!r} is in the catalogue already")
    TOPICS[topic.name] = topic
    _REGISTERED[topic.name] = schema_text


@cache
def schema_text(topic: str) -> str:
    """Return the .avsc text of a topic.

    Raises:
        KeyError: no such topic.
    """
    if topic not in TOPICS:
        raise KeyError(f"topic: {topic!r} is not in the catalogue ({', '.join(TOPICS)})")
    if topic in _REGISTERED:
        return _REGISTERED[topic]
    return resources.files(__package__).joinpath("avro", f"{topic}.avsc").read_text(encoding="utf-8")


@cache
def schema(topic: str) -> dict[str, Any]:
    """Return a topic's Avro schema as parsed JSON. Raises KeyError when there is no such topic."""
    parsed: dict[str, Any] = json.loads(schema_text(topic))
    return parsed


def field_names(topic: str) -> list[str]:
    """Return the names of a topic's top-level fields in schema order."""
    return [field["name"] for field in schema(topic)["fields"]]


def markdown(topics: Iterable[str] | None = None) -> str:
    """Return the catalogue as Markdown: one table of topics, then the fields of each."""
    chosen = [TOPICS[name] for name in (topics or TOPICS)]
    lines = ["| topic | key | partitions | kept | record |", "|---|---|---|---|---|"]
    for topic in chosen:
        kept = "newest per key" if topic.compacted else f"{topic.retention_ms // DAY_MS} days"
        count = topic.partitions if topic.partitions is not None else "market data's"
        lines.append(f"| {topic.name} | {topic.key} | {count} | {kept} | {schema(topic.name)['doc']} |")
    for topic in chosen:
        lines += ["", f"## {topic.name}", "", "| field | type | meaning |", "|---|---|---|"]
        lines += [f"| {field['name']} | {_type_text(field['type'])} | {field.get('doc', '')} |" for field in schema(topic.name)["fields"]]
    return "\n".join(lines) + "\n"


def _type_text(kind: Any) -> str:
    if isinstance(kind, list):
        return " or ".join(_type_text(part) for part in kind)
    if isinstance(kind, dict):
        if "logicalType" in kind:
            return str(kind["logicalType"])
        if kind["type"] == "array":
            return f"array of {_type_text(kind['items'])}"
        if kind["type"] == "map":
            return f"map of {_type_text(kind['values'])}"
        return str(kind.get("name", kind["type"]))
    return str(kind)
