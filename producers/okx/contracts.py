"""Converts contracts to base quantities, exactly (pure).

OKX counts swaps in contracts; one is ``ctVal`` (times ``ctMult``) units of the base asset. Quantities become the double of the exact decimal
product: a float product of 0.07 and 0.1 is not the double of 0.007.
"""

from __future__ import annotations

from decimal import Context, Decimal
from functools import lru_cache
from math import inf

from producers.venue.adapter.base import Level, MappingError
from producers.venue.adapter.json_values import get, levels, number

# Enough digits for the product of any two numbers of a venue.
_EXACT = Context(prec=400)


class Contract:
    """The size of one contract.

    Args:
        units: Base units of one contract, > 0.
    """

    __slots__ = ("_suffix", "units")

    def __init__(self, units: Decimal) -> None:
        self.units = units
        _, digits, exponent = units.normalize().as_tuple()
        # Nearly all sizes are powers of ten. Then "12.3" contracts of 0.01 are float("12.3e-2"), which is as exact and faster.
        self._suffix = f"e{exponent}" if digits == (1,) else None

    def base(self, text: str) -> float:
        """Return a number of contracts, given as checked decimal text, as base quantity."""
        if self._suffix is not None:
            try:
                return float(text + self._suffix)
            except ValueError:
                pass  # it has its own exponent
        return float(_EXACT.multiply(_EXACT.create_decimal(text), self.units))

    def quantity(self, data: object, field: str, record: str, *, zero: bool = False) -> float:
        """Return a field that counts contracts as base quantity; > 0, or >= 0 with ``zero``. Raises MappingError."""
        text = get(data, field, record)
        count = number(text, field, record)
        if count < 0.0 or (count == 0.0 and not zero):
            raise MappingError(record, field, f"expected a number {'>=' if zero else '>'} 0, got {text!r}")
        base = self.base(text)
        if not base < inf or (base == 0.0 and count > 0.0):
            raise MappingError(record, field, f"{text!r} contracts are not a usable quantity")
        return base

    def levels(self, data: object, field: str, record: str) -> list[Level]:
        """Return price levels with base quantities. Raises MappingError."""
        found = levels(data, field, record)
        if self._suffix == "e0":
            return found
        base = self.base
        sizes = [base(row[1]) for row in get(data, field, record)]
        if not all([size < inf for size in sizes]):
            raise MappingError(record, field, "a quantity is too large")
        return [(price, size) for (price, _), size in zip(found, sizes, strict=True)]


@lru_cache(maxsize=4096)
def contract(units: str) -> Contract:
    """Return the contract of a size given as decimal text (``Market.extra["units"]``)."""
    return Contract(Decimal(units))
