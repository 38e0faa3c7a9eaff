"""Write the HTML report of a run: charts, tables, checks, data quality. It names the source of every figure."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.demo.collect import snapshot
from deploy.demo.golden import Golden, value_text
from deploy.demo.outcome import Check, DemoFacts, EvaluationFacts, InstrumentFacts, PaperFacts, profit_factor_text, win_rate_text
from deploy.demo.series import read_series, rows
from deploy.grafana.build import GENERATED_AUTHORS
from deploy.report.charts import account_figure, instrument_figure
from deploy.report.formatting import LEGS, Rates, duration, rate_text, utc
from deploy.report.page import Html, block, columns, figure, marked, none_line, note, page, section, table, text, tiles
from deploy.report.series import MOST_ROWS, SILENCE_MS, Row
from deploy.report.tables import count, cut_note, number, signals_table, signed, time_text, trades_table, yes
from schemas.catalogue import TOPICS, schema

RECORDED = "Recorded data, played back"
GENERATED = "Generated data, for features that no recording has. Not real trades of a venue"


def write_report(
    path: str | Path,
    database_url: str,
    facts: DemoFacts,
    checks: Sequence[Check],
    title: str,
    *,
    goldens: Sequence[Golden] = (),
    rates: Rates | None = None,
    hashes: Mapping[str, str] | None = None,
    pages: Mapping[str, Path] | None = None,
    generated_at: datetime | None = None,
) -> Path:
    """Write the report and return its path.

    Args:
        path: File to write. Its folder is created.
        database_url: Database from which the series are read.
        facts: ``collect.collect`` of the same database.
        checks: ``golden.golden_checks``.
        title: Heading of the page.
        goldens: The played recordings. The report lists their file names and hashes as sources.
        rates: Name -> figure, e.g. records per second. None shows as "none".
        hashes: Topic -> sha256 over its sorted records.
        pages: Heading -> page of a dashboard, linked.
        generated_at: Time to print. Default: now.

    Raises:
        DatabaseError: the database does not answer.
        OSError: the file cannot be written.
    """
    parts: list[str] = []
    drawn = False
    with snapshot(database_url) as connection:
        for number, one in enumerate(facts.instruments, 1):
            series = read_series(connection, one)
            made = instrument_figure(
                series, one.silences, [strategy for strategy in facts.strategies if strategy.instrument == one.instrument]
            )
            drawn = drawn or made is not None
            chart = none_line("none: no trade, bar or evaluation is stored") if made is None else figure(f"chart-{number}", made)
            parts.append(_instrument(number, one, chart, facts, goldens))
        chosen = [one.instrument for one in facts.instruments]
        closed = rows(connection, "trades_closed", "instrument = ANY(%s) AND mode = 'paper'", chosen)
        signals = rows(connection, "signals", "instrument = ANY(%s)", chosen)
        gaps = rows(connection, "gaps", "instrument = ANY(%s)", chosen)
    account = account_figure(closed)
    at = generated_at or datetime.now(UTC)
    document = page(
        title,
        *_head(title, facts, checks, goldens),
        *parts,
        _paper(facts, closed, Html("") if account is None else figure("chart-account", account)),
        _signals(facts, signals),
        _evaluations(facts),
        _quality(facts, gaps),
        _checks(checks),
        _records(facts, rates, hashes),
        _dashboards(pages or {}, Path(path)),
        _sources(facts, goldens),
        f"<footer>All times are UTC. Written {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC by perpflow from its database. A model computes the paper "
        "trades from recorded trades. No real order was sent.</footer>",
        with_figures=drawn or account is not None,
    )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(document, encoding="utf-8")
    return target


def origin(one: InstrumentFacts, goldens: Sequence[Golden]) -> str:
    """Return the label of an instrument's data: recorded, generated or unknown. A played recording is always recorded."""
    names = [file.name for golden in goldens if golden.instrument == one.instrument for file in golden.files]
    if one.recorded or names:
        label = RECORDED
    elif one.author is not None and one.author.startswith(GENERATED_AUTHORS):
        label = GENERATED
    elif one.recorded is None:
        label = "Origin unknown: the producer wrote no instruments record"
    else:
        label = "Live data"
    if not names:
        return label
    listed = ", ".join(names) if len(names) <= 3 else f"{names[0]} ... {names[-1]} ({len(names)} files)"
    return f"{label}: {listed}"


