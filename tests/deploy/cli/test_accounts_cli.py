"""``positions``, ``orders``, ``trades``, ``report execution`` and ``routing`` on a database as trading leaves it: journal, topics' tables, quotes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from schemas.errors import UserError
from stream_apps.core.execution.routing.reestimate import ActiveRoute
from stream_apps.core.execution.settings.policy import Budget, EntryPolicy, LivePolicy
from stream_apps.core.execution.settings.routes import DEFAULT_ROUTES
from stream_apps.core.execution.state.records import Account
from tests.deploy.dashboard_rows import record, write
from tests.deploy.databases import migrated
from tests.support.trading import execution_world
from tests.support.trading.execution_exchange import D
from tests.support.trading.execution_world import World
from tests.support.trading.spot_world import SpotWorld

pytestmark = pytest.mark.stack
ROOMY = Budget(max_notional=D(100_000), max_margin=D(100_000), max_spot_notional=D(100_000))
MARKET = LivePolicy(entry=EntryPolicy(style="market"), budget=ROOMY)
PERP, SPOT = "BINANCE-simulated", "BINANCE_SPOT-simulated"


def traded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A contract account with two closed trades and an open one, and a spot account with an open one."""
    now = int(time.time() * 1000) - 3_600_000
    for module in ("execution_world", "spot_world"):
        monkeypatch.setattr(f"tests.support.trading.{module}.T0", now)
    monkeypatch.setattr(execution_world, "ACCOUNT", Account("simulated", "BINANCE", PERP, "t"))
    perp = World(MARKET)
    for number, end in ((1, 50_400), (2, 49_700)):
        perp.signal(number)
        perp.settle()
        perp.price(end)
        perp.settle()
        perp.price(50_000)
        perp.advance(60_000)
    perp.signal(3, risk_multiple=1.5)
    perp.settle()
    perp.signal(4, risk_distance=0.0, strategy_id="s2")
    spot = SpotWorld(MARKET)
    spot.signal(5)
    spot.settle()
    return [perp, spot]


@pytest.fixture(scope="module")
def traded_url(database_url: str) -> Iterator[str]:
    with migrated(database_url) as url:
        with pytest.MonkeyPatch.context() as patch, psycopg.connect(url, autocommit=True) as connection:
            fill(connection, traded(patch))
        yield url


def fill(connection: psycopg.Connection, worlds: list[Any]) -> None:
    for world, account in zip(worlds, (PERP, SPOT), strict=True):
        for topic, records in world.records.items():
            if topic == "positions":
                # The table keeps one state of a position a millisecond; time stands still in these worlds.
                records = list({(one["position_id"], one["status"], one["event_time"]): one for one in records}.values())
            write(connection, topic, records)
        for key, state in world.journal.items():
            connection.execute(
                "INSERT INTO live_trades (account, trade_key, state, over_at) VALUES (%s, %s, %s, to_timestamp(%s::float8 / 1000))",
                (f"x.{account}", key, state, json.loads(state)["over_at"]),
            )
    at = int(time.time() * 1000)
    paper = {"strategy_id": "p", "mode": "paper", "instrument": "BINANCE:ETHUSDT-PERP", "event_time": at - 60_000, "direction": "SHORT"}
    levels = {"quantity": 2.0, "open_quantity": 2.0, "entry_time": at - 60_000, "entry_price": 3_000.0, "stop_price": 3_050.0}
    write(
        connection,
        "positions",
        [record("positions", position_id="p1", status="open", risk_amount=100.0, risk_multiple=1.5, **paper, **levels)],
    )
    for instrument, mid in (("BINANCE:BTCUSDT-PERP", 50_100.0), ("BINANCE:BTCUSDT", 50_050.0), ("BINANCE:ETHUSDT-PERP", 2_990.0)):
        write(connection, "quotes", [record("quotes", instrument=instrument, event_time=at, bid_price=mid - 1, ask_price=mid + 1)])


