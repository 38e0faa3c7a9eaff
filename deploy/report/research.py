"""Research reports as HTML and Markdown: parameter searches, features, cost gates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from deploy.report.account import COLOURS
from deploy.report.charts import BLUE, MUTED, ORANGE, dress
from deploy.report.formatting import utc
from deploy.report.page import columns, figure, marked, none_line, note, page, section, table, text, tiles
from deploy.report.tables import count, number, signed, trades_table

Json = Mapping[str, Any]
LABEL = '<div class="label">Paper trading on replayed data: no order was sent</div>'


# --- searches ----------------------------------------------------------------------------------------------------------


def write_search(path: Path, report: Json, trades: Mapping[str, Sequence[Json]]) -> None:
    """Write a search report as a page; ``trades``: strategy -> test trades. Raises OSError."""
    drawn = curve_figure(
        {f"{name}: tests": rows for name, rows in trades.items()},
        {f"{one['strategy']}: unchanged": one["parent_curve"] for one in report["searches"]},
    )
    parts: list[str] = [
        "<h1>Parameter search</h1>",
        LABEL,
        f'<p class="source">{text(", ".join(report["source"]))}; {utc(report["since"])} to {utc(report["until"])} UTC</p>',
        tiles([("searches", count(len(report["searches"]))), ("trials", count(sum(one["trials"] for one in report["searches"]))),
               ("edges found", count(sum(one["verdict"] == "edge" for one in report["searches"]))),
               ("false discovery rate", f"{report['rate']:.0%}")]),
        section("verdict", "Verdict, from the test periods only", _verdicts(report), note(
            "Each fold chooses parameters on its training period and tests them on a later period. p: probability of this mean net R if "
            "there is no edge (studentised stationary bootstrap). Over several searches the false discovery rate is controlled. "
            "Training: result of the same parameters on the training period. Deflated: probability that the choice is better on its "
            "training period than the best of as many random trials.")),
        section("equity", "Results of the test periods", none_line("none: no trades in the test periods") if drawn is None else figure("chart-tests", drawn)),
    ]  # fmt: skip
    for place, one in enumerate(report["searches"]):
        parts.append(section(f"search-{place}", one["strategy"], *_search(place, one)))
    for name, rows in trades.items():
        parts.append(section(f"trades-{name}", f"Test trades of {name}", trades_table([dict(row) for row in rows], "none")))
    path.write_text(page("Parameter search", *parts, with_figures=True), encoding="utf-8")


def _verdicts(report: Json) -> str:
    rows = []
    for one in report["searches"]:
        test, train, parent, gate = one["test"], one["train"], one["parent"], one["gate"]
        rows.append((
            one["strategy"], marked(one["verdict"], one["verdict"] == "edge"), count(one["trials"]), *_mean_cells(test),
            None if one["p"] is None else f"{one['p']:.4f}", number(gate["edge"], "+.3f"), number(gate["cost"], ".3f"), *_mean_cells(train)[1:2],
            *_mean_cells(parent)[1:2], number(one["deflated"], ".3f"),
        ))  # fmt: skip
    return table(
        ["strategy", "verdict", ">trials", ">test trades", ">mean net R", "95 % interval", ">p", ">edge R", ">cost R", ">training mean R",
         ">unchanged mean R", ">deflated"], rows)  # fmt: skip


def _mean_cells(mean: Json | None) -> tuple[Any, Any, Any]:
    if mean is None:
        return "0", None, None
    interval = None if mean["low"] is None else f"{mean['low']:+.3f} to {mean['high']:+.3f}"
    return count(mean["count"]), signed(mean["mean"], "+.3f"), interval


def _search(place: int, one: Json) -> Iterable[str]:
    rows = []
    for number_, fold in enumerate(one["folds"]):
        chosen = fold["chosen"]
        trains = "; ".join(f"{utc(stretch['begin'])} to {utc(stretch['end'])}" for stretch in fold["train"])
        rows.append((
            number_, trains, f"{utc(fold['test']['begin'])} to {utc(fold['test']['end'])}", count(fold["trials"]),
            None if chosen is None else count(chosen["trades"]), None if chosen is None else signed(chosen["net_r"]), number(fold["deflated"], ".3f"),
            count(fold["test_trades"]), signed(fold["test_net_r"]), signed(fold["parent_net_r"]),
            "no trial had enough trades and an objective above zero" if chosen is None else chosen_text(fold),
        ))  # fmt: skip
    yield table(
        [">fold", "~training (UTC)", "~test (UTC)", ">trials", ">trades", ">net R", ">deflated", ">test trades", ">test net R", ">unchanged net R", "~chosen"],
        rows,
    )  # fmt: skip
    yield figure(f"chart-trials-{place}", _trials_figure(one))
    space = ", ".join(
        f"{name} {' '.join(axis) if isinstance(axis, list) else '{from:g} to {to:g}'.format(**axis)}" for name, axis in one["space"].items()
    )
    yield note(f"Objective: {one['objective']}. Searched: {space}.")


def chosen_text(fold: Json) -> str:
    """Return the parameters that a fold chose: windows, weights, thresholds and exits."""
    config = fold["config"]
    text_ = (
        f"{config['cvd_fast_window']}/{config['cvd_slow_window']}, weights {config['weight_direction']}/{config['weight_env']}/{config['weight_aux']}/"
        f"{config['weight_momentum']}, entry {config['entry_score']:g}, flip {config['flip_threshold']:g}, stop {config['sl_atr_multiplier']:g} ATR, "
        f"targets {config['tp1_ratio']:g} and {config['tp2_ratio']:g} R, {config['timeout_minutes']} min"
    )
    return text_ if fold["chosen"]["point"] else f"unchanged: {text_}"


def _trials_figure(one: Json) -> go.Figure:
    drawn = go.Figure()
    for (number_, fold), colour in zip(enumerate(one["folds"]), cycle(COLOURS), strict=False):
        told = [trial for trial in fold["all_trials"] if trial["value"] is not None]
        drawn.add_trace(
            go.Scatter(x=[trial["number"] for trial in told], y=[trial["value"] for trial in told], name=f"fold {number_}", mode="markers",
                       marker={"color": colour, "size": 6}, customdata=[[trial["trades"], trial["net_r"]] for trial in told],
                       hovertemplate="trial %{x}: %{y:.2f}<br>%{customdata[0]} trades, %{customdata[1]:+.2f} R<extra></extra>")
        )  # fmt: skip
    dress(drawn, 300)
    drawn.update_layout(
        margin={"r": 20},
        legend={"orientation": "h", "y": -0.25, "x": 0},
        title={"text": "Trials on the training periods", "font": {"size": 13}},
    )
    drawn.update_xaxes(title_text="trial")
    drawn.update_yaxes(title_text="objective")
    return drawn


def curve_figure(tests: Mapping[str, Sequence[Json]], others: Mapping[str, Sequence[Sequence[float]]]) -> go.Figure | None:
    """Return cumulative net R: of trades, and of curves (time, value) as dotted lines. None without a trade."""
    drawn = go.Figure()
    for (name, rows), colour in zip(tests.items(), cycle(COLOURS), strict=False):
        if rows:
            values = list(accumulate(row["net_r"] for row in rows))
            drawn.add_trace(
                go.Scatter(
                    x=[row["event_time"] for row in rows], y=values, name=name, mode="lines+markers", line={"shape": "hv", "color": colour}
                )
            )
    for (name, points), colour in zip(others.items(), cycle(COLOURS), strict=False):
        if points:
            line = {"shape": "hv", "color": colour, "dash": "dot"}
            drawn.add_trace(go.Scatter(x=[at for at, _ in points], y=[value for _, value in points], name=name, mode="lines", line=line))
    if not drawn.data:
        return None
    dress(drawn, 320)
    drawn.update_layout(margin={"r": 20}, legend={"orientation": "h", "y": -0.15, "x": 0})
    drawn.update_xaxes(type="date")
    drawn.update_yaxes(title_text="cumulative net R")
    return drawn


def search_markdown(report: Json) -> str:
    """Return a search report as Markdown."""
    lines = [
        "# Parameter search", "",
        f"{', '.join(report['source'])}; {utc(report['since'])} to {utc(report['until'])} UTC; {report['scheme']}; paper trading, after fees, "
        f"slippage and funding; false discovery rate {report['rate']:.0%}", "",
        "| strategy | verdict | trials | test trades | mean net R (95 %) | p | edge R | cost R | training mean R | unchanged mean R | deflated |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in report["searches"]:
        test, train, parent, gate = one["test"], one["train"], one["parent"], one["gate"]
        cells = (
            one["strategy"], one["verdict"], one["trials"], 0 if test is None else test["count"], mean_text(test), _cell(one["p"], ".4f"),
            _cell(gate["edge"], "+.3f"), _cell(gate["cost"], ".3f"), _cell(None if train is None else train["mean"], "+.3f"),
            _cell(None if parent is None else parent["mean"], "+.3f"), _cell(one["deflated"], ".3f"),
        )  # fmt: skip
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    for one in report["searches"]:
        lines += [
            "",
            f"## {one['strategy']}",
            "",
            "| fold | test (UTC) | parameters chosen on the training period | training net R | test trades | test net R |",
            "|---|---|---|---|---|---|",
        ]
        for number_, fold in enumerate(one["folds"]):
            chosen = fold["chosen"]
            line = (number_, f"{utc(fold['test']['begin'])} to {utc(fold['test']['end'])}",
                     "none: too few trades, or all trials lose" if chosen is None else chosen_text(fold),
                     "-" if chosen is None else f"{chosen['net_r']:+.2f}", fold["test_trades"], f"{fold['test_net_r']:+.2f}")  # fmt: skip
            lines.append("| " + " | ".join(str(cell) for cell in line) + " |")
    return "\n".join(lines) + "\n"


def mean_text(mean: Json | None) -> str:
    """Return a mean with its interval as text."""
    if mean is None:
        return "-"
    return f"{mean['mean']:+.3f}" + ("" if mean["low"] is None else f" ({mean['low']:+.3f} to {mean['high']:+.3f})")


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


# --- features ----------------------------------------------------------------------------------------------------------


def write_features(path: Path, report: Json) -> None:
    """Write a feature report as HTML. Raises OSError."""
    parts = [
        "<h1>Features and future returns</h1>",
        '<div class="label">Recorded data</div>',
        f'<p class="source">{text(", ".join(report["source"]))}; {utc(report["since"])} to {utc(report["until"])} UTC; returns by {text(report["price"])}</p>',
    ]
    for place, one in enumerate(report["instruments"]):
        found = one["coefficients"]
        parts.append(section(f"ic-{place}", one["instrument"], _heat(place, one), table(
            ["feature", ">horizon (min)", ">instants", ">IC", ">t", ">p", "kept at this false discovery rate", ">IR", ">blocks", ">same sign"],
            [(row["feature"], f"{row['horizon_ms'] / 60_000:g}", count(row["count"]), signed(row["ic"], "+.4f"), number(row["t"], "+.2f"),
              number(row["p"], ".4f"), "yes" if row["accepted"] else "no", number(row["ir"], "+.2f"), count(row["blocks"]), number(row["same_sign"], ".0%"))
             for row in found], "none: no feature has enough instants"),
            note("IC: Spearman correlation of a feature with the future return. t: Newey-West, lag = horizon. Kept: Benjamini-"
                 f"Hochberg over all rows at {report['rate']:.0%}. IR: mean / standard deviation of the IC over blocks of "
                 f"{report['block_ms'] / 3_600_000:g} h.")))  # fmt: skip
        for model in one["models"]:
            parts.append(section(f"model-{place}-{model['horizon_ms']}", f"{one['instrument']}: importance at {model['horizon_ms'] / 60_000:g} min", columns(
                table(["feature", ">loss of rank correlation", ">spread"],
                      [(row["feature"], signed(row["drop"], "+.4f"), number(row["spread"], ".4f")) for row in model["importances"]], "none: too little data"),
                table([">training instants", ">test instants", ">rank correlation"], [(count(a), count(b), signed(c, "+.4f")) for a, b, c in model["folds"]])),
                note("Ridge regression of ranks with purged folds and embargo. Out-of-sample rank correlation: "
                     f"{'none' if model['score'] is None else format(model['score'], '+.4f')}. Left out (often missing, or constant): "
                     f"{', '.join(model['left_out']) or 'none'}. Non-overlapping returns in the period: {model['independent']:,}.")))  # fmt: skip
    path.write_text(page("Features", *parts, with_figures=True), encoding="utf-8")


def _heat(place: int, one: Json) -> str:
    known = [row for row in one["coefficients"] if row["t"] is not None]
    if not known:
        return ""
    names = list(dict.fromkeys(row["feature"] for row in known))
    horizons = sorted({row["horizon_ms"] for row in known})
    values = {(row["feature"], row["horizon_ms"]): row["t"] for row in known}
    grid = [[values.get((name, horizon)) for name in names] for horizon in horizons]
    drawn = go.Figure(go.Heatmap(
        z=grid, x=names, y=[f"{horizon / 60_000:g} min" for horizon in horizons], zmid=0, zmin=-5, zmax=5,
        colorscale=[[0, ORANGE], [0.5, "#ffffff"], [1, BLUE]], colorbar={"title": "t"}, hovertemplate="%{x}, %{y}: t %{z:.2f}<extra></extra>",
    ))  # fmt: skip
    dress(drawn, 220 + 30 * len(horizons))
    drawn.update_layout(margin={"r": 20, "b": 130})
    drawn.update_xaxes(tickangle=-60, tickfont={"size": 10, "color": MUTED})
    return figure(f"chart-ic-{place}", drawn)


# --- cost gate ---------------------------------------------------------------------------------------------------------


def gate_markdown(gates: Mapping[str, Json], source: str) -> str:
    """Return cost gates as a Markdown table."""
    lines = ["# Cost gate", "", f"Closed trades of {source}; R per trade", "",
             "| strategy | trades | edge | fees | slippage | funding | cost | net (interval) | cost of the edge | verdict |",
             "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, gate in gates.items():
        cells = (name, gate["trades"], *(_cell(gate[part], "+.3f") for part in ("edge", "fees", "slippage", "funding", "cost")), mean_text(gate["net"]),
                 _cell(gate["share"], ".0%"), gate["verdict"])  # fmt: skip
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"
