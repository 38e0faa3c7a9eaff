"""Money of the paper model: exact decimals made from wire doubles.

Every operand of a money sum is a number in a record: a double whose shortest text is its value. Sums and products of those texts are exact
in decimal. So anyone can recompute a trade from its fills to the last digit, in any order. Other numbers (a price with slippage, a quantity
from a division) are first rounded to digits that a double carries exactly.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

# Wide enough that no product of three wire numbers and no sum of thousands of them is rounded.
MONEY_CONTEXT = Context(prec=80, rounding=ROUND_HALF_EVEN)
# A double preserves every decimal of up to 15 significant digits.
_WIRE = Context(prec=15, rounding=ROUND_HALF_EVEN)
# One digit less, so that half of it is a wire number too. The two halves of a position then add up to it exactly.
_HALVABLE = Context(prec=14, rounding=ROUND_HALF_EVEN)

ZERO = Decimal(0)


def exact(value: float) -> Decimal:
    """Return the decimal that a double stands for: its shortest round-trip text."""
    return Decimal(repr(float(value)))


def wire_price(value: Decimal) -> Decimal:
    """Return ``value`` rounded to the 15 significant digits that a double preserves."""
    return _WIRE.plus(value)


def halvable_quantity(value: Decimal) -> Decimal:
    """Return ``value`` rounded to 14 significant digits, so that a double preserves it and its half."""
    return _HALVABLE.plus(value)
