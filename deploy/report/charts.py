"""Charts of a run: one figure with linked panels per instrument, and the paper account's curve (plotly figures; no I/O).

Times are ms UTC. plotly's date axes accept and show them as UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from deploy.report.formatting import LEGS, utc
from deploy.report.series import LARGEST_PRINTS, MOST_POINTS, SILENCE_MS, TIMEFRAMES, Array, Drawn, Row, Scores, Series, Silence

BUY, SELL, INK, MUTED, BLUE, ORANGE, PURPLE = "#0b7a5f", "#c2412d", "#1f2937", "#9aa3af", "#2563a8", "#d98314", "#7a4fb0"
# With fewer candles than this, single trades are drawn too.
FEW_CANDLES = 60
# Outcome of an evaluation -> colour. Other outcomes take the spare colours in order.
STATE_COLOURS = {
    "not warm": "#d5dae1",
    "low_vol": "#94a9c4",
    "no_direction_consensus": "#b9a7d6",
    "no_direction": "#cdbfe3",
    "whale_adverse": "#e3b17d",
    "whale_cvd_veto": "#d99a5b",
    "obi_veto": "#e0a3a8",
    "spot_perp_veto": "#cf8794",
    "below entry": "#7db6de",
    "cooldown": "#5c6f87",
    "no signal": "#8fa3ad",
    "flip signal": "#55b89b",
    "signal": BUY,
}
SPARE_COLOURS = ("#a3b18a", "#c9ada7", "#b5c99a", "#a5a58d", "#d4a373", "#90a4ae")


@dataclass(frozen=True)
class Panel:
    """One row of a figure: title, relative height and drawing function."""

    title: str
    height: float
    draw: Callable[[Pen], None]


class Pen:
    """Adds traces to one row of a figure, with that row's own legend."""

    def __init__(self, figure: go.Figure, row: int) -> None:
        self.figure = figure
        self.row = row

    def add(self, trace: Any, legend_of: int = 0) -> None:
        """Add a trace to the legend of this row, or of the row ``above`` rows higher."""
        row = self.row - legend_of
        trace.legend = "legend" if row == 1 else f"legend{row}"
        self.figure.add_trace(trace, row=self.row, col=1)

    def line(self, name: str, time: Array, values: Array, colour: str, text: str = "", **more: Any) -> None:
        """Add a line. NaN interrupts it. ``text``: hover template of a value."""
        style = {"color": colour, "width": 1.4, **more.pop("line", {})}
        hover = f"%{{x|%Y-%m-%d %H:%M:%S}} UTC<br>{name}: {text or '%{y}'}<extra></extra>"
        self.add(go.Scatter(x=time, y=values, name=name, mode="lines", line=style, hovertemplate=hover, **more))

    def level(self, y: float, text: str, colour: str = MUTED, position: str = "top left") -> None:
        """Add a horizontal line with a label."""
        self.figure.add_hline(
            y=y, row=self.row, col=1, line={"color": colour, "width": 1, "dash": "dot"}, annotation_text=text,
            exclude_empty_subplots=False, annotation_position=position, annotation_font={"size": 10, "color": colour},
        )  # fmt: skip

    def axis(self, **settings: Any) -> None:
        """Set properties of the row's y axis."""
        self.figure.update_yaxes(row=self.row, col=1, **settings)