def _head(title: str, facts: DemoFacts, checks: Sequence[Check], goldens: Sequence[Golden]) -> Iterator[str]:
    labels = [origin(one, goldens) for one in facts.instruments]
    recorded = bool(labels) and all(label.startswith(RECORDED) for label in labels)
    banner = f"{RECORDED}: nothing on this page is live" if recorded else "; ".join(sorted({label.partition(":")[0] for label in labels}))
    yield f"<h1>{text(title)}</h1>"
    yield f'<div class="label">{text(banner or "No data: the tables contain no instrument")}</div>'
    for one, label in zip(facts.instruments, labels, strict=True):
        span = (
            f"{utc(one.first_time)} to {utc(one.last_time)} UTC"
            if one.first_time is not None and one.last_time is not None
            else "no trades"
        )
        yield f'<div class="source"><b>{text(one.instrument)}</b> {text(span)}. {text(label)}</div>'
    links = [(f"i{number}", one.instrument) for number, one in enumerate(facts.instruments, 1)]
    links += [("paper", "Paper trades"), ("signals", "Signals"), ("evaluations", "Evaluations"), ("quality", "Data quality")]
    links += [("checks", "Checks"), ("records", "Records, rates, hashes"), ("sources", "Sources")]
    yield "<nav>" + "".join(f'<a href="#{anchor}">{text(name)}</a>' for anchor, name in links) + "</nav>"
    failed = sum(not check.ok for check in checks)
    passed = marked(f"{len(checks) - failed} of {len(checks)}", not failed) if checks else None
    paper = facts.paper
    yield tiles(
        [
            ("checks passed", passed),
            ("records stored", f"{sum(facts.rows.values()):,}"),
            ("trades (by id range)", count(sum(one.trades for one in facts.instruments if one.trades is not None))),
            ("evaluations", f"{sum(one.evaluations for one in facts.evaluations):,}"),
            ("signals", f"{sum(one.count for one in facts.signals):,}"),
            ("closed paper trades", f"{paper.trades:,}"),
            ("net, R", signed(paper.net_r, "+.2f")),
            ("net P&L", signed(paper.net_pnl, "+,.2f")),
        ]
    )


def _instrument(number: int, one: InstrumentFacts, chart: str, facts: DemoFacts, goldens: Sequence[Golden]) -> str:
    label = f'<div class="label">{text(origin(one, goldens))}</div>'
    mine = [strategy for strategy in facts.strategies if strategy.instrument == one.instrument]
    market = [
        ("trades (by id range)", count(one.trades)),
        ("aggregate trades", count(one.agg_trades)),
        ("taker buy quantity", value_text(one.buy)),
        ("taker sell quantity", value_text(one.sell)),
        ("CVD", value_text(one.cvd)),
        ("largest aggregate trade", value_text(one.largest)),
        ("first / last price", f"{value_text(one.first_price)} / {value_text(one.last_price)}"),
        ("lowest / highest price", f"{value_text(one.low)} / {value_text(one.high)}"),
        ("last book", value_text(one.book)),
        ("last quote", value_text(one.quote)),
        ("evaluated instants", count(one.features)),
        ("late trades", count(one.late_trades)),
    ]
    half = len(market) // 2
    strategies = table(
        ["strategy", "windows", ">entry", ">flip", "disabled gates", "~description"],
        [
            (
                f"{strategy.display_name} (revision {strategy.revision})",
                f"{strategy.cvd_fast_window}, {strategy.cvd_slow_window}",
                f"{strategy.entry_score:g}",
                f"{strategy.flip_threshold:g}",
                ", ".join(strategy.gates_off) or None,
                strategy.description,
            )
            for strategy in mine
        ],
    )
    shaded = ""
    if one.silences:
        shaded = note(
            f"Shaded: at least {SILENCE_MS // 60_000} minutes without a trade. Evaluations continue, and the windows become empty."
        )
    return section(
        f"i{number}",
        one.instrument,
        label,
        chart,
        shaded,
        block("Market data", columns(table(["", ">value"], market[:half]), table(["", ">value"], market[half:]))),
        block("Strategies", strategies),
    )


def _paper(facts: DemoFacts, closed: Sequence[Row], account: Html) -> str:
    paper = facts.paper
    per_strategy = [(f"{one.strategy_id} on {one.instrument}", one.paper) for one in facts.papers]
    if len(per_strategy) > 1:
        per_strategy.append(("all", paper))
    statistics = table(
        ["", ">trades", ">win rate", ">profit factor", ">net R", ">net P&L", ">fees", ">funding", ">best / worst R", ">max drawdown R",
         ">in money", ">mean hold", "~exits"],
        [_statistics(name, one) for name, one in per_strategy],
        "none: no closed paper trade",
    )  # fmt: skip
    opened = table(
        ["instrument", "strategy", "status", "side", "entry (UTC)", ">entry price", ">open quantity", ">realised"],
        [
            (
                one.instrument, one.strategy_id, one.status, one.direction, time_text(one.entry_time), value_text(one.entry_price),
                value_text(one.open_quantity), signed(one.realised_pnl, "+,.2f"),
            )
            for one in facts.open_positions
        ],
        "none: no open position",
    )  # fmt: skip
    orders = table(
        ["instrument", "leg", "last status", "~reason", ">orders"],
        [(one.instrument, LEGS.get(one.leg, one.leg), one.status, one.reason, f"{one.count:,}") for one in facts.orders],
    )
    return section(
        "paper",
        "Paper trades",
        note(
            "The paper model computes these trades from the played market data. 1 R is the money at risk per trade; net R is after fees and funding."
        ),
        account,
        block("Statistics of closed trades", statistics),
        block("Closed trades", trades_table(closed), cut_note(len(closed))),
        columns(block("Open positions at the end of the data (in no statistic)", opened), block("Orders", orders)),
    )


