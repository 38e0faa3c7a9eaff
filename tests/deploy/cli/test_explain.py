"""``perpflow explain``: the text is a person's, the score is found in the topic and in the database."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest
from confluent_kafka import Producer
from psycopg import sql
from typer.testing import CliRunner, Result

from deploy.cli import load_app
from deploy.cli.look.explain import render
from deploy.database.migrate import migrate
from schemas.codec.recordset import RecordSet
from schemas.errors import UserError
from schemas.settings import Settings
from sinks.queries.scores import ScoreId, find
from sinks.timescale.rows import COPY_HEADER, COPY_TRAILER, encode
from sinks.timescale.tables import table
from stream_apps.core.market.snapshot import Prints, Snapshot
from stream_apps.core.market.windows import FAST_WINDOWS, WINDOWS
from stream_apps.core.signals.scoring import StrategyMemory, evaluate
from stream_apps.core.signals.strategy import StrategyConfig, config_hash

T = 1_760_000_010_000
SOL = "BINANCE:SOLUSDT-PERP"
Variables = Callable[..., dict[str, str]]


def score(strategy: str = "s", time: int = T, **changes: Any) -> dict[str, Any]:
    """A real score: a LONG market with a large purchase, the crowd short, the premium missing, the top traders' share stale."""
    config = StrategyConfig(strategy_id=strategy, instrument=SOL, display_name="SOL fast", revision=3, gate_spot_perp_enabled=False)
    shot = Snapshot(
        instrument=SOL,
        time=time,
        decided_at=time + 250,
        price=100.0,
        cvd=dict.fromkeys(WINDOWS, 7.0),
        volume=dict.fromkeys(WINDOWS, 1000.0),
        slope=dict.fromkeys(FAST_WINDOWS, 1.0),
        acceleration=dict.fromkeys(FAST_WINDOWS, 0.5),
        atr=0.5,
        quantity_p99=20.0,
        large_trades=Prints(np.array([100.0]), np.array([30.0]), np.array([True])),
        obi=0.1,
        open_interest_change=0.04,
        long_short_ratio=0.4,
        late_trades=1234,
        missing_inputs=("coinbase_premium",),
        stale_inputs=("top_trader_long_share",),
    )
    return evaluate(replace(shot, **changes), config, config_hash(config), StrategyMemory()).score


def test_it_reads_like_an_answer() -> None:
    record = score()
    assert render(record, "topic", 4).splitlines() == [
        "BINANCE:SOLUSDT-PERP at 2025-10-09 08:53:30 UTC, decided at 08:53:30.250 (from the topic)",
        f"strategy  SOL fast (s), model v54_factory, revision 3, configuration {record['config_hash']}",
        "settings  revision 4 of the engine's settings",
        "market    price 100, ATR 0.5 (0.500% of it), regime range, score direction LONG",
        "verdict   signal: enter LONG, and close the opposite position, tier heavy",
        "score     87.2 of 100; enters from 75, flips from 80",  # 41.25 + 15 + 25 + 6 = 87.25, to even
        "",
        "Layers",
        "                                    points     max     raw     max",
        "  direction                          41.25   41.25   55.00   55.00",
        "    cvd_resonance                                    30.00",
        "    p99_flow                                         20.00",
        "    accel_bonus                                       5.00",
        "  crowding                           15.00   18.75   20.00   25.00",
        "    long_short_ratio                                 15.00",
        "    top_trader_position                               5.00",
        "  environment                        25.00   25.00   15.00   15.00",
        "    open_interest                                    15.00",
        "  auxiliary                           6.00   15.00    2.00    5.00",
        "    coinbase_premium                                  2.00",
        "",
        "Gates",
        "  volatility          passed   0.005, limit 0.002",
        "  cvd_resonance       passed   7, limit 0",
        "  whale               passed   no value, limit 1",
        "  obi                 passed   0.1, limit 0.35",
        "  spot_perp           off",
        "",
        "Inputs",
        "  cvd_30m                     7",
        "  cvd_4h                      7",
        "  acceleration_30m            0.5",
        "  atr                         0.5",
        "  quantity_p99                20",
        "  price                       100",
        "  large_buys                  1",
        "  large_sells                 0",
        "  obi                         0.1",
        "  open_interest_change        0.04",
        "  long_short_ratio            0.4",
        "",
        "Missing or stale inputs: top_trader_long_share (stale), coinbase_premium (missing)",
        "Late trades of the instrument so far: 1,234",
    ]


@pytest.mark.parametrize(
    ("changes", "verdict", "gate"),
    [
        ({"obi": -0.5}, "no signal: blocked by obi_veto(-0.5)", "  obi                 BLOCKED  -0.5, limit 0.35: obi_veto(-0.5)"),
        ({"atr": 0.1}, "no signal: blocked by low_vol(0.001<0.002)", "  obi                 not evaluated: an earlier gate blocked"),
        ({"obi": None}, "no signal: blocked by missing(obi)", "  obi                 BLOCKED  no value, limit 0.35: missing(obi)"),
        (
            {"long_short_ratio": 1.0, "open_interest_change": -0.1},
            "no signal: 59.3 is below the entry score 75",
            "  spot_perp           off",
        ),
    ],
)
def test_why_there_was_no_signal(changes: dict[str, Any], verdict: str, gate: str) -> None:
    lines = render(score(**changes), "database").splitlines()
    assert f"verdict   {verdict}" in lines and gate in lines
    if "blocked" in verdict:
        assert any(line.startswith("score     0 of 100; the layers alone give 87.2") for line in lines)


