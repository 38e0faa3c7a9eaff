"""``perpflow replay`` and ``perpflow report``: a report from a dump file with one command and no broker, and its figures once more by other code."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import zipfile
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deploy.backtest.checks import check_twice
from deploy.backtest.job import Job, open_job
from schemas.settings import Settings
from stream_apps.core.performance import STATISTICS
from stream_apps.replay import spool
from stream_apps.replay.run import Result
from tests.support.paths import RECORDINGS, ROOT
from tests.support.trading.statistics_oracle import oracle

LTC = RECORDINGS / "ltcusdt_spot_trades"
TRADES_ONLY = "recorded-ltcusdt-trades-only"
# Every generation of scoring models, on data without an order book.
MODELS = ("v50_rules", "v51_baseline", "v52_8signals", "v53_standard", "v53_middle", "v53_fast", "v54_factory")


def perpflow(*arguments: str | Path, code: int = 0) -> str:
    """Run the command without broker, database or environment; return what it printed. The recording is shorter than the 24 h of a warm-up."""
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "300",
        "PERPFLOW_ENGINE_SETTINGS": "quantile_history_ms=0",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280
    )
    assert run.returncode == code, run.stdout + run.stderr
    return run.stdout + run.stderr


def trades_of(folder: Path) -> list[dict[str, Any]]:
    """Read trades.csv with nothing of ours."""
    found = []
    with (folder / "trades.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name.endswith("_time"):
                    row[name] = round(datetime.fromisoformat(value).timestamp() * 1000)
                elif re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", value):
                    row[name] = float(value)
            found.append(row)
    return found


@pytest.fixture(scope="module")
def ltc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """All generations over the recorded day and a half."""
    out = tmp_path_factory.mktemp("ltc")
    strategies = [word for name in ("ltcusdt_trades_only", *MODELS) for word in ("--strategy", name)]
    said = perpflow(
        "replay",
        "--source",
        f"file:{LTC}",
        "--symbol",
        "LTCUSDT",
        "--venue",
        "BINANCE_SPOT",
        *strategies,
        "--set",
        "obi_on_missing=pass",
        "--out",
        out,
    )
    return out, said


def test_every_generation_on_the_recorded_trades_and_every_statistic_once_more(ltc: tuple[Path, str]) -> None:
    out, said = ltc
    report = json.loads((out / "report.json").read_text())
    assert {one["strategy_id"] for one in report["strategies"]} == {TRADES_ONLY, *MODELS}
    assert report["inputs"]["agg_trades"] == 118_074 and report["instruments"][0]["trades"] == 118_074
    rows = trades_of(out)
    compared = 0
    for one in [*report["strategies"], report["all"]]:
        mine = [row for row in rows if row["void"] == "" and one.get("strategy_id") in (None, row["strategy_id"])]
        values = one["statistics"]
        assert set(values) == set(STATISTICS) and all(values[name]["unit"] == STATISTICS[name].unit for name in values)
        assert values["trades"]["value"] == len(mine)
        balance = 10_000.0 if "strategy_id" in one else 80_000.0
        spans = [strategy["period"] for strategy in report["strategies"]] if "strategy_id" not in one else [one["period"]]
        if len(mine) < 10:
            continue
        since, until = min(span["since"] for span in spans), max(span["until"] for span in spans)
        wanted = oracle(mine, balance, since, until)
        compared += 1
        for name, value in wanted.items():
            if STATISTICS[name].group == "Daily returns":  # two days
                assert values[name]["value"] is None and values[name]["reason"].startswith("too few daily returns"), name
            elif value is None:
                assert values[name]["value"] is None, name
            else:
                assert values[name]["value"] == pytest.approx(float(value), rel=1e-9, abs=1e-9), name
    assert compared >= 6
    # Costs are what the venue takes, on every fill: 0.05 % of taker and 0.02 % of maker notional.
    for row in rows:
        assert row["fees"] == pytest.approx(0.0005 * (row["notional"] - row["maker_notional"]) + 0.0002 * row["maker_notional"], rel=1e-9)
        assert row["net_pnl"] == pytest.approx(
            row["gross_r"] * row["risk_amount"] * row["risk_multiple"] - row["fees"] - row["funding"], rel=1e-6, abs=1e-6
        )
    assert "trades are excluded" in said


def test_holes_of_the_recording_are_told_and_nothing_that_counts_rests_on_them(ltc: tuple[Path, str]) -> None:
    report = json.loads((ltc[0] / "report.json").read_text())
    holes = report["quality"]["trade_gaps"]
    assert [hole["missing"] for hole in holes] == [117, 17_182] and holes[1]["until"] - holes[1]["since"] > 5 * 3_600_000
    night = holes[1]
    for row in trades_of(ltc[0]):
        if row["void"] == "":
            assert row["event_time"] <= night["since"] or row["signal_time"] >= night["until"]
    assert all(one["void"]["trades"] == sum(one["void"]["reasons"].values()) for one in report["strategies"])
    missing = report["instruments"][0]["missing_inputs"]
    assert missing["obi"] == report["instruments"][0]["instants"]


def test_the_files_agree_with_each_other_and_the_page_stands_alone(ltc: tuple[Path, str]) -> None:
    out, _ = ltc
    report = json.loads((out / "report.json").read_text())
    with (out / "signals.csv").open() as file:
        signals = list(csv.DictReader(file))
    for one in report["strategies"]:
        assert one["signals"] == sum(row["strategy_id"] == one["strategy_id"] for row in signals)
        closed = one["statistics"]["trades"]["value"] + one["void"]["trades"]
        assert closed == sum(row["strategy_id"] == one["strategy_id"] for row in trades_of(out))
        assert one["curve"][-1][1] == pytest.approx(one["statistics"]["net_r"]["value"])
        assert all(a[0] <= b[0] for a, b in pairwise(one["curve"]))
        for groups in one["breakdowns"].values():
            assert sum(group["trades"] for group in groups) == one["statistics"]["trades"]["value"]
        assert sum(one["evaluations"]["states"].values()) == one["evaluations"]["all"]
    assert len(report["files"]) == 9 and all(len(one["sha256"]) == 64 for one in report["files"])
    page = (out / "report.html").read_text()
    for needed in ("Equity and drawdown", "Statistics of closed trades", "Data quality", "Configuration and hashes", "MFE", "chart-equity", "window_over_gap",
                   *(one["config_hash"] for one in report["strategies"]), *report["hashes"].values()):  # fmt: skip
        assert needed in page, needed
    library = page.index("plotly.js v")
    assert page.count("plotly.js v") == 1, "the library is there once"
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", page[:library] + page[page.index("</script>", library) :])


def test_a_zipped_dump_becomes_a_report_checked_twice_and_against_the_future(tmp_path: Path, ltc: tuple[Path, str]) -> None:
    from tests.deploy.backtest.test_replay_files import agg_dump, rows

    dump = agg_dump(tmp_path, rows(4_000))
    with zipfile.ZipFile(dump.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(dump, dump.name)
    said = perpflow(
        "replay", "--source", f"file:{dump.with_suffix('.zip')}", "--venue", "BINANCE_SPOT", "--strategy", "ltcusdt_trades_only", "--twice",
        "--future-shift", "--out", tmp_path / "out", "--json", tmp_path / "checks.json",
    )  # fmt: skip
    assert "twice: holds" in said and "future_shift: holds" in said
    report = json.loads((tmp_path / "out/report.json").read_text())
    checks = json.loads((tmp_path / "checks.json").read_text())
    assert report["checks"] == checks and checks["twice"]["ok"] and checks["future_shift"]["later_changed"] > 0
    # Two reports side by side, and what was not the same in the runs.
    said = perpflow("report", "compare", tmp_path / "out", ltc[0] / "report.json", "--out", tmp_path / "both.html")
    assert "The runs differ in input files." in said and "several configurations" in said and "v53_standard" in said
    assert "Equity and drawdown" in (tmp_path / "both.html").read_text()


def test_runs_that_differ_are_told_apart_by_record_and_field(tmp_path: Path) -> None:
    codec = Settings().codec
    job = Job((f"file:{LTC / 'LTCUSDT_2025-06-21_06h_trades.csv.gz'}",), ("LTCUSDT",), "BINANCE_SPOT", ("ltcusdt_trades_only",))
    opened = open_job(job, Settings())
    kept: list[tuple[int, Result]] = []
    opened.run(lambda partition, result: kept.append((partition, result)))
    at, (partition, result) = next((n, one) for n, one in enumerate(kept) if one[1].topic == "features" and n > 300)
    record = codec.decode("features", result.value)
    other = result._replace(value=codec.encode("features", {**record, "cvd_5m": 1.5}))
    for name, results in (("a", kept), ("b", [*kept[:at], (partition, other), *kept[at + 1 :]]), ("c", kept[:-1]), ("d", kept)):
        with spool.Spool(tmp_path / name) as written:
            for place, one in results:
                written.take(place, one)
    assert spool.compare(tmp_path / "a", tmp_path / "d", codec) == (len(kept), 0, 0, None)
    *_, first = spool.compare(tmp_path / "a", tmp_path / "b", codec)
    assert first is not None and (first.place, first.field, first.second, first.event_time) == (at, "cvd_5m", 1.5, record["event_time"])
    *_, first = spool.compare(tmp_path / "a", tmp_path / "c", codec)
    assert first is not None and first.place == len(kept) - 1 and "missing in the second run" in str(first)


def test_twice_fails_when_a_run_depends_on_how_it_is_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.backtest import checks as module

    class Same:
        """Runs in this process, so that the fault can be planted."""

        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> Same:
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, work: Any, *arguments: Any) -> Any:
            job, settings, folder, piece = arguments
            return type("Done", (), {"result": lambda _: work(job if piece == module.PIECE else faulty, settings, folder, piece)})()

    path = LTC / "LTCUSDT_2025-06-21_06h_trades.csv.gz"
    job = Job((f"file:{path}",), ("LTCUSDT",), "BINANCE_SPOT", ("ltcusdt_trades_only",))
    faulty = Job(job.sources, job.symbols, job.venue, job.strategies, {"entry_score": 74.0})
    monkeypatch.setattr(module, "ProcessPoolExecutor", Same)
    found = check_twice(job, Settings())
    assert not found["ok"] and found["first_difference"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--source", "topics", "--verify", "--out", "x"), "--verify"),
        (("--source", "file:/nowhere/x.csv", "--strategy", "v51_baseline", "--out", "x"), "no file at"),
        (("--source", f"file:{LTC}", "--symbol", "LTCUSDT", "--strategy", "v51_baseline"), "--out"),
        (("--source", f"file:{LTC}", "--strategy", "v51_baseline", "--from", "yesterday", "--out", "x"), "--from"),
        (("--source", f"file:{ROOT / 'README.md'}=LTCUSDT", "--strategy", "v51_baseline", "--out", "x"), "README.md"),
        (("--source", f"file:{LTC}", "--strategy", "v51_baseline", "--slippage-bps", "20000", "--out", "x"), "slippage_bps"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments: tuple[str, ...], named: str) -> None:
    from typer.testing import CliRunner

    from deploy.cli import app

    result = CliRunner().invoke(app, ["replay", *arguments])
    assert result.exit_code == 1 and named in str(result.exception)