def _statistics(name: str, one: PaperFacts) -> Sequence[Any]:
    exits = ", ".join(f"{LEGS.get(reason, reason)} {count}" for reason, count in one.exits.items())
    extremes = None if one.best_r is None or one.worst_r is None else f"{one.best_r:+.2f} / {one.worst_r:+.2f}"
    return (
        name, count(one.trades), win_rate_text(one), profit_factor_text(one), signed(one.net_r), signed(one.net_pnl, "+,.2f"),
        number(one.fees), number(one.funding), extremes, number(one.max_drawdown_r), number(one.max_drawdown_pnl),
        duration(one.mean_hold_ms), exits,
    )  # fmt: skip


def _signals(facts: DemoFacts, signals: Sequence[Row]) -> str:
    counts = table(
        ["instrument", "strategy", "side", "tier", "entry", "flip", ">signals"],
        [
            (one.instrument, one.strategy_id, one.direction, one.tier, yes(one.entry), yes(one.flip), f"{one.count:,}")
            for one in facts.signals
        ],
        "none: no signal",
    )
    entries = [row for row in signals if row["entry"]]
    explained = note("A signal during the cooldown has no entry: it only closes an opposite position.")
    return section("signals", "Signals", explained, counts, block("Entry signals", signals_table(entries), cut_note(len(entries))))


def _evaluations(facts: DemoFacts) -> str:
    overview = table(
        ["instrument", "strategy", ">evaluations", ">not warm", ">blocked by a gate", ">passed", ">below entry", ">in cooldown", ">signalled", ">best score"],
        [
            (
                one.instrument, one.strategy_id, f"{one.evaluations:,}", f"{one.not_warm:,}", f"{one.blocked:,}", f"{one.passed:,}",
                f"{one.below_entry:,}", f"{one.cooling:,}", f"{one.signalled:,}", number(one.best_score, ".1f"),
            )
            for one in facts.evaluations
        ],
        "none: no evaluation",
    )  # fmt: skip
    parts: list[str] = [
        note(
            "Not warm: the history was too short for an evaluation. Recordings are short: warm-up of the trade quantiles set to 0 ms."
            " A blocked evaluation counts under the first gate that blocked it."
        ),
        overview,
    ]
    for one in facts.evaluations:
        parts.append(f"<h3>{text(one.strategy_id)} on {text(one.instrument)}</h3>")
        parts.append(columns(*_histograms(one), least=250))
    return section("evaluations", "Evaluations", *parts)


def _histograms(one: EvaluationFacts) -> Iterator[str]:
    for title, counts, empty in (
        ("Gate blocks", one.blocks, "none: no gate blocked an evaluation"),
        ("Missing inputs", one.missing_inputs, "none: every input had a value"),
        ("Of these stale", one.stale_inputs, "none: no input was stale"),
        ("Regime", one.regimes, "none"),
    ):
        yield block(title, table(["", ">count", ">share"], _histogram(counts, one.evaluations), empty))


def _histogram(counts: Mapping[str, int], total: int) -> list[Sequence[Any]]:
    return [(name, f"{count:,}", f"{count / total:.1%}") for name, count in counts.items()]