def test_a_score_that_was_not_warm_and_one_of_an_earlier_release() -> None:
    text = render(score(atr=None), "topic")
    assert "verdict   not evaluated: the history is too short" in text and "ATR not known" in text and "Layers" not in text
    old = {**score(obi=-0.5), "verdict": "", "inputs": {}, "entry_score": None, "flip_threshold": None}
    assert "verdict   no signal: obi_veto(-0.5)" in render(old, "topic")


@pytest.mark.parametrize(
    "text", ["", "x", "BINANCE:SOLUSDT-PERP|s", "BINANCE:SOLUSDT-PERP||1", "BINANCE:SOLUSDT-PERP|s|soon", "no instrument|s|1"]
)
def test_what_is_no_score_id_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no score id"):
        ScoreId.parse(text)


def step(time: int, revision: int, **changes: Any) -> dict[str, Any]:
    """A worker's step at an instant, with the settings that it used."""
    made = {
        "author": "BINANCE", "venue": "BINANCE", "event_time": time, "receive_time": time + 250, "progress_offset": 7, "cut": {},
        "settings_revision": revision, "signals_offset": 0,
    }  # fmt: skip
    return {**made, **changes}


def write_topic(settings: Settings, records: list[dict[str, Any]], topic: str = "scores") -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers})
    for record in records:
        producer.produce(
            settings.topic(topic), settings.codec.encode(topic, record), SOL, settings.partition_of("SOL"),
            timestamp=record["event_time"],
        )  # fmt: skip
    assert producer.flush(30) == 0


def write_table(settings: Settings, records: list[dict[str, Any]], topic: str = "scores") -> None:
    """As the sink writes: its own encoder, binary COPY."""
    values = [settings.codec.encode(topic, record) for record in records]
    messages = RecordSet.from_messages([(n, 0, None, value) for n, value in enumerate(values)])
    rows = encode(settings.codec, topic, messages, settings.partition_of("SOL"))
    assert not rows.refused
    columns = sql.SQL(", ").join(map(sql.Identifier, table(topic).column_names))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(topic), columns)
    with psycopg.connect(settings.database_url) as connection, connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(COPY_HEADER)
        copy.write(rows.payload)
        copy.write(COPY_TRAILER)


@pytest.mark.stack
def test_it_is_found_in_the_topic_then_in_the_database(
    environment: Settings, topics: list[str], environment_variables: Variables, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(environment.database_url)
    # Of another strategy at the same instant, one whose id begins alike, and instants around it, one written late by a venue that caught up.
    others = [score("s2"), score(time=T - 15_000), score(time=T + 15_000), score("ss")]
    write_topic(environment, [others[1], others[0], others[2], others[3], score(), score(time=T + 30_000)])
    write_table(environment, [score(time=T + 60_000, obi=None), score("s2", time=T + 60_000)])
    # The same instant of another venue and of another decision used other settings.
    write_topic(environment, [step(T, 9, author="OKX", venue="OKX"), step(T, 8, receive_time=T + 500), step(T, 4)], "worker_progress")
    write_table(environment, [step(T + 60_000, 6), step(T + 60_000, 9, author="OKX", venue="OKX")], "worker_progress")
    for name, value in environment_variables().items():
        monkeypatch.setenv(name, value)

    def explain(score_id: str, *options: str) -> Result:
        return CliRunner().invoke(load_app("explain"), [score_id, *options])

    assert json.loads(explain(f"{SOL}|s|{T}", "--json").output) == {**score(), "found_in": "topic", "settings_revision": 4}
    assert find(environment, ScoreId(SOL, "s", T)) == (score(), "topic")
    # What is in the database only comes back as the very same record.
    assert find(environment, ScoreId(SOL, "s", T + 60_000)) == (score(time=T + 60_000, obi=None), "database")
    assert "blocked by missing(obi)" in explain(f"{SOL}|s|{T + 60_000}").output
    assert "settings  revision 6 of" in explain(f"{SOL}|s|{T + 60_000}").output
    assert "settings  not known" in explain(f"{SOL}|s|{T + 30_000}").output
    for missing in (f"{SOL}|nobody|{T}", f"{SOL}|s|{T + 1}", f"{SOL}|s|{T + 900_000}"):
        failed = explain(missing)
        assert isinstance(failed.exception, UserError)
        assert str(failed.exception) == f"no score {missing} (topic: not there; database: not there)"
    alone = environment.model_copy(update={"database_url": ""})
    with pytest.raises(UserError, match="DATABASE_URL is not set"):
        find(alone, ScoreId(SOL, "nobody", T))
