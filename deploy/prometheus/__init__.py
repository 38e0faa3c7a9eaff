"""Service level objectives (platform-services.md section 13) as Prometheus rules: ``python -m deploy.prometheus`` writes ``slo.yml``.

Every objective has one number, the error ratio, recorded over seven windows. An alert compares two windows with a multiple of the allowed
error ratio: the long window shows that it matters, the short one that it continues (Google, The Site Reliability Workbook, chapter 5,
"Multiwindow, Multi-Burn-Rate Alerts", table 5-8, for a budget of 30 days). A test compares the committed file with this code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).parent / "slo.yml"
RULES = (Path(__file__).parent / "alerts.yml", PATH)
# Apparent lag of a healthy worker between two instants of the evaluation grid (PERPFLOW_GRID_MS), seconds.
GRID_S = 15
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
# Multiple of the allowed error ratio, long window, short window, severity, meaning.
BURNS = (
    (14.4, "1h", "5m", "critical", "a fiftieth of the month's budget is gone in an hour"),
    (6.0, "6h", "30m", "critical", "a twentieth of the month's budget is gone in six hours"),
    (3.0, "1d", "2h", "warning", "a tenth of the month's budget is gone in a day"),
    (1.0, "3d", "6h", "warning", "the month's budget will not last the month"),
)


@dataclass(frozen=True)
class Objective:
    """One objective.

    Attributes:
        name: Label ``slo``.
        allowed: Allowed error ratio.
        meaning: The objective in words.
        helpers: Rules recorded first: (record, expression).
        errors: Window -> expression of the error ratio.
    """

    name: str
    allowed: float
    meaning: str
    errors: Callable[[str], str]
    helpers: tuple[tuple[str, str], ...] = ()


def _slower(metric: str, limit: str, by: str = "") -> Callable[[str], str]:
    """Return the expression for the share of a histogram's observations above a bucket's limit."""
    grouped = f"sum by ({by})" if by else "sum"
    return lambda window: f'1 - {grouped} (rate({metric}_bucket{{le="{limit}"}}[{window}])) / {grouped} (rate({metric}_count[{window}]))'


# Liquidation streams stay in state syncing until the first liquidation.
_LISTENS = 'channel!~"forceOrder|allLiquidation|liquidation-orders", state="syncing"'
OBJECTIVES = (
    Objective(
        "websocket",
        0.005,
        "99.5 % of the subscribed streams are live (R002-118)",
        lambda window: f"avg_over_time(perpflow:streams_down:ratio[{window}])",
        (
            (
                "perpflow:streams_down:ratio",
                f'(sum by (venue) (perpflow_streams{{state=~"connecting|stale|invalid"}}) + sum by (venue) (perpflow_streams{{{_LISTENS}}}))'
                ' / (sum by (venue) (perpflow_streams{state!="closed"}) > 0)',
            ),
        ),
    ),
    Objective(
        "lag",
        0.01,
        "in 99 % of the time the newest evaluated instant is at most a grid step and 2 s behind the producers' marks (R002-117)",
        lambda window: f"avg_over_time(perpflow:worker_lagging:bool[{window}])",
        (
            # Each age uses the time of its own scrape, because scrapes are not simultaneous. The most advanced partition counts: partitions without
            # trades get marks on the evaluation grid only, and a stuck partition has its own alert.
            (
                "perpflow:worker_lag:seconds",
                "min(timestamp(perpflow_worker_event_time_seconds) - perpflow_worker_event_time_seconds)"
                " - min(timestamp(perpflow_mark_time_seconds) - perpflow_mark_time_seconds)",
            ),
            ("perpflow:worker_lagging:bool", f"perpflow:worker_lag:seconds > bool {GRID_S + 2}"),
        ),
    ),
    Objective(
        "route",
        0.05,
        "95 % of the frames are acknowledged by Kafka within 500 ms (the way in of R002-116)",
        _slower("perpflow_ack_latency_seconds", "0.5", "venue"),
    ),
    Objective(
        "evaluation",
        0.01,
        "99 % of the worker's rounds take at most 500 ms",
        _slower("perpflow_evaluation_seconds", "0.5"),
    ),
    Objective(
        "write",
        0.01,
        "99 % of the sink's transactions take at most a second (R002-112)",
        _slower("perpflow_copy_seconds", "1.0"),
    ),
)


def _rule(record: str, expression: str, slo: str | None = None) -> list[str]:
    lines = [f"      - record: {record}", f"        expr: {expression}"]
    return [*lines, f"        labels: {{ slo: {slo} }}"] if slo else lines


def text() -> str:
    """Return the rules as YAML."""
    lines = ["# Made by `python -m deploy.prometheus`; edit deploy/prometheus/__init__.py.", "groups:"]
    for one in OBJECTIVES:
        lines += [f"  # {one.meaning}", f"  - name: slo-{one.name}", "    rules:"]
        for record, expression in one.helpers:
            lines += _rule(record, expression)
        lines += _rule("perpflow:slo_allowed:ratio", f"vector({one.allowed:g})", one.name)
        for window in WINDOWS:
            lines += _rule(f"perpflow:slo_errors:ratio_rate{window}", one.errors(window), one.name)
    lines += ["  - name: slo-burn", "    rules:"]
    for multiple, long, short, severity, meaning in BURNS:
        both = " and ".join(
            f"perpflow:slo_errors:ratio_rate{window} > on (slo) group_left () ({multiple:g} * perpflow:slo_allowed:ratio)"
            for window in (long, short)
        )
        lines += [
            f"      - alert: ObjectiveBurns{long}",
            f"        expr: {both}",
            f"        labels: {{ severity: {severity} }}",
            "        annotations:",
            '          summary: "Objective {{ $labels.slo }} {{ $labels.venue }}: {{ $value | humanizePercentage }} failed'
            f' in {long}; {meaning}."',
            '          action: "Look at dashboard Pipeline health. slo.yml defines each objective."',
        ]
    lines += [
        "      - alert: ObjectiveMissed",  # R002-119
        "        expr: perpflow:slo_errors:ratio_rate5m > on (slo) group_left () perpflow:slo_allowed:ratio",
        "        for: 10m",
        "        labels: { severity: warning }",
        "        annotations:",
        '          summary: "Objective {{ $labels.slo }} {{ $labels.venue }} was missed in three windows of five minutes in a row:'
        ' {{ $value | humanizePercentage }} failed."',
        '          action: "Look at dashboard Pipeline health. slo.yml defines each objective."',
    ]
    return "\n".join(lines) + "\n"


def write(path: Path = PATH) -> Path:
    """Write the file."""
    path.write_text(text(), encoding="utf-8")
    return path