@pytest.fixture
def shown(traded_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DATABASE_URL", traded_url)
    monkeypatch.setenv("PERPFLOW_TOPIC_PREFIX", "x.")

    def run(*arguments: str, width: int = 160) -> Result:
        return CliRunner().invoke(app, list(arguments), env={**os.environ, "COLUMNS": str(width)}, terminal_width=width)

    return run


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def test_positions_have_live_values(shown: Any) -> None:
    found = {row["account"]: row for row in rows(shown("positions", "--json"))}
    assert set(found) == {"paper", PERP, SPOT}
    perp, spot, paper = found[PERP], found[SPOT], found["paper"]
    # 3 USD over 200: 0.015 bought at 50000.5; the mid is 50100.
    assert perp["open_quantity"] == 0.015 and perp["unrealised"] == pytest.approx(0.015 * (50_100 - 50_000.5))
    assert (perp["price"], perp["protection"], spot["protection"]) == (50_100.0, "venue", "venue pair")
    assert spot["open_quantity"] == 0.00999 and spot["unrealised"] == pytest.approx(0.00999 * (50_050 - 50_000.1))
    # A heavy position: 1R is 100, the tier's multiple 1.5. 20 of profit are 20 / 150 R.
    assert (paper["unrealised"], paper["r"]) == (pytest.approx(20.0), pytest.approx(20.0 / 150.0))
    assert [row["account"] for row in rows(shown("positions", "--json", "--mode", "paper"))] == ["paper"]
    assert rows(shown("positions", "--json", "--symbol", "SOL")) == []


def test_orders_are_the_open_ones_or_all_with_their_reasons(shown: Any) -> None:
    found = rows(shown("orders", "--json"))
    assert sorted((row["account"], row["leg"]) for row in found) == [
        (PERP, "stop"),
        (PERP, "tp1"),
        (PERP, "tp2"),
        (SPOT, "stop"),
        (SPOT, "tp2"),
    ]
    every = rows(shown("orders", "--json", "--all"))
    assert len(every) > 15 and [row["event_time"] for row in every] == sorted((row["event_time"] for row in every), reverse=True)
    assert "no_risk_distance" in {row["reason"] for row in every}


def test_trades_carry_what_their_execution_cost_and_the_report_their_means(shown: Any) -> None:
    found = rows(shown("trades", "--json"))
    assert [row["exit_reason"] for row in found] == ["stop", "tp2"] and all(row["account"] == PERP for row in found)
    assert all(row["measured"] and row["friction_r"] > 0 for row in found)
    report = json.loads(shown("report", "execution", "--json").output)[PERP]
    assert report["trades"] == 2 and report["maker_ratio_entry"] == 0.0 and report["maker_ratio_tp"] == 1.0
    assert report["friction_r"] == pytest.approx(sum(row["friction_r"] for row in found) / 2)
    result = shown("report", "execution", "--mode", "live")
    assert isinstance(result.exception, UserError) and "no closed trade" in str(result.exception)


@pytest.mark.parametrize("width", [100, 160])
def test_tables_fit_their_terminal(shown: Any, width: int) -> None:
    for arguments in (
        ["positions"],
        ["orders"],
        ["orders", "--all", "--limit", "8"],
        ["trades"],
        ["report", "execution"],
        ["routing", "--mode", "simulated"],
    ):
        result = shown(*arguments, width=width)
        assert result.exit_code == 0, result.output
        print(result.output)
        assert max(map(len, result.output.splitlines())) <= width
        assert "…" not in result.output, f"{arguments} leaves something out at {width}"


def test_routing_is_dry_until_a_file_is_named_and_never_overwrites(shown: Any, tmp_path: Path) -> None:
    assert "does not change" in shown("routing", "--mode", "simulated").output
    target = tmp_path / "routes.toml"
    assert shown("routing", "--mode", "simulated", "--write", str(target)).exit_code == 0
    from deploy.cli.trading.live_start import read_policy

    assert read_policy(target, (), ()).entry.routes == LivePolicy().entry.routes
    result = shown("routing", "--mode", "simulated", "--write", str(target))
    assert isinstance(result.exception, UserError) and "already exists" in str(result.exception)


def test_routing_proposes_from_the_table_that_the_executor_made_of_it(shown: Any, traded_url: str, tmp_path: Path) -> None:
    held = [ActiveRoute(one) for one in DEFAULT_ROUTES]
    moved = [replace(held[0], route=replace(held[0].route, maker_wait_ms=1_125), since=1), *held[1:]]
    base, after = (json.dumps([one.to_json() for one in table]) for table in (held, moved))
    with psycopg.connect(traded_url, autocommit=True) as connection:
        connection.execute("INSERT INTO live_routes VALUES (%s, '2026-11-22 04:05Z', %s, %s, '[]', true)", (f"x.{PERP}", base, after))
    told = shown("routing", "--mode", "simulated").output
    assert "re-estimated 2026-11-22 04:05 UTC" in told and "1125" in told
    (tmp_path / "off.toml").write_text("[routing]\nautomatic = false\n")
    told = shown("routing", "--mode", "simulated", "--policy", str(tmp_path / "off.toml")).output
    assert "re-estimated" not in told and "1500" in told
    (tmp_path / "other.toml").write_text("[[entry.routes]]\nfrom_notional = 0\nmaker_wait_ms = 700\nslices = 1\nspacing_ms = 0\n")
    told = shown("routing", "--mode", "simulated", "--policy", str(tmp_path / "other.toml")).output
    assert "re-estimated" not in told and "700" in told
