"""``perpflow research`` from a dump file: reports whose figures equal recomputation, a search that goes on, labels, features, and the cost gate."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from deploy.backtest.feature_returns import feature_names
from deploy.cli import app
from schemas.catalogue import schema
from schemas.errors import UserError
from stream_apps.strategy_files import strategy_text
from tests.support.markets.made_markets import BEGIN, MINUTE, PARENT, MadeMarket

HOURS = 15


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A day's aggTrades of Binance as its public dumps are, of a market with an edge; a strategy file beside it."""
    folder = tmp_path_factory.mktemp("dump")
    lines, ids = ["agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"], 0
    for _, trades in MadeMarket(11, hours=HOURS, edge=0.5).rows():
        for time, price, quantity, maker in trades:
            ids += 1
            lines.append(f"{ids},{price},{quantity},{ids},{ids},{time},{str(maker).lower()}")
    path = folder / "LTCUSDT-aggTrades-2025-10-09.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("LTCUSDT-aggTrades-2025-10-09.csv", "\n".join(lines) + "\n")
    (folder / "made.toml").write_text(strategy_text(PARENT))
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["research", *arguments], catch_exceptions=False)


@pytest.fixture(autouse=True)
def minute_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERPFLOW_GRID_MS", "60000")


def search(dump: Path, out: Path, *more: str) -> Result:
    return run(
        "search", "--source", f"file:{dump}", "--strategy", str(dump.parent / "made.toml"), "--train", "6h", "--step", "4h", "--trials", "4", "--batch", "4",
        "--vary", "entry_score", "--vary", "sl_atr_multiplier", "--limit", "entry_score=60:80", "--least-trades", "3", "--out", str(out), *more,
    )  # fmt: skip


def test_a_search_reports_its_tests_and_goes_on_where_it_was(dump: Path, tmp_path: Path) -> None:
    result = search(dump, tmp_path / "a", "--processes", "1")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "a" / "search.json").read_text())
    (one,) = report["searches"]
    assert [(fold["test"]["begin"] - report["since"]) // 3_600_000 for fold in one["folds"]] == [6, 10]
    assert one["trials"] == 8 == len(list(csv.DictReader((tmp_path / "a" / "trials.csv").open())))
    # The reported figure is that of the test trades, recomputed from the table.
    rows = list(csv.DictReader((tmp_path / "a" / "test_trades.csv").open()))
    net = [float(row["net_r"]) for row in rows]
    assert len(net) == one["test"]["count"] == sum(fold["test_trades"] for fold in one["folds"]) > 5
    assert one["test"]["mean"] == pytest.approx(float(np.mean(net)))
    paid = [float(row["fee_r"]) + float(row["slippage_r"]) + float(row["funding_r"]) for row in rows]
    assert one["gate"]["cost"] == pytest.approx(float(np.mean(paid))) and one["gate"]["cost"] > 0
    spans = [(fold["test"]["begin"], fold["test"]["end"]) for fold in one["folds"]]
    entries = [int(np.datetime64(row["entry_time"].rstrip("Z"), "ms").astype(int)) for row in rows]
    assert all(any(begin <= at < end for begin, end in spans) for at in entries)
    page = (tmp_path / "a" / "search.html").read_text()
    assert (
        "Verdict, from the test periods only" in page
        and one["verdict"] in page
        and "http" not in page.split("<body>")[1].split("plotly")[0]
    )
    assert "| made |" in (tmp_path / "a" / "search.md").read_text()
    chosen = (tmp_path / "a" / "made.toml").read_text()
    assert 'status = "paused"' in chosen and 'strategy_id = "made-chosen"' in chosen

    # Two processes, and a search that is done already: the same, to the byte.
    before = (tmp_path / "a" / "search.json").read_bytes()
    assert search(dump, tmp_path / "a", "--processes", "2").exit_code == 0
    assert (tmp_path / "a" / "search.json").read_bytes() == before
    with pytest.raises(UserError, match="another search"):
        search(dump, tmp_path / "a", "--seed", "2", "--processes", "1")


def test_features_of_a_market_with_an_edge(dump: Path, tmp_path: Path) -> None:
    result = run(
        "features",
        "--source",
        f"file:{dump}",
        "--price",
        "trade",
        "--block",
        "2h",
        "--horizon",
        "15m",
        "--embargo",
        "15m",
        "--out",
        str(tmp_path),
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "features.json").read_text())
    (one,) = report["instruments"]
    rows = {row["feature"]: row for row in one["coefficients"]}
    assert rows["cvd_15m"]["ic"] > 0.15 and rows["cvd_15m"]["accepted"] and rows["obi"]["ic"] is None
    assert one["models"][0]["score"] > 0.1 and "obi" in one["models"][0]["left_out"]
    names = {field["name"] for field in schema("features")["fields"]}
    assert set(feature_names()) < names and not {"price", "mark_price"} & set(feature_names())
    assert "importance at 15 min" in (tmp_path / "features.html").read_text()
    for arguments, named in (
        (["--price", "mark"], "--price"),
        (["--price", "trade", "--feature", "moon"], "moon"),
        (["--rate", "2"], "--rate"),
    ):
        bad = CliRunner().invoke(app, ["research", "features", "--source", f"file:{dump}", "--out", str(tmp_path), *arguments])
        assert bad.exit_code != 0 and named in str(bad.exception)


def test_labels_and_the_cost_gate_of_a_replay(dump: Path, tmp_path: Path) -> None:
    result = run(
        "labels", "--source", f"file:{dump}", "--strategy", str(dump.parent / "made.toml"), "--price", "trade", "--out", str(tmp_path)
    )
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    assert f"{len(rows)} signals" in result.output and len(rows) > 5
    # The first signal's label once more, by a walk over the trades at the grid.
    prices = {end: trades[-1][1] for end, trades in MadeMarket(11, hours=HOURS, edge=0.5).rows()}
    first = rows[0]
    at = int(np.datetime64(first["event_time"].rstrip("Z"), "ms").astype(int))
    sign = 1 if first["direction"] == "LONG" else -1
    later = prices[at + 15 * MINUTE]
    assert at > BEGIN and float(first["y_return_15m"]) == pytest.approx(sign * (later / prices[at] - 1) - 0.001)
    net = list(csv.DictReader((tmp_path / "net_labels.csv").open()))
    assert {row["hours"] for row in net} == {"12", "24", "36"} and {row["label"] for row in net} <= {"pos", "neg", "neutral", ""}

    replayed = CliRunner().invoke(
        app, ["replay", "--source", f"file:{dump}", "--strategy", str(dump.parent / "made.toml"), "--out", str(tmp_path / "replay")]
    )
    assert replayed.exit_code == 0, replayed.output
    gate = run("gate", "--report", str(tmp_path / "replay"), "--json", str(tmp_path / "gate.json"), "--markdown", str(tmp_path / "gate.md"))
    told: dict[str, Any] = json.loads((tmp_path / "gate.json").read_text())["strategies"]["replay: made"]
    trades = list(csv.DictReader((tmp_path / "replay" / "trades.csv").open()))
    assert told["trades"] == len(trades) and told["net"]["mean"] == pytest.approx(float(np.mean([float(row["net_r"]) for row in trades])))
    assert gate.exit_code == (0 if told["verdict"] == "passes" else 1) and told["verdict"] in gate.output
    assert told["verdict"] in (tmp_path / "gate.md").read_text()
    for arguments, named in (([], "--report"), (["--report", str(dump)], "trades.csv")):
        bad = CliRunner().invoke(app, ["research", "gate", *arguments])
        assert bad.exit_code != 0 and named in str(bad.exception)