def _quality(facts: DemoFacts, gaps: Sequence[Row]) -> str:
    overview = table(
        ["instrument", ">late trades", ">gap rows", ">not repaired", ">missing ids", ">repeated rows", ">back-filled",
         "last book = last quote", "last book", ">epoch"],
        [
            (
                one.instrument, count(one.late_trades), f"{one.gap_rows:,}", f"{one.gap_rows_open:,}", f"{one.missing_agg_ids:,}",
                f"{one.repeated_trades:,}", f"{one.backfilled:,}",
                None if one.book_equals_quote is None else marked(yes(one.book_equals_quote), one.book_equals_quote),
                one.book_state, count(one.book_epoch),
            )
            for one in facts.instruments
        ],
    )  # fmt: skip
    silences = table(
        ["instrument", "from (UTC)", "to (UTC)", ">length"],
        [
            (one.instrument, utc(silence.since), utc(silence.until), duration(silence.until - silence.since))
            for one in facts.instruments
            for silence in one.silences
        ],
        f"none of {SILENCE_MS // 60_000} minutes or more",
    )
    inputs = [
        (one.instrument, name, f"{count:,}", f"{one.stale_inputs.get(name, 0):,}", f"{count / one.features:.1%}")
        for one in facts.instruments
        for name, count in one.missing_inputs.items()
    ]
    missing = table(
        ["instrument", "input", ">instants without it", ">of these stale", ">share"],
        inputs,
        "none: every input had a value at every instant",
    )
    gap_table = table(
        ["at (UTC)", "instrument", "stream", "kind", "certain", "repaired", "~detail"],
        [
            (
                utc(row["event_time"]),
                row["instrument"],
                row["stream"],
                row["kind"],
                yes(row["certain"]),
                yes(row["repaired"]),
                row["detail"],
            )
            for row in gaps[:MOST_ROWS]
        ],
        "none: no gaps",
    )
    letters = table(
        ["service", "source", "instrument", "field", "~reason", ">records"],
        [
            (one.service, one.source, one.instrument, one.field, one.reason[:300], f"{one.count:,}")
            for one in facts.dead_letters[:MOST_ROWS]
        ],
        "none: no rejected records",
    )
    return section(
        "quality",
        "Data quality",
        overview,
        block("Gaps", gap_table, cut_note(len(gaps))),
        block("Rejected records (dead_letters)", letters, cut_note(len(facts.dead_letters))),
        columns(block("Longest periods without a trade", silences), block("Missing and stale inputs by evaluated instant", missing)),
    )


def _checks(checks: Sequence[Check]) -> str:
    listed = table(
        ["", "instrument", "check", ">expected", ">found", "~source of the expected value"],
        [
            (marked("ok" if one.ok else "DIFFERS", one.ok), one.instrument, one.name, one.expected, one.found, one.source)
            for one in sorted(checks, key=lambda check: check.ok)
        ],
        "none: no recording to compare with",
    )
    return section(
        "checks",
        "Checks against the recordings",
        note(
            "Separate code computes the expected figures from the recorded files in exact decimals. Found figures come from the database."
        ),
        listed,
    )


def _records(facts: DemoFacts, rates: Rates | None, hashes: Mapping[str, str] | None) -> str:
    stored = table(["topic", ">rows stored", "~meaning"], [(name, f"{facts.rows.get(name, 0):,}", _meaning(name)) for name in TOPICS])
    measured = table(["", ">rate"], [(name, rate_text(value)) for name, value in (rates or {}).items()], "none: not measured")
    digests = table(
        ["topic", "~sha256 over the sorted records"],
        [(topic, Html(f"<code>{text(digest)}</code>")) for topic, digest in (hashes or {}).items()],
        "none: no hashes",
    )
    return section(
        "records",
        "Records, rates, hashes",
        columns(block("Rates (records per second for topics)", measured), block("Hashes of the results", digests)),
        block("Records by topic", stored),
    )


def _dashboards(pages: Mapping[str, Path], report: Path) -> str:
    """Return links to the dashboards' pages, or nothing if there are none."""
    if not pages:
        return ""
    links = [Html(f'<a href="{text(os.path.relpath(page, report.absolute().parent))}">{text(name)}</a>') for name, page in pages.items()]
    told = note("The operator's dashboards for this run, drawn without Grafana.")
    return section("dashboards", "Dashboards", told, Html(f"<p>{'<br>'.join(links)}</p>"))


def _meaning(topic: str) -> str:
    return str(schema(topic).get("doc", ""))


def _sources(facts: DemoFacts, goldens: Sequence[Golden]) -> str:
    files = table(
        ["instrument", "file", ">bytes", "~sha256", "~content of the recording"],
        [
            (golden.instrument, file.name, f"{file.size:,}", Html(f"<code>{text(file.sha256)}</code>"), _holds(golden) if not place else "")
            for golden in goldens
            for place, file in enumerate(golden.files)
        ],
        "none: no recording",
    )
    labels = table(
        ["instrument", "label of the producer"],
        [(one.instrument, {True: "recorded", False: "live", None: None}[one.recorded]) for one in facts.instruments],
    )
    return section("sources", "Sources", block("Files played back", files), block("Instruments", labels))


def _holds(golden: Golden) -> str:
    said = [f"{golden.trades:,} trades"]
    if golden.other_trades:
        said.append(f"{golden.other_trades:,} insurance-fund or ADL trades, which are in no aggregate trade")
    if golden.refused:
        said.append(f"{golden.refused:,} rows with an invalid price or quantity")
    if golden.gaps:
        said.append(f"{golden.gaps:,} gaps in its ids")
    if golden.published is not None:
        said.append(f"known as {golden.published.name}")
    return ", ".join(said)
