"""Split an entry into slices by its notional, and schedule them (platform-services 12). Deterministic: the jitter is a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the routing table.

    Attributes:
        from_notional: Quote units; the row applies from here (inclusive) to the next row (exclusive).
        maker_wait_ms: How long a maker order rests before it is replaced by a taker order.
        slices: Number of equal parts.
        spacing_ms: Time between two parts.
    """

    from_notional: Decimal
    maker_wait_ms: int
    slices: int
    spacing_ms: int


# R002-104..107. The specification does not say which row owns a boundary. It is the upper one, so a larger order is never executed less carefully.
DEFAULT_ROUTES = (
    Route(ZERO, 1500, 1, 0),
    Route(Decimal(200), 2000, 2, 600),
    Route(Decimal(500), 2500, 3, 800),
    Route(Decimal(1000), 3000, 4, 1000),
)


def route_for(notional: Decimal, routes: Sequence[Route] = DEFAULT_ROUTES) -> Route:
    """Return the row of a notional: the last whose ``from_notional`` is not above it. Raises ValueError if the table has none."""
    found = [row for row in routes if row.from_notional <= notional]
    if not found:
        raise ValueError(f"routing table: no row for a notional of {notional}")
    return max(found, key=lambda row: row.from_notional)


def slices_of(quantity: Decimal, slices: int, lot: Decimal, minimum: Decimal) -> tuple[Decimal, ...]:
    """Return ``quantity`` in up to ``slices`` parts, multiples of ``lot`` and none below ``minimum``. The last one has the remainder."""
    for count in range(slices, 1, -1):
        part = (quantity / count / lot).to_integral_value(ROUND_DOWN) * lot
        if part >= minimum and part > 0:
            return (*([part] * (count - 1)), quantity - part * (count - 1))
    return (quantity,)


def jitter_ms(name: str, index: int, spacing_ms: int, jitter: Decimal) -> int:
    """Return the shift of slice ``index`` in ms: U(-jitter, +jitter) x spacing, from SHA-256 of name and index."""
    draw = int.from_bytes(hashlib.sha256(f"{name}|{index}".encode()).digest()[:8], "big")
    uniform = Decimal(draw) / Decimal(2**63) - 1
    return int(uniform * jitter * spacing_ms)


def slice_times(name: str, start: int, count: int, spacing_ms: int, jitter: Decimal) -> tuple[int, ...]:
    """Return when each slice is due, wall ms: the first at once, the others at start + i x spacing + jitter. The order never changes (jitter < 1/2)."""
    return (start, *(start + i * spacing_ms + jitter_ms(name, i, spacing_ms, jitter) for i in range(1, count)))