def instrument_figure(series: Series, silences: Sequence[Silence], strategies: Sequence[Drawn]) -> go.Figure | None:
    """Return the panels of an instrument on one time axis. None without data."""
    panels = list(_panels(series, strategies, silences))
    if not panels:
        return None
    total = sum(panel.height for panel in panels)
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=36 / (total + 60),
        row_heights=[panel.height / total for panel in panels],
        subplot_titles=[panel.title for panel in panels],
    )
    for title in figure.layout.annotations:
        title.update(x=0, xanchor="left", font={"size": 12, "color": INK})
    for row, panel in enumerate(panels, 1):
        panel.draw(Pen(figure, row))
        axis = figure.layout["yaxis" if row == 1 else f"yaxis{row}"]
        figure.layout["legend" if row == 1 else f"legend{row}"] = _legend(axis.domain[1])
    dress(figure, int(total + 60))
    start, end = _time_range(series)
    margin = max(1000.0, (end - start) * 0.01)
    figure.update_xaxes(
        type="date", range=[start - margin, end + margin], showspikes=True, spikemode="across", spikethickness=1, spikecolor=MUTED
    )
    figure.update_xaxes(row=len(panels), col=1, title_text="UTC", title_font={"size": 11}, title_standoff=4)
    for silence in silences:
        figure.add_vrect(
            x0=silence.since,
            x1=silence.until,
            row="all",
            col=1,
            fillcolor="#eef0f3",
            line_width=0,
            layer="below",
            exclude_empty_subplots=False,
        )
    return figure


def _legend(top: float) -> dict[str, Any]:
    return {"x": 1.01, "xanchor": "left", "y": top, "yanchor": "top", "font": {"size": 11}, "tracegroupgap": 0, "itemsizing": "constant"}


