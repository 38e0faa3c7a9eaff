"""Write the HTML report of a replay: the content of ``report.json`` with charts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from deploy.report.account import equity_figure, excursion_figure, score_figure
from deploy.report.charts import instrument_figure
from deploy.report.formatting import LEGS, bounded, duration, utc
from deploy.report.page import Html, block, columns, figure, folded, marked, none_line, note, page, section, table, text, tiles
from deploy.report.series import FEATURES, Scores, Series, Silence
from deploy.report.tables import count, cut_note, number, signals_table, signed, time_text, trades_table
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.replay.collect import TIMEFRAMES, Collector, InstrumentResults, StrategyResults

Json = dict[str, Any]
# Most evaluations to draw per strategy. Signals are always drawn.
MOST_EVALUATIONS = 20_000
# With fewer days, ratios of daily returns are meaningless.
BREAKDOWN_NAMES = {
    "symbol": "By symbol", "side": "By side", "tier": "By tier", "hour": "By hour of entry (UTC)", "weekday": "By weekday of entry (UTC)",
    "regime": "By regime at the signal", "exit_reason": "By exit",
}  # fmt: skip


def write_page(
    path: Path, title: str, report: Json, collected: Collector, trades: Sequence[Json], strategies: Sequence[StrategyConfig]
) -> None:
    """Write the page.

    Args:
        path: File to write.
        title: Heading.
        report: ``stream_apps.replay.report.build`` of the run.
        collected: Results of the run.
        trades: Closed trades with ``void``.
        strategies: Their configurations during the run.

    Raises:
        OSError: the file cannot be written.
    """
    sound = [row for row in trades if row["void"] is None]
    accounts = {one["strategy_id"]: one for one in report["strategies"]}
    curves = {name: one["curve"] for name, one in accounts.items()}
    if len(accounts) > 1 and report["all"] is not None:
        curves["all strategies"] = report["all"]["curve"]
    equity = equity_figure(curves)
    scores = score_figure({name: one["scores"] for name, one in accounts.items()}, {one.strategy_id: one.entry_score for one in strategies})
    excursions = excursion_figure(sound)
    document = page(
        title,
        *_head(title, report),
        section("equity", "Equity and drawdown", _drawn("chart-equity", equity, "none: no valid closed trade"), _left_out(report)),
        *_markets(report, collected, trades, strategies),
        section("statistics", "Statistics of closed trades", _statistics(report)),
        section("breakdowns", "Breakdowns", *_breakdowns(report)),
        section("excursions", "Excursions", _drawn("chart-excursions", excursions, "none: no valid closed trade")),
        section("scores", "Scores", note("Scores before gates of warm evaluations, on a logarithmic axis. Dotted line: entry score."),
                _drawn("chart-scores", scores, "none: no evaluation after the warm-up"), _evaluations(report)),
        section("trades", "Closed trades", trades_table(trades, "none: no closed trade"), cut_note(len(trades))),
        section("signals", "Signals", signals_table([row for row in collected.signals if row["entry"]]),
                cut_note(sum(row["entry"] for row in collected.signals))),
        _quality(report),
        _configuration(report),
        f"<footer>All times are UTC. Written {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC by perpflow. The paper model computes the trades from "
        "the market data named above. No order was sent. An undefined value shows as none, never as zero.</footer>",
        with_figures=True,
    )  # fmt: skip
    path.write_text(document, encoding="utf-8")


def _drawn(anchor: str, drawn: Any, empty: str) -> Html:
    return none_line(empty) if drawn is None else figure(anchor, drawn)


def _head(title: str, report: Json) -> Iterator[str]:
    yield f"<h1>{text(title)}</h1>"
    yield '<div class="label">Paper trading on replayed data: no order was sent</div>'
    for one in report["instruments"]:
        span = f"{utc(one['first'])} to {utc(one['last'])} UTC" if one["first"] is not None else "no evaluation"
        yield f'<div class="source"><b>{text(one["instrument"])}</b> {text(span)}, {one["trades"]:,} trades. {text(", ".join(report["source"]))}</div>'
    anchors = ("equity", "statistics", "breakdowns", "excursions", "scores", "trades", "signals", "quality", "configuration")
    links = [(f"i{place}", one["instrument"]) for place, one in enumerate(report["instruments"], 1)]
    links += [(name, name.capitalize()) for name in anchors]
    yield "<nav>" + "".join(f'<a href="#{anchor}">{text(name)}</a>' for anchor, name in links) + "</nav>"
    if report["all"] is None:
        yield tiles([("strategies", count(len(report["strategies"]))), ("closed trades", "0")])
        return
    values = {name: one["value"] for name, one in report["all"]["statistics"].items()}
    fall = values["max_drawdown_r"]
    yield tiles(
        [
            ("strategies", count(len(report["strategies"]))),
            ("valid closed trades", count(values["trades"])),
            ("net, R", signed(values["net_r"])),
            ("net P&L", signed(values["net_pnl"], "+,.2f")),
            ("win rate (95 %)", win_rate_text(report["all"]["statistics"])),
            ("profit factor (95 %)", profit_factor_text(report["all"]["statistics"])),
            ("max drawdown, R", number(fall)),
            ("fees and slippage, R", number(values["fees_r"] + values["slippage_r"])),
        ]
    )


def _left_out(report: Json) -> str:
    void = [(one["strategy_id"], one["void"]) for one in report["strategies"] if one["void"]["trades"]]
    if not void:
        return ""
    listed = "; ".join(f"{name}: {one['trades']} trades, {one['net_r']:+.2f} R" for name, one in void)
    return note(
        f"Excluded from this curve and from the statistics, because market data was missing at the decision or while the trade was open: {listed}."
    )


# --- markets -----------------------------------------------------------------------------------------------------------


def _markets(report: Json, collected: Collector, trades: Sequence[Json], strategies: Sequence[StrategyConfig]) -> Iterator[str]:
    for place, one in enumerate(report["instruments"], 1):
        name = one["instrument"]
        running = [strategy for strategy in strategies if name in strategy.all_instruments]
        series = _series(name, collected, trades, running)
        silences = [Silence(pause["since"], pause["until"]) for pause in one["silences"]]
        silences += [Silence(gap["since"], gap["until"]) for gap in report["quality"]["trade_gaps"] if gap["instrument"] == name]
        made = instrument_figure(series, silences, running)
        shaded = note("Shaded: at least 5 minutes without a trade, and gaps in the data.") if silences else ""
        yield section(f"i{place}", name, _drawn(f"chart-{place}", made, "none: no bar and no evaluation"), shaded)


def _series(name: str, collected: Collector, trades: Sequence[Json], strategies: Sequence[StrategyConfig]) -> Series:
    market = collected.markets[name]
    frame = next((one for one in TIMEFRAMES if market.bars.get(one)), "")
    flow = np.array(market.flow.all(), dtype=np.float64).reshape(-1, 3)
    rows = np.array(market.features.all(), dtype=np.float64).reshape(-1, 1 + len(FEATURES))
    features = {column: rows[:, at] for at, column in enumerate(("time", *FEATURES))}
    nothing: np.ndarray = np.empty(0)
    return Series(
        instrument=name,
        bucket_ms=60_000,
        trade_time=flow[:, 0],
        trade_price=flow[:, 1],
        trade_cvd=flow[:, 2],
        timeframe=frame,
        bars=_bars(market, frame),
        features=features,
        scores=[_scores(one.strategy_id, name, collected) for one in strategies if one.strategy_id in collected.strategies],
        prints={"time": nothing, "price": nothing, "quantity": nothing, "buy": nothing},
        gaps=[],
        fills=[row for row in collected.fills if row["instrument"] == name],
        closed=[row for row in trades if row["instrument"] == name],
    )


def _bars(market: InstrumentResults, frame: str) -> dict[str, np.ndarray]:
    names = ("time", "open", "high", "low", "close", "volume")
    rows = np.array(market.bars.get(frame, []), dtype=np.float64).reshape(-1, len(names))
    return {column: rows[:, at] for at, column in enumerate(names)}


def _scores(strategy_id: str, instrument: str, collected: Collector) -> Scores:
    seen: StrategyResults = collected.strategies[strategy_id].on(instrument)
    states = np.array(seen.states, dtype=np.int64)
    stride = max(1, -(-len(states) // MOST_EVALUATIONS))
    kept = np.zeros(len(states), dtype=bool)
    kept[::stride] = True
    kept |= np.isin(states, [at for at, name in enumerate(collected.states) if name == "signal"])
    counts = {name: int((states == at).sum()) for at, name in enumerate(collected.states)}
    chosen = np.flatnonzero(kept)
    sides = {1: "LONG", -1: "SHORT", 0: "NONE"}
    return Scores(
        strategy_id,
        time=np.array(seen.times, dtype=np.float64)[chosen],
        score=np.array(seen.scores, dtype=np.float64)[chosen],
        state=[collected.states[state] for state in states[chosen].tolist()],
        direction=[sides[seen.sides[at]] for at in chosen.tolist()],
        counts=counts,
    )


# --- statistics --------------------------------------------------------------------------------------------------------


def stated(one: Json, unit: str) -> str | Html | None:
    """Return a statistic as text: its value, or the reason why it is missing."""
    return value_text(one["value"], unit) if one["value"] is not None else one.get("reason")


def win_rate_text(statistics: Mapping[str, Json]) -> str:
    """Return the win rate with its count and interval."""
    return _bounded(statistics, "win_rate", ".1%")


def profit_factor_text(statistics: Mapping[str, Json]) -> str:
    """Return the profit factor with its count and interval."""
    return _bounded(statistics, "profit_factor", ",.2f")


def _bounded(statistics: Mapping[str, Json], name: str, form: str) -> str:
    value, low, high = (statistics[name + end]["value"] for end in ("", "_low", "_high"))
    return bounded(value, low, high, statistics["trades"]["value"], form, statistics[name].get("reason", ""))


def value_text(value: float | int | None, unit: str) -> str | Html | None:
    """Return a statistic's value as text."""
    if value is None:
        return None
    if unit == "ms UTC":
        return utc(value)
    if unit == "ms":
        return duration(value)
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "fraction":
        return f"{value:.2%}"
    if unit == "%":
        return f"{value:,.2f} %"
    return f"{value:,.2f}" if unit == "money" else f"{value:,.3f}"


