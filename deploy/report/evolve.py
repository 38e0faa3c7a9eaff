"""The daily report of auto-evolve as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deploy.report.formatting import bounded, utc
from deploy.report.research import mean_text
from stream_apps.core.performance.intervals import wilson

Json = Mapping[str, Any]


def markdown(report: Json) -> str:
    """Return the report as Markdown: strategies, regimes, tested mutations, verdicts, changes."""
    limits, changes = report["limits"], report["changes"]
    written = report["mode"] == "apply"
    lines = [
        f"# Auto-evolve, {utc(report['generated_at'])} UTC", "",
        f"Mode: **{report['mode']}**; paper strategies only. Look-back period {utc(report['period']['begin'])} to {utc(report['period']['end'])}, test period "
        f"from {utc(report['test']['begin'])}. Candidates are replayed from {', '.join(report['source'])}. Results are after fees, slippage and funding. "
        f"{len(report['running_strategies'])} strategies run.", "",
        "## Markets, last 24 h", "",
        *_table(("instrument", "regime", "evaluations", "share by regime", "signals"), [
            (one["instrument"], one["regime"], f"{one['evaluations']:,}",
             ", ".join(f"{name} {count / one['evaluations']:.0%}" for name, count in one["regimes"].items()), f"{one['signals']:,}")
            for one in report["symbols"]]),
        "## Strategies by fitness", "", "Fitness counts the stored paper trades that closed in the look-back.", "",
        *_table(("strategy", "instrument", "fitness", "net R", "closed", "won", "signals 24 h", "average score",
                 "evolved"), [
            (one["strategy_id"], one["instrument"], f"{one['fitness']['value']:.4f}", f"{one['fitness']['net_r']:+.2f}", one["fitness"]["closed"],
_won(one["fitness"]), f"{one['entry_signals_24h']:,} of {one['ticks_24h']:,}",
             "-" if one["avg_signal_score_24h"] is None else f"{one['avg_signal_score_24h']:.1f}", "yes" if one["evolved"] else "no")
            for one in report["running_strategies"]]),
        f"Top 3: {', '.join(report['top3']) or 'none'}. Bottom 3: {', '.join(report['bottom3']) or 'none'}.", "",
        *(f"- not changed: {one['strategy_id']}: {one['reason']}" for one in report["left_alone"]), *([""] if report["left_alone"] else []),
        "## Tried", "", *(f"- {line}" for line in report["plan"]), "",
        "## Out-of-sample tests", "",
        *_table(("candidate", "name", "parent", "training mean R", "test trades", "test mean R (95 %)", "test net R", "parent net R", "verdict"), [
            (one["strategy_id"], one["display_name"], one["parent"], mean_text(one["train"]), 0 if one["test"] is None else one["test"]["count"],
             mean_text(one["test"]),
             f"{one['test_net_r']:+.2f}", f"{one['parent_net_r']:+.2f}", ("accepted: " if one["accepted"] else "not accepted: ") + one["reason"])
            for one in report["candidates"]]),
        "## Changes" if written else "## Proposed changes (use --apply)", "",
        *_table(("what", "strategy", "instrument", "revision", "why"), [
            (one["kind"], one["strategy_id"], one["instrument"], one["written_revision"] or ("DRY RUN" if not written else "already applied"), one["reason"])
            for one in changes]),
        *(f"- {note}" for note in report["notes"]), *([""] if report["notes"] else []),
        f"Limits: {limits['max_new_per_symbol']} new per instrument and run, {limits['max_running_per_symbol']} evolved strategies per instrument, "
        f"{limits['max_changes_per_day']} changes per day, minimum age {limits['min_age_ms'] / 3_600_000:g} h before deprecation, "
        f"at least {limits['min_closed_trades']} closed trades for a verdict, false discovery rate {limits['rate']:.0%}, seed {limits['seed']}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _won(fitness: Mapping[str, Any]) -> str:
    closed = fitness["closed"]
    return bounded(fitness["win_rate"] if closed else None, *wilson(round(fitness["win_rate"] * closed), closed), closed, ".0%")


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    if not rows:
        return ["none", ""]
    return [
        f"| {' | '.join(heads)} |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows),
        "",
    ]