def dress(figure: go.Figure, height: int) -> None:
    """Apply the common style of report figures. ``height`` in pixels."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 70, "r": 210, "t": 30, "b": 40},
        font={"family": "system-ui, sans-serif", "size": 11, "color": INK},
        hovermode="closest",
        hoverlabel={"align": "left"},
        dragmode="zoom",
        bargap=0.1,
    )
    figure.update_yaxes(zeroline=False, gridcolor="#eceff3", tickfont={"size": 10}, nticks=6, exponentformat="none", separatethousands=True)
    figure.update_xaxes(gridcolor="#eceff3", rangeslider_visible=False, tickfont={"size": 10})


def _time_range(series: Series) -> tuple[float, float]:
    times = [series.trade_time, series.bars["time"], series.features["time"], *(one.time for one in series.scores)]
    times = [one for one in times if len(one)]
    return min(float(one[0]) for one in times), max(float(one[-1]) for one in times)


def _panels(series: Series, strategies: Sequence[Drawn], silences: Sequence[Silence]) -> Iterator[Panel]:
    features = series.features
    has = {name: bool(np.isfinite(values).any()) for name, values in features.items()}
    if len(series.trade_time) or series.timeframe:
        kind = f"{series.timeframe} candles" if series.timeframe else "last trade"
        yield Panel(f"Price ({kind}) and paper trades", 330, lambda pen: _price(pen, series, has["vwap_30m"], silences))
    if len(series.trade_time) or has["cvd_30m"] or has["cvd_4h"]:
        yield Panel("CVD: taker buy minus taker sell quantity", 170, lambda pen: _cvd(pen, series, has, silences))
    if series.scores:
        yield Panel("Score (0-100) of evaluations that passed all gates", 220, lambda pen: _score(pen, series.scores, strategies))
        yield Panel("Outcome of each evaluation", 34 + 26 * len(series.scores), lambda pen: _states(pen, series.scores, strategies))
    if len(series.prints["time"]):
        yield Panel(f"Largest trades (top {LARGEST_PRINTS} by quantity)", 130, lambda pen: _prints(pen, series))
    if has["obi"]:
        yield Panel("Order-book imbalance (top 10 levels)", 110, lambda pen: _obi(pen, series))
    if has["mark_price"] or has["index_price"]:
        yield Panel("Mark and index price minus last trade, basis points", 110, lambda pen: _basis(pen, series, has))
    if has["estimated_funding_rate"]:
        yield Panel("Estimated funding rate, %", 100, lambda pen: _funding(pen, series))


def broken(silences: Sequence[Silence], time: Array, *values: Array) -> tuple[Array, ...]:
    """Return series with a NaN in every silence of ``SILENCE_MS`` and in every gap, so that no line bridges unknown data."""
    apart = np.diff(time) >= SILENCE_MS
    for one in silences:
        # A point marks the end of its bucket, so the point before a gap may lie inside the gap.
        apart |= 2 * (np.minimum(time[1:], one.until) - np.maximum(time[:-1], one.since)) > np.diff(time)
    places = np.flatnonzero(apart) + 1
    return (np.insert(time, places, time[places - 1] + 1), *(np.insert(one.astype(np.float64), places, np.nan) for one in values))


def outside(
    silences: Sequence[Silence], start: tuple[float, float], end: tuple[float, float]
) -> Iterator[tuple[float | None, float | None]]:
    """Yield a straight line between two points (ms UTC, price), cut at silences. (None, None) follows each piece."""
    (first, low), (last, high) = start, end

    def at(time: float) -> tuple[float, float]:
        return time, low if last <= first else low + (high - low) * (time - first) / (last - first)

    cuts = sorted((max(one.since, first), min(one.until, last)) for one in silences if one.since < last and one.until > first)
    known = first
    for since, until in [*cuts, (last, last)]:
        if since > known or not cuts:
            yield at(known)
            yield at(since)
            yield None, None
        known = max(known, until)


def _price(pen: Pen, series: Series, has_vwap: bool, silences: Sequence[Silence]) -> None:
    bars = series.bars
    with_line = len(series.trade_time) > 0 and len(bars["time"]) < FEW_CANDLES
    if series.timeframe:
        # A bar's time is its end. A bar without trades repeats the last close, so it is not drawn.
        traded = bars["volume"] > 0
        step = dict(TIMEFRAMES)[series.timeframe]
        time = bars["time"][traded]
        values = {name: bars[name][traded] for name in ("open", "high", "low", "close")}
        text = [
            f"{utc(end - step)} to {utc(end)[11:]} UTC<br>" + "<br>".join(f"{name} {float(values[name][at])!r}" for name in values)
            for at, end in enumerate(time)
        ]
        pen.add(
            go.Candlestick(
                x=time - step / 2,
                **values,
                name=f"{series.timeframe} candles",
                increasing={"line": {"color": BUY, "width": 1}, "fillcolor": BUY},
                decreasing={"line": {"color": SELL, "width": 1}, "fillcolor": SELL},
                opacity=0.3 if with_line else 1,
                text=text,
                hoverinfo="text",
            )
        )
    if with_line:
        time, price = broken(silences, series.trade_time, series.trade_price)
        pen.line(f"last trade per {_step(series.bucket_ms)}", time, price, INK, line={"width": 1, "shape": "hv"})
    if has_vwap:
        time, vwap = broken(silences, series.features["time"], series.features["vwap_30m"])
        pen.line("VWAP 30m", time, vwap, ORANGE, "%{y:.6~g}", line={"width": 1.2})
    _paper(pen, series, silences)
    if series.gaps:
        time = np.array([float(row["event_time"]) for row in series.gaps])
        text = [f"{row['stream']} {row['kind']}{'' if row['repaired'] else ', not repaired'}" for row in series.gaps]
        floor = np.full(len(time), np.nanmin(series.trade_price) if len(series.trade_price) else 0.0)
        marker = {"symbol": "line-ns-open", "size": 10, "color": SELL}
        pen.add(
            go.Scatter(
                x=time, y=floor, mode="markers", marker=marker, name="gap", text=text, hovertemplate="%{x} UTC<br>%{text}<extra></extra>"
            )
        )


def _step(bucket_ms: int) -> str:
    for unit, size in (("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if bucket_ms >= size:
            return f"{bucket_ms // size} {unit}"
    return f"{bucket_ms} ms"


def _paper(pen: Pen, series: Series, silences: Sequence[Silence]) -> None:
    """Draw entries, exits and a line between them. Hover shows how the trade ended."""
    closed = {row["trade_id"]: row for row in series.closed}
    for won, colour, name in ((True, BUY, "winning paper trade"), (False, SELL, "losing paper trade")):
        x: list[float | None] = []
        y: list[float | None] = []
        for row in series.closed:
            if (row["net_pnl"] > 0) == won:
                for time, price in outside(silences, (row["entry_time"], row["entry_price"]), (row["event_time"], row["exit_price"])):
                    x.append(time)
                    y.append(price)
        if x:
            pen.add(go.Scatter(x=x, y=y, mode="lines", line={"color": colour, "width": 2}, name=name, hoverinfo="skip"))
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in series.fills:
        direction = ("LONG" if row["side"] == "BUY" else "SHORT") if row["leg"] == "entry" else ""
        groups.setdefault((row["leg"], direction), []).append(row)
    for (leg, direction), found in sorted(
        groups.items(), key=lambda pair: (list(LEGS).index(pair[0][0]) if pair[0][0] in LEGS else 99, pair[0][1])
    ):
        name = f"{LEGS.get(leg, leg)} {direction}".strip()
        pen.add(
            go.Scatter(
                x=[row["event_time"] for row in found],
                y=[row["price"] for row in found],
                mode="markers",
                name=name,
                marker=_marker(leg, direction),
                text=[_fill_text(row, closed.get(row["position_id"])) for row in found],
                hovertemplate=f"<b>{name}</b><br>%{{text}}<extra></extra>",
            )
        )


def _marker(leg: str, direction: str) -> dict[str, Any]:
    edge = {"color": "white", "width": 1}
    if leg == "entry":
        long = direction == "LONG"
        return {"symbol": "triangle-up" if long else "triangle-down", "size": 13, "color": BUY if long else SELL, "line": edge}
    symbols = {
        "tp1": ("diamond", BLUE),
        "tp2": ("star", BLUE),
        "stop": ("x", SELL),
        "break_even_stop": ("x", MUTED),
        "trailing_stop": ("x", BLUE),
        "timeout": ("square", ORANGE),
    }
    symbol, colour = symbols.get(leg, ("circle", PURPLE))
    return {"symbol": symbol, "size": 10, "color": colour, "line": edge}


def _fill_text(fill: Row, trade: Row | None) -> str:
    lines = [
        f"{utc(fill['event_time'])} UTC",
        f"{fill['side']} {fill['quantity']:g} at {fill['price']!r} ({fill['liquidity']}), fee {fill['fee']:.4f}",
    ]
    if trade is None:
        lines.append("position not closed within the data")
    else:
        lines += [
            f"{trade['direction']} {trade['tier']}, score {trade['score']:.1f}: closed by {LEGS.get(trade['exit_reason'], trade['exit_reason'])}",
            f"net {trade['net_r']:+.2f} R, {trade['net_pnl']:+.2f} (fees {trade['fee_r']:.2f} R), held {trade['hold_ms'] / 60_000:.0f} min",
        ]
    return "<br>".join(lines)


def _cvd(pen: Pen, series: Series, has: dict[str, bool], silences: Sequence[Silence]) -> None:
    if len(series.trade_time):
        time, running = broken(silences, series.trade_time, series.trade_cvd)
        pen.line("since the first trade", time, running, INK, line={"width": 1.2, "shape": "hv"})
    for name, colour in (("cvd_30m", BLUE), ("cvd_4h", ORANGE)):
        if has[name]:
            time, window = broken(silences, series.features["time"], series.features[name])
            pen.line(f"{name[4:]} window", time, window, colour)
    pen.level(0, "")


def _score(pen: Pen, scores: Sequence[Scores], strategies: Sequence[Drawn]) -> None:
    known = {one.strategy_id: one for one in strategies}
    colours = {name: STATE_COLOURS[name] for name in ("below entry", "cooldown", "no signal", "flip signal")}
    drawn = {*colours, "signal"}
    named: set[str] = set()
    for one in scores:
        state, direction = np.array(one.state), np.array(one.direction)
        whose = f"<br>{one.strategy_id}" if len(scores) > 1 else ""
        hover = "%{x|%Y-%m-%d %H:%M:%S} UTC<br>score %{y:.1f} %{text}" + whose
        for name, colour in colours.items():
            chosen = np.flatnonzero(state == name)
            chosen = chosen[:: max(1, -(-len(chosen) // MOST_POINTS))]
            if len(chosen):
                marker = {"size": 4, "color": colour}
                pen.add(
                    go.Scatter(x=one.time[chosen], y=one.score[chosen], mode="markers", marker=marker, name=name, legendgroup=f"score {name}",
                               showlegend=name not in named, text=direction[chosen], hovertemplate=f"{hover}<br>{name}<extra></extra>")
                )  # fmt: skip
                named.add(name)
        for side, symbol, colour in (("LONG", "triangle-up", BUY), ("SHORT", "triangle-down", SELL)):
            chosen = np.flatnonzero((state == "signal") & (direction == side))
            if len(chosen):
                marker = {"size": 10, "color": colour, "symbol": symbol, "line": {"color": "white", "width": 1}}
                pen.add(
                    go.Scatter(x=one.time[chosen], y=one.score[chosen], mode="markers", marker=marker, name=f"signal {side}",
                               legendgroup=f"score {side}", showlegend=side not in named, text=direction[chosen],
                               hovertemplate=f"<b>signal</b><br>{hover}<extra></extra>")
                )  # fmt: skip
                named.add(side)
    drawn_strategies = [known[one.strategy_id] for one in scores if one.strategy_id in known]
    for level in sorted({one.entry_score for one in drawn_strategies}):
        pen.level(level, f"entry {level:g}", BLUE, "bottom left")
    for level in sorted({one.flip_threshold for one in drawn_strategies}):
        pen.level(level, f"flip {level:g}", PURPLE)
    states = {state for one in scores for state in one.state}
    if not states & drawn:
        pen.figure.add_annotation(
            row=pen.row, col=1, x=0.5, xref="x domain", y=0.2, yref="y domain", showarrow=False, font={"size": 13, "color": MUTED},
            text="none: " + ("warm-up: the history was too short for every evaluation" if states == {"not warm"} else "no evaluation passed all gates"),
        )  # fmt: skip
    passed = [float(score) for one in scores for score, state in zip(one.score, one.state, strict=True) if state in drawn]
    limits = [strategy.entry_score for strategy in strategies]
    pen.axis(range=[max(0.0, min([*passed, *limits, 70.0]) - 10), 102])


def segments(time: Array, state: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Return the time spans of each state: from one evaluation to the next. At the end or before a silence, a span ends at its evaluation."""
    found: dict[str, list[tuple[float, float]]] = {}
    start = 0
    for at in range(1, len(state) + 1):
        ends = at == len(state)
        if ends or state[at] != state[start] or time[at] - time[at - 1] >= SILENCE_MS:
            silent = ends or time[at] - time[at - 1] >= SILENCE_MS
            found.setdefault(state[start], []).append((float(time[start]), float(time[at - 1] if silent else time[at])))
            start = at
    return found