def statistics_table(definitions: Mapping[str, Json], accounts: Mapping[str, Mapping[str, Json]]) -> Html:
    """Return one row per statistic and one column per account. Hover over a name shows its formula.

    Args:
        definitions: Name -> unit, group, meaning.
        accounts: Heading -> name -> value, unit.
    """
    rows: list[Sequence[Any]] = []
    group = None
    for name, one in definitions.items():
        if one["group"] != group:
            group = one["group"]
            rows.append((Html(f"<b>{text(group)}</b>"), "", *(Html("") for _ in accounts)))
        title = Html(f'<span title="{text(one["meaning"])}">{text(name)}</span>')
        rows.append((title, Html(text(one["unit"])), *(shown_cell(name, values, one["unit"]) for values in accounts.values())))
    return table(
        ["statistic", "unit", *(f">{name}" for name in accounts)], [(row[0], row[1] or Html(""), *row[2:]) for row in rows], whole=True
    )


def shown_cell(name: str, values: Mapping[str, Json], unit: str) -> str | Html | None:
    """Return a statistic as reports and terminal show it: win rate and profit factor with count and interval, an undefined value with its reason."""
    if name == "win_rate":
        return win_rate_text(values)
    if name == "profit_factor":
        return profit_factor_text(values)
    return stated(values[name], unit)


