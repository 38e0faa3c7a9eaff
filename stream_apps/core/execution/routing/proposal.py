"""Propose changes of the routing table from measured costs (R002-66, R002-130): for each row at most one step, with its reason.

For each row (``settings.routes.Route``) the entries of its notional count, from ``execution_cost_events``. Two values change:

**Wait.** A maker order saves fees, but entries that time out are taken at a worse price. If more than ``timeouts_ok`` of a row's entries time out (KPI of
signal-engine-product 10.3), their mean slippage is compared with the saving. If it is higher, waiting costs more than it saves, and the wait is shortened
by ``step``. If it is lower and less than ``maker_ok`` of the row filled as maker, the wait is lengthened.

**Slices.** A larger order walks further through the book. One slice is added if a row's slippage exceeds that of the row below by more than ``slice_bps``,
with a probability of about 97.5 % (Welch's standard error). If a row with several slices is not above it with the same certainty, one slice is removed.
The first row has no row below and keeps its slices.

A row with fewer than ``least`` entries is not changed. A proposal is not based on settings that were never tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from statistics import fmean, variance
from typing import Any

from stream_apps.core.execution.settings.routes import Route, route_for

Z = 1.96


@dataclass(frozen=True, slots=True)
class ProposalRules:
    """Settings of a proposal.

    Attributes:
        least: Fewest entries of a row for a change.
        timeouts_ok, maker_ok: KPIs: highest share of time-outs, lowest share of the quantity filled as maker.
        fee_saving_bps: Taker fee minus maker fee, 1/10,000.
        step: Relative change of the wait. shortest_ms, longest_ms: its bounds.
        slice_bps: Slippage difference that justifies a slice. most_slices: bound; a new slice of a row without spacing gets ``spacing_ms``.
    """

    least: int = 30
    timeouts_ok: float = 0.30
    maker_ok: float = 0.50
    fee_saving_bps: float = 3.0
    step: Decimal = Decimal("0.25")
    shortest_ms: int = 500
    longest_ms: int = 10_000
    slice_bps: float = 1.0
    most_slices: int = 8
    spacing_ms: int = 600


@dataclass(frozen=True, slots=True)
class RouteCosts:
    """Measured cost of a row's entries. Means over entries; None without entries.

    Attributes:
        timeouts: Share of time-outs. maker: share of the quantity filled as maker, weighted by notional.
        slippage_bps: Slippage of all entries, positive is a cost; ``error_bps``: its standard error. late_bps: slippage after a time-out.
    """

    entries: int
    timeouts: float | None
    maker: float | None
    slippage_bps: float | None
    error_bps: float | None
    late_bps: float | None


@dataclass(frozen=True, slots=True)
class RowProposal:
    """A row, its measured cost, the proposed row, and the reasons."""

    now: Route
    measured: RouteCosts
    proposed: Route
    why: tuple[str, ...]


def propose(entries: Iterable[Mapping[str, Any]], routes: Sequence[Route], rules: ProposalRules | None = None) -> list[RowProposal]:
    """Return a proposal for every row, smallest notional first.

    Args:
        entries: ``execution_cost_events`` rows: ``notional`` (quote units), ``maker_ratio_entry``, ``slippage_bps_entry``, ``entry_timeout``. Rows without
            slippage (no fill) do not count.
        routes: The active table.
        rules: Settings.

    Raises:
        ValueError: the table has no row for a notional.
    """
    rules = rules or ProposalRules()
    rows = sorted(routes, key=lambda one: one.from_notional)
    taken: dict[Decimal, list[Mapping[str, Any]]] = {row.from_notional: [] for row in rows}
    for entry in entries:
        if entry["slippage_bps_entry"] is not None:
            taken[route_for(Decimal(repr(float(entry["notional"]))), rows).from_notional].append(entry)
    found: list[RowProposal] = []
    for row in rows:
        below = found[-1].measured if found else None
        measured = measure(taken[row.from_notional])
        if measured.entries < rules.least:
            found.append(RowProposal(row, measured, row, (f"not judged: fewer than {rules.least} entries",)))
            continue
        wait, why_wait = _wait(row, measured, rules)
        slices, why_slices = _slices(row, measured, below, rules)
        spacing = rules.spacing_ms if slices > 1 and row.spacing_ms == 0 else row.spacing_ms
        proposed = replace(row, maker_wait_ms=wait, slices=slices, spacing_ms=spacing)
        found.append(RowProposal(row, measured, proposed, tuple(one for one in (why_wait, why_slices) if one) or ("as it should be",)))
    return found


def measure(entries: Sequence[Mapping[str, Any]]) -> RouteCosts:
    """Return the measured cost of entries. Their order does not matter."""
    if not entries:
        return RouteCosts(0, None, None, None, None, None)
    slips = sorted(float(one["slippage_bps_entry"]) for one in entries)
    late = sorted(float(one["slippage_bps_entry"]) for one in entries if one["entry_timeout"])
    known = [(float(one["notional"]), float(one["maker_ratio_entry"])) for one in entries if one["maker_ratio_entry"] is not None]
    weight = math.fsum(notional for notional, _ in known)
    return RouteCosts(
        len(entries),
        len(late) / len(entries),
        math.fsum(notional * ratio for notional, ratio in known) / weight if weight else None,
        fmean(slips),
        math.sqrt(variance(slips) / len(slips)) if len(slips) > 1 else None,
        fmean(late) if late else None,
    )


def _wait(row: Route, measured: RouteCosts, rules: ProposalRules) -> tuple[int, str]:
    if measured.timeouts is None or measured.timeouts <= rules.timeouts_ok or measured.late_bps is None:
        return row.maker_wait_ms, ""
    told = f"{measured.timeouts:.0%} time out, at {measured.late_bps:+.1f} bps against {rules.fee_saving_bps:.1f} bps of fees saved"
    if measured.late_bps > rules.fee_saving_bps:
        wait = max(rules.shortest_ms, int(row.maker_wait_ms * (1 - rules.step)))
        return min(wait, row.maker_wait_ms), f"{told}: wait less"
    if measured.maker is not None and measured.maker < rules.maker_ok:
        wait = min(rules.longest_ms, int(row.maker_wait_ms * (1 + rules.step)))
        return max(wait, row.maker_wait_ms), f"{told}: wait longer"
    return row.maker_wait_ms, ""


def _slices(row: Route, measured: RouteCosts, below: RouteCosts | None, rules: ProposalRules) -> tuple[int, str]:
    if below is None or below.entries < rules.least:
        return row.slices, ""
    assert measured.slippage_bps is not None and below.slippage_bps is not None
    more = measured.slippage_bps - below.slippage_bps
    error = Z * math.hypot(measured.error_bps or 0.0, below.error_bps or 0.0)
    told = f"slippage {more:+.1f} bps (+/- {error:.1f}) over the row below"
    if more - error > rules.slice_bps and row.slices < rules.most_slices:
        return row.slices + 1, f"{told}: a slice more"
    if more + error < 0 and row.slices > 1:
        return row.slices - 1, f"{told}: a slice less"
    return row.slices, ""