def _states(pen: Pen, scores: Sequence[Scores], strategies: Sequence[Drawn]) -> None:
    names = {one.strategy_id: one.display_name for one in strategies}
    shown: set[str] = set()
    spare = iter(SPARE_COLOURS)
    colours = dict(STATE_COLOURS)
    for lane, one in enumerate(scores):
        stretches = segments(one.time, one.state)
        for state in sorted(stretches, key=lambda name: list(STATE_COLOURS).index(name) if name in STATE_COLOURS else 99):
            if state not in colours:
                colours[state] = next(spare, MUTED)
            x: list[float | None] = []
            for start, end in stretches[state]:
                x += [start, end, None]
            count = one.state.count(state) if one.counts is None else one.counts[state]
            pen.add(
                go.Scatter(x=x, y=[None if at is None else lane for at in x], mode="lines+markers" if state == "signal" else "lines",
                           line={"color": colours[state], "width": 16}, marker={"symbol": "line-ns-open", "size": 14, "color": BUY},
                           name=state if len(scores) > 1 else f"{state}: {count:,}", legendgroup="states", showlegend=state not in shown,
                           legendgrouptitle_text=None if shown else "evaluations",
                           text=[f"{names.get(one.strategy_id, one.strategy_id)}: {state} ({count:,} evaluations in total)"] * len(x),
                           hovertemplate="%{x|%Y-%m-%d %H:%M:%S} UTC<br>%{text}<extra></extra>"),
                legend_of=1,
            )  # fmt: skip
            shown.add(state)
    lanes = list(range(len(scores)))
    labels = [""] if len(scores) == 1 else [one.strategy_id for one in scores]
    pen.axis(tickvals=lanes, ticktext=labels, range=[-0.7, len(scores) - 0.3], showgrid=False)