def _accounts(report: Json) -> dict[str, Json]:
    accounts = {one["strategy_id"]: one for one in report["strategies"]}
    if len(accounts) > 1 and report["all"] is not None:
        accounts["all strategies"] = report["all"]
    return accounts


def _statistics(report: Json) -> str:
    explained = note(
        "Closed trades only. Net figures include fees and funding; prices include slippage. Hover over a name for its formula and source."
    )
    return explained + statistics_table(report["definitions"], {name: one["statistics"] for name, one in _accounts(report).items()})


def _share(row: Json, name: str, form: str) -> str:
    return bounded(row[name], row[f"{name}_low"], row[f"{name}_high"], row["trades"], form, "no losing trade")


def _breakdowns(report: Json) -> Iterator[str]:
    accounts = _accounts(report)
    for name, one in accounts.items():
        parts = []
        for kind, title in BREAKDOWN_NAMES.items():
            rows = [
                (
                    LEGS.get(row["group"], row["group"]) if kind == "exit_reason" else row["group"], count(row["trades"]), _share(row, "win_rate", ".0%"),
                    signed(row["net_r"]), signed(row["expectancy_r"], "+.3f"), _share(row, "profit_factor", ".2f"), signed(row["net_pnl"], "+,.0f"),
                    number(row["fees"], ",.0f"), number(row["funding"], ",.0f"), number(row["slippage"], ",.0f"), duration(row["average_hold_ms"]),
                )
                for row in one["breakdowns"][kind]
            ]  # fmt: skip
            heads = [
                "",
                ">trades",
                ">won",
                ">net R",
                ">R per trade",
                ">profit factor",
                ">net P&L",
                ">fees",
                ">funding",
                ">slippage",
                ">held",
            ]
            parts.append(block(title, table(heads, rows, "none: no valid closed trade")))
        yield folded(name, *parts, opened=len(accounts) == 1 or name == "all strategies")


def _evaluations(report: Json) -> str:
    rows = [
        (
            one["strategy_id"], one["model"], count(one["evaluations"]["all"]), count(one["signals"]), count(one["open_at_end"]),
            ", ".join(f"{name} {times:,}" for name, times in one["evaluations"]["states"].items()),
        )
        for one in report["strategies"]
    ]  # fmt: skip
    return table(["strategy", "model", ">evaluations", ">signals", ">open at the end", "~outcomes of evaluations"], rows)


# --- quality and configuration -----------------------------------------------------------------------------------------


