"""The registry says what the workers do: the log folded by an independent model, whatever was written to it, in whatever batches."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from schemas.settings import Settings
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from tests.support.timescale.timescale_helpers import Feeder, migrated, query, sink_thread, until

pytestmark = pytest.mark.stack

NOW = 1_760_000_000_000


def config(strategy_id: str = "a", revision: int = 1, **changes: Any) -> StrategyConfig:
    values = {"event_time": NOW + revision * 1000, "receive_time": NOW + revision * 1000, "edited_by": f"editor {revision}", **changes}
    return StrategyConfig(
        **{"strategy_id": strategy_id, "instrument": "BINANCE:BTCUSDT-PERP", "display_name": strategy_id, "revision": revision, **values}
    )


def write(settings: Settings, feeder: Feeder, *batches: list[tuple[int, StrategyConfig]]) -> None:
    """Let the sink write batches one after another; each has arrived before the next is sent."""
    count = query(settings, "SELECT count(*) FROM strategy_audit")[0][0]
    with sink_thread(settings, batch_seconds=0.05) as (_, _):
        for batch in batches:
            for partition, one in batch:
                feeder.send("strategies", partition, one.to_record())
            feeder.flush()
            count += len(batch)
            until("all in the audit trail", lambda: query(settings, "SELECT count(*) FROM strategy_audit")[0][0] >= count)  # noqa: B023


def test_registry_and_audit_trail_of_a_life(environment: Settings, topics: list[str]) -> None:
    feeder = Feeder(migrated(environment))
    steps = [
        config(note="a try", description="why"),
        config(revision=2, entry_score=70.0, tags=("x",)),
        config(revision=3, entry_score=70.0, tags=("x",), weight_direction=54),  # refused
        config(revision=3, entry_score=70.0, tags=("x",), status="paused", event_time=NOW + 3500),
        config(revision=3, entry_score=60.0, event_time=NOW + 3600),  # another editor was faster
        config(revision=4, entry_score=70.0, tags=("x",), status="deprecated", effective_time=NOW + 15_000),
        config(revision=5, entry_score=71.0, tags=("x",), status="deprecated"),  # refused
    ]
    write(environment, feeder, [(1, one) for one in steps[:3]], [(1, one) for one in steps[3:]])
    rows = query(
        environment, "SELECT revision, accepted, action, changed, reason, edited_by, note FROM strategy_audit ORDER BY kafka_offset"
    )
    assert [row[:3] for row in rows] == [
        (1, True, "create"), (2, True, "edit"), (3, False, "refused"), (3, True, "pause"), (3, False, "refused"), (4, True, "deprecate"),
        (5, False, "refused"),
    ]  # fmt: skip
    assert rows[0][3]["description"] == [None, "why"] and rows[0][5:] == ("editor 1", "a try")
    assert rows[1][3] == {"entry_score": [75.0, 70.0], "tags": [[], ["x"]], "description": ["why", None]}
    assert (rows[3][3], rows[5][3]) == ({"status": ["running", "paused"]}, {"status": ["paused", "deprecated"]})
    assert [row[4].partition(":")[0] for row in rows if not row[1]] == ["weight_direction", "revision", "status"]
    (held,) = query(
        environment,
        "SELECT revision, status, config_hash, config->>'entry_score', created_at < deprecated_at, deprecated_at = updated_at,"
        " (extract(epoch FROM effective_time) * 1000)::bigint, edited_by FROM strategy_registry",
    )
    assert held == (4, "deprecated", config_hash(steps[5]), "70.0", True, True, NOW + 15_000, "editor 4")
    assert query(environment, "SELECT revision, entry_score, status FROM strategies_current") == [(4, 70.0, "deprecated")]
    # Restored: created when it was, deprecated no more.
    write(environment, feeder, [(1, config(revision=5, entry_score=70.0, tags=("x",), event_time=NOW + 5500))])
    assert query(environment, "SELECT revision, status, deprecated_at, effective_time, config_hash FROM strategy_registry") == [
        (5, "running", None, None, config_hash(steps[1]))
    ]
    assert query(environment, "SELECT (extract(epoch FROM created_at) * 1000)::bigint FROM strategy_registry") == [(NOW + 1000,)]


def test_the_registry_equals_a_plain_fold_of_any_log(environment: Settings, topics: list[str]) -> None:
    """Random edits, races, bad records and repeats, in random batches, with a topic partition for each of two groups."""
    source = random.Random(3)
    feeder = Feeder(migrated(environment))
    model: dict[str, tuple[int, str, float]] = {}  # id -> revision, status, entry score: the rules written down once more
    log: list[tuple[int, StrategyConfig]] = []
    accepted = 0
    for number in range(120):
        name, partition = source.choice((("a", 1), ("b", 1), ("c", 2)))
        revision, status, entry = model.get(name, (0, "running", 75.0))
        wanted = source.choice((revision + 1, revision + 1, revision + 1, revision, max(revision - 1, 1), revision + 3)) or 1
        new_status, new_entry = source.choice(("running", "running", "paused", "deprecated")), float(source.randint(55, 82))
        if status == "deprecated" and source.random() < 0.5:
            new_entry = entry
        one = config(name, wanted, status=new_status, entry_score=new_entry, flip_threshold=82.0, event_time=NOW + number)
        log.append((partition, one))
        good = 60 <= new_entry <= 82 and wanted > revision
        if status == "deprecated" and name in model:
            good = good and new_entry == entry
        if good:
            model[name] = (wanted, new_status, new_entry)
            accepted += 1
    batches, at = [], 0
    while at < len(log):
        size = source.choice((1, 5, 30))
        batches.append(log[at : at + size])
        at += size
    write(environment, feeder, *batches)
    held = query(environment, "SELECT strategy_id, revision, status, (config->>'entry_score')::float8 FROM strategy_registry")
    assert {row[0]: row[1:] for row in held} == model
    assert query(environment, "SELECT count(*) FILTER (WHERE accepted), count(*) FROM strategy_audit") == [(accepted, 120)]
    assert 20 < accepted < 100
    assert query(environment, "SELECT strategy_id, revision, status, entry_score FROM strategies_current ORDER BY 1") == sorted(
        (name, *values) for name, values in model.items()
    )


def test_rows_of_an_earlier_release_and_a_topic_created_anew(environment: Settings, topics: list[str]) -> None:
    feeder = Feeder(migrated(environment))
    write(
        environment,
        feeder,
        [(1, config()), (1, config(revision=2, entry_score=70.0))],
        [(2, config("b", instrument="BINANCE:ETHUSDT-PERP"))],
    )
    with psycopg.connect(environment.database_url) as connection:
        connection.execute("DELETE FROM strategy_audit")
        connection.execute("DELETE FROM strategy_registry")
    with sink_thread(environment, batch_seconds=0.05) as (_, _):
        until("the registry", lambda: query(environment, "SELECT count(*) FROM strategy_audit WHERE accepted") == [(3,)])
    assert query(environment, "SELECT strategy_id, revision FROM strategy_registry ORDER BY 1") == [("a", 2), ("b", 1)]
    # The same topic as another log: what it says holds, from revision 1 on; the trail of before stays.
    with psycopg.connect(environment.database_url) as connection:
        connection.execute("UPDATE sink_offsets SET topic_id = 'another' WHERE topic = 'strategies'")
    with sink_thread(environment, batch_seconds=0.05) as (_, _):
        until("the registry", lambda: query(environment, "SELECT count(*) FROM strategy_registry") == [(0,)])
        feeder.send("strategies", 1, replace(config(), event_time=NOW + 99, entry_score=62.0).to_record())
        feeder.flush()
        until("the registry", lambda: query(environment, "SELECT strategy_id, revision FROM strategy_registry") == [("a", 1)])
    assert query(environment, "SELECT count(*) FROM strategy_audit") == [(4,)]
