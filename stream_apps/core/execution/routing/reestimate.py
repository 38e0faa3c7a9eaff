"""The daily re-estimation of the routing table (R002-66, R002-130): the entries that count, and the resulting table.

Every row moves by at most one step at a time, within the bounds of ``RoutingPolicy``. Only entries after their row's last change count. Earlier ones used
other waits and slices; they would move the row again every day for a problem that the first change may have fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from stream_apps.core.execution.routing.execution_cost import cost_record
from stream_apps.core.execution.routing.proposal import ProposalRules, RowProposal, propose
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.settings.routes import Route, route_for
from stream_apps.core.execution.state.trade import Trade
from stream_apps.core.paper.position import CLOSED

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class ActiveRoute:
    """A row of the active table, and the time of its last change, wall ms (0: unchanged from the policy)."""

    route: Route
    since: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self.route), "from_notional": f"{self.route.from_notional:f}", "since": self.since}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ActiveRoute:
        """Return the row that ``to_json`` wrote."""
        route = Route(Decimal(values["from_notional"]), values["maker_wait_ms"], values["slices"], values["spacing_ms"])
        return cls(route, values["since"])


def rules_of(policy: LivePolicy) -> ProposalRules:
    """Return the proposal rules of a policy: its bounds, and the fee saving of a maker fill."""
    bounds = policy.routing
    return ProposalRules(
        least=bounds.least,
        fee_saving_bps=(policy.fees.taker - policy.fees.maker) * 10_000,
        shortest_ms=bounds.shortest_ms,
        longest_ms=bounds.longest_ms,
        most_slices=bounds.most_slices,
    )


def entry_of(trade: Trade, mode: str) -> dict[str, Any] | None:
    """Return the entry cost of a trade, with ``ended_at`` (wall ms); None if it is open or has no entry."""
    if trade.position.status != CLOSED or trade.over_at is None or not trade.fills:
        return None
    record = cost_record(trade, mode, trade.over_at, trade.position.entry_at)
    names = ("notional", "maker_ratio_entry", "slippage_bps_entry", "entry_timeout")
    return {**{name: record[name] for name in names}, "ended_at": trade.over_at}


def reestimate(entries: Iterable[Mapping[str, Any]], held: Sequence[ActiveRoute], policy: LivePolicy, now: int) -> list[RowProposal]:
    """Return a proposal for every active row, smallest notional first.

    Args:
        entries: Results of ``entry_of``.
        held: The active table.
        policy: Bounds.
        now: Wall ms.
    """
    oldest = now - policy.routing.days * DAY_MS
    routes = [one.route for one in held]
    since = {one.route.from_notional: max(one.since, oldest) for one in held}
    taken = [one for one in entries if one["ended_at"] >= since[route_for(Decimal(repr(float(one["notional"]))), routes).from_notional]]
    return propose(taken, routes, rules_of(policy))


def updated_routes(found: Sequence[RowProposal], held: Sequence[ActiveRoute], now: int) -> tuple[ActiveRoute, ...]:
    """Return the table after the proposals are applied."""
    since = {one.route.from_notional: one.since for one in held}
    return tuple(ActiveRoute(one.proposed, now if one.proposed != one.now else since[one.now.from_notional]) for one in found)