def _quality(report: Json) -> str:
    quality = report["quality"]
    gap_table = table(
        ["instrument", "from (UTC)", "to (UTC)", ">length", ">missing ids"],
        [
            (one["instrument"], utc(one["since"]), utc(one["until"]), duration(one["until"] - one["since"]), count(one["missing"]))
            for one in quality["trade_gaps"]
        ],
        f"none of {quality['least_gap_ms'] // 1000} s or more, by trade ids",
    )
    void = table(
        ["strategy", ">trades", ">net R", ">net P&L", "~why"],
        [
            (one["strategy_id"], count(one["void"]["trades"]), signed(one["void"]["net_r"]), signed(one["void"]["net_pnl"], "+,.2f"),
             ", ".join(f"{name} {times}" for name, times in one["void"]["reasons"].items()))
            for one in report["strategies"] if one["void"]["trades"]
        ],
        "none: no trade overlaps a gap",
    )  # fmt: skip
    silences = table(
        ["instrument", "from (UTC)", "to (UTC)", ">length"],
        [(one["instrument"], utc(pause["since"]), utc(pause["until"]), duration(pause["until"] - pause["since"]))
         for one in report["instruments"] for pause in sorted(one["silences"], key=lambda pause: pause["since"] - pause["until"])[:20]],
        "none of 5 minutes or more",
    )  # fmt: skip
    missing = table(
        ["instrument", "input", ">instants without it", ">of these stale", ">share"],
        [(one["instrument"], name, count(times), count(one["stale_inputs"].get(name, 0)), f"{times / one['instants']:.1%}")
         for one in report["instruments"] for name, times in one["missing_inputs"].items()],
        "none: every input had a value at every instant",
    )  # fmt: skip
    late = table(
        ["instrument", ">trades", ">late", ">evaluated instants"],
        [(one["instrument"], count(one["trades"]), count(one["late_trades"]), count(one["instants"])) for one in report["instruments"]],
    )
    files = table(
        ["file", "from (UTC)", "to (UTC)", ">rows", ">bad rows", ">gaps", ">missing ids", ">doubles", ">out of order", "checksum"],
        [(one["file"], time_text(one["first"]), time_text(one["last"]), count(one["rows"]), count(one["bad"]), count(one["gaps"]), count(one["missing"]),
          count(one["duplicates"]), count(one["out_of_order"]), one["checksum"]) for one in quality["files"]],
        "none: no dump files",
    )  # fmt: skip
    letters = table(
        ["source", "field", "~reason", ">records"],
        [(one["source"], one["field"], one["reason"], count(one["records"])) for one in quality["dead_letters"][:100]],
        "none: no rejected records",
    )
    refused = table(["reason", ">signals"], [(name, count(times)) for name, times in quality["refused_entries"].items()], "none")
    return section(
        "quality",
        "Data quality",
        columns(block("Gaps in the trades", gap_table), block("Excluded trades", void)),
        columns(block("Late records", late), block("Periods without a trade", silences)),
        columns(block("Missing and stale inputs", missing), block("Rejected and expired entries", refused)),
        block("Files", files),
        block("Rejected records", letters),
    )


def _configuration(report: Json) -> str:
    strategies = report["strategies"]
    checks = table(
        ["check", "result", "~method"],
        [(name, marked("holds" if one["ok"] else "FAILS", one["ok"]), one["text"]) for name, one in report["checks"].items()],
        "none: run with --twice or --future-shift",
    )
    hashes = table(["result", "~sha256"], [(name, Html(f"<code>{text(value)}</code>")) for name, value in report["hashes"].items()])
    inputs = [(one["name"], count(one["bytes"]), Html(f"<code>{text(one['sha256'])}</code>")) for one in report["files"]]
    files = table(["input file", ">bytes", "~sha256"], inputs, "none: the source is the topics")
    fields = [name for name in strategies[0]["config"] if name not in ("event_time", "receive_time")] if strategies else []
    configs = table(["field", *(f"~{one['strategy_id']}" for one in strategies)], [
        ("config_hash", *(Html(f"<code>{text(one['config_hash'])}</code>") for one in strategies)),
        *((name, *(_plain(one["config"][name]) for one in strategies)) for name in fields),
    ])  # fmt: skip
    numbers = table(["", "value"], [(name, _plain(value)) for part in ("paper", "engine") for name, value in report[part].items()])
    counts = table(["topic", ">records read", ">results"], [
        (name, count(report["inputs"].get(name)), count(report["outputs"].get(name))) for name in sorted({*report["inputs"], *report["outputs"]})
    ])  # fmt: skip
    return section(
        "configuration",
        "Configuration and hashes",
        block("Checks", checks),
        columns(block("Results", hashes), block("Records", counts)),
        block("Inputs", files),
        folded("Strategies", configs, opened=True),
        folded("Paper model and engine", numbers),
    )


def _plain(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