def _prints(pen: Pen, series: Series) -> None:
    prints = series.prints
    for buy, name, colour in ((1, "taker bought", BUY), (0, "taker sold", SELL)):
        chosen = prints["buy"] == buy
        time, signed = prints["time"][chosen], prints["quantity"][chosen] * (1 if buy else -1)
        if not len(time):
            continue
        stem_x = np.column_stack([time, time, np.full(len(time), np.nan)]).ravel()
        stem_y = np.column_stack([np.zeros(len(time)), signed, np.full(len(time), np.nan)]).ravel()
        pen.add(
            go.Scatter(
                x=stem_x, y=stem_y, mode="lines", line={"color": colour, "width": 1}, hoverinfo="skip", showlegend=False, legendgroup=name
            )
        )
        pen.add(
            go.Scatter(x=time, y=signed, mode="markers", marker={"size": 5, "color": colour}, name=name, legendgroup=name,
                       customdata=np.column_stack([prints["price"][chosen], prints["quantity"][chosen]]),
                       hovertemplate="%{x|%Y-%m-%d %H:%M:%S.%L} UTC<br>%{customdata[1]} at %{customdata[0]}, " + name + "<extra></extra>")
        )  # fmt: skip
    pen.level(0, "")


def _obi(pen: Pen, series: Series) -> None:
    pen.line("OBI", series.features["time"], series.features["obi"], PURPLE, "%{y:.3f}")
    pen.level(0, "")
    pen.axis(range=[-1.05, 1.05])


