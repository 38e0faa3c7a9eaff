"""Compare several replay reports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.report.account import equity_figure
from deploy.report.formatting import utc
from deploy.report.page import figure, none_line, note, page, section, table, text
from deploy.report.replay import statistics_table
from schemas.errors import UserError
from stream_apps.replay.report import VERSION

Json = dict[str, Any]
SHOWN = (
    "trades", "win_rate", "net_r", "expectancy_r", "profit_factor", "payoff", "max_drawdown_r", "max_drawdown_pct", "sharpe", "sortino",
    "probabilistic_sharpe", "cost_per_trade_r", "maker_ratio", "exposure", "net_pnl",
)  # fmt: skip


def load(paths: Sequence[Path]) -> dict[str, Json]:
    """Return name -> report. The name is the report's folder, with parent folders where needed to be unique.

    Raises:
        UserError: a file does not exist, or is not a report of this release.
    """
    files = [path / "report.json" if path.is_dir() else path for path in paths]
    found: dict[str, Json] = {}
    for file in files:
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"report: {file}: {error}") from error
        if not isinstance(report, dict) or report.get("report") != "perpflow replay" or report.get("version") != VERSION:
            raise UserError(f"report: {file}: not a replay report of this release")
        # A file named report.json takes its folder's name; any other file its own.
        parts = file.resolve().with_suffix("").parts
        ending = parts[:-1] if file.name == "report.json" else parts
        length = next((n for n in range(1, len(ending) + 1) if "/".join(ending[-n:]) not in found), None)
        if length is None:
            raise UserError(f"report: {file}: given twice")
        found["/".join(ending[-length:])] = report
    return found


def gathered(reports: Mapping[str, Json]) -> dict[str, Json]:
    """Return ``run: strategy`` -> that strategy's part of its report."""
    return {f"{name}: {one['strategy_id']}": one for name, report in reports.items() for one in report["strategies"]}


def differences(reports: Mapping[str, Json]) -> Iterator[str]:
    """Yield differences between the runs: data, period, costs, engine, and strategies with several configurations."""
    views: dict[str, Any] = {
        "input files": lambda report: sorted(one["sha256"] for one in report["files"]) or report["source"],
        "period": lambda report: [(one["first"], one["last"]) for one in report["instruments"]] + [report["since"], report["until"]],
        "instruments": lambda report: [one["instrument"] for one in report["instruments"]],
        "paper model": lambda report: report["paper"],
        "engine": lambda report: report["engine"],
    }
    for what, view in views.items():
        values = {name: json.dumps(view(report), sort_keys=True) for name, report in reports.items()}
        if len(set(values.values())) > 1:
            yield f"The runs differ in {what}."
    hashes: dict[str, dict[str, str]] = {}
    for name, report in reports.items():
        for one in report["strategies"]:
            hashes.setdefault(one["strategy_id"], {})[name] = one["config_hash"]
    for strategy, by_run in sorted(hashes.items()):
        if len(set(by_run.values())) > 1:
            listed = ", ".join(f"{name} {value}" for name, value in by_run.items())
            yield f"{strategy} has several configurations: {listed}."
        elif len(by_run) > 1:
            same = [one for report in reports.values() for one in report["strategies"] if one["strategy_id"] == strategy]
            results = {json.dumps(one["statistics"], sort_keys=True) for one in same}
            if len(results) == 1:
                yield f"{strategy}: identical results in all runs that contain it."


def write_page(path: Path, reports: Mapping[str, Json]) -> None:
    """Write equity curves and all statistics of the reports as one page. Raises OSError."""
    accounts = gathered(reports)
    drawn = equity_figure({name: one["curve"] for name, one in accounts.items()})
    definitions = next(iter(reports.values()))["definitions"]
    runs = table(
        ["run", "source", "~instruments and periods (UTC)", ">strategies"],
        [
            (
                name, ", ".join(report["source"]),
                "; ".join(f"{one['instrument']} {utc(one['first'])} to {utc(one['last'])}" for one in report["instruments"] if one["first"] is not None),
                f"{len(report['strategies']):,}",
            )
            for name, report in reports.items()
        ],
    )  # fmt: skip
    lines = list(differences(reports))
    document = page(
        "Comparison of replays",
        f"<h1>{text('Comparison of replays')}</h1>",
        '<div class="label">Paper trading on replayed data: no order was sent</div>',
        section("runs", "Runs", runs, *(note(line) for line in lines)),
        section("equity", "Equity and drawdown", none_line("none: no valid closed trade") if drawn is None else figure("chart-equity", drawn)),
        section("statistics", "Statistics of closed trades",
                statistics_table(definitions, {name: one["statistics"] for name, one in accounts.items()})),
        with_figures=drawn is not None,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document, encoding="utf-8")
