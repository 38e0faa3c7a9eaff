"""``perpflow compare`` from topics and from the database: the same figures, and plain words when there is too little."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from confluent_kafka import Producer
from psycopg.types.json import Jsonb
from typer.testing import CliRunner, Result

from deploy.cli.look.compare import compare
from deploy.database import migrate as database
from schemas import catalogue
from schemas.errors import UserError
from schemas.settings import Settings

pytestmark = pytest.mark.stack

START = 1_760_000_000_000
BTC = "BINANCE:BTCUSDT-PERP"


def record(topic: str, **values: Any) -> dict[str, Any]:
    """A record of the topic's schema: what is not given is empty, zero, false or null."""
    found: dict[str, Any] = {}
    for field in catalogue.schema(topic)["fields"]:
        kind = field["type"]
        if isinstance(kind, list):
            found[field["name"]] = None
        elif isinstance(kind, dict):
            found[field["name"]] = {"array": [], "map": {}, "long": 0}[kind["type"]]
        else:
            found[field["name"]] = {"string": "", "boolean": False, "double": 0.0}.get(kind, 0)
    return found | values


def records() -> list[tuple[str, dict[str, Any]]]:
    made: list[tuple[str, dict[str, Any]]] = []
    for strategy, count, win in (("a", 110, 1.5), ("b", 104, 0.5), ("c", 7, 1.0)):
        for n in range(count):
            net = win if n % 2 else -1.0
            made.append(("trades_closed", record(
                "trades_closed", trade_id=f"{strategy}{n}", instrument=BTC, strategy_id=strategy, event_time=START + n * 60_000, tier="heavy",
                entry_time=START + n * 60_000 - 5_000, net_r=net, net_pnl=net * 200, config_hash="old" if strategy == "b" and n < 3 else "new",
            )))  # fmt: skip
        for n in range(50):
            made.append(("scores", record(
                "scores", score_id=f"{strategy}|{n}", instrument=BTC, strategy_id=strategy, event_time=START + n * 15_000, warm=n > 4, lean="LONG",
                ungated_score=float(n if strategy != "b" else 90 - n), config_hash="new",
            )))  # fmt: skip
    return made


@pytest.fixture
def command(environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    database.migrate(environment.database_url)
    producer = Producer({"bootstrap.servers": environment.kafka_bootstrap_servers})
    with psycopg.connect(environment.database_url) as connection:
        for topic, one in records():
            for _ in range(2 if one["strategy_id"] == "a" else 1):  # a restarted service writes again
                producer.produce(
                    environment.topic(topic), environment.codec.encode(topic, one), BTC.encode(), 0, timestamp=one["event_time"]
                )
            times = {name: datetime.fromtimestamp(one[name] / 1000, UTC).isoformat() for name in one if name.endswith("_time")}
            connection.execute(
                f"INSERT INTO {topic} SELECT (jsonb_populate_record(NULL::{topic}, %s)).*",  # type: ignore[arg-type]
                (Jsonb({**one, **times, "kafka_partition": 0, "kafka_offset": 0}),),
            )
    assert producer.flush(20) == 0
    for name, field in Settings.model_fields.items():
        monkeypatch.setenv(str(field.alias), str(getattr(environment, name)))
    app = typer.Typer()
    app.command()(compare)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    yield run


def test_topics_and_database_tell_the_same(command: Any, tmp_path: Path) -> None:
    results = []
    for option in ([], ["--from-topics"]):
        shown = command("a", "b", "--json", str(tmp_path / "x.json"), *option)
        assert shown.exit_code == 0, shown.output
        results.append((shown.output, json.loads((tmp_path / "x.json").read_text())))
    assert results[0] == results[1]
    output, figures = results[0]
    both = figures["all"]
    assert (both["a"]["trades"], both["b"]["trades"], both["a"]["wins"], both["b"]["wins"]) == (110, 104, 55, 52)
    assert both["a"]["mean_r"] == pytest.approx(0.25) and both["b"]["mean_r"] == pytest.approx(-0.25)
    assert both["a"]["profit_factor"] == pytest.approx(1.5) and both["b"]["profit_factor"] == pytest.approx(0.5)
    assert (both["a"]["drawdown_r"], both["b"]["drawdown_r"]) == (1.0, 26.5)  # 52 pairs of -1, +0.5: the last +0.5 comes after the lowest
    assert (figures["correlation"], figures["instants"]) == (pytest.approx(-1.0), 45)
    assert both["verdict"] == "A" and "a is better: mean R of a minus mean R of b: +0.500" in output
    assert (
        "b has 2 configurations (new, old); choose one with b@HASH." in output
        and "Correlation of scores: -1.000, over 45 instants" in output
    )


def test_too_little_is_said_plainly(command: Any) -> None:
    for option in ([], ["--from-topics"]):
        assert "Too few trades for a verdict: 110 and 7 closed trades, each side needs 100" in command("a", "c", *option).output
        one = command("a", "b@old", *option).output
        assert "110 and 3 closed trades" in one and "configurations" not in one
        until = datetime.fromtimestamp((START + 50 * 60_000) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        assert "50 and 50 closed trades" in command("a", "b", "--until", until, *option).output
        assert "60 and 54 closed trades" in command("a", "b", "--since", until, *option).output
        result = command("a", "nobody", *option)
        assert isinstance(result.exception, UserError) and str(result.exception) == "nobody: no closed trades and no scores"
        result = command("a@bad", "b", *option)
        assert isinstance(result.exception, UserError) and "under this configuration" in str(result.exception)