def _basis(pen: Pen, series: Series, has: dict[str, bool]) -> None:
    price = series.features["price"]
    for name, colour in (("mark_price", BLUE), ("index_price", ORANGE)):
        if has[name]:
            pen.line(
                name.removesuffix("_price"), series.features["time"], (series.features[name] - price) / price * 1e4, colour, "%{y:.2f} bp"
            )
    pen.level(0, "")


def _funding(pen: Pen, series: Series) -> None:
    pen.line("estimated", series.features["time"], series.features["estimated_funding_rate"] * 100, PURPLE, "%{y:.4f} %")


def account_figure(closed: Sequence[Row]) -> go.Figure | None:
    """Return the cumulative net R of closed trades in order of exit, one line per strategy. None without trades.

    The x axis is the trade number, because recordings of different years would leave no room on a time axis.
    """
    if not closed:
        return None
    figure = go.Figure()
    colours = cycle((BLUE, ORANGE, PURPLE, BUY, SELL, MUTED))
    for strategy, colour in zip(sorted({row["strategy_id"] for row in closed}), colours, strict=False):
        mine = [row for row in closed if row["strategy_id"] == strategy]
        total = np.cumsum([0.0, *(row["net_r"] for row in mine)])
        text = [
            "start",
            *(
                f"{utc(row['event_time'])} UTC<br>{row['instrument']} {row['direction']}, "
                f"{LEGS.get(row['exit_reason'], row['exit_reason'])}: {row['net_r']:+.2f} R"
                for row in mine
            ),
        ]
        figure.add_trace(
            go.Scatter(x=list(range(len(total))), y=total, name=strategy, mode="lines+markers",
                       line={"shape": "hv", "width": 1.6, "color": colour}, marker={"size": 6}, text=text,
                       hovertemplate="%{text}<br>cumulative %{y:+.2f} R<extra></extra>")
        )  # fmt: skip
    dress(figure, 240)
    figure.update_layout(showlegend=True, legend=_legend(1.0))
    figure.update_xaxes(title_text="closed trades of the strategy, in order of exit", title_font={"size": 11}, rangemode="tozero")
    figure.update_yaxes(title_text="cumulative net R", title_font={"size": 11})
    return figure
