"""Money of the paper model: exact decimals made from wire doubles.

Every operand of a money sum is a number that stands in a record: a double whose shortest text is its value. Sums and products of those
texts are exact in decimal, so anyone can recompute a trade from its fills to the last digit, in any order. What is not a wire number yet
(a price with slippage, a quantity from a division) is first rounded to digits that a double carries faithfully.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

# Wide enough that no product of three wire numbers and no sum of thousands of them is ever rounded.
MONEY_CONTEXT = Context(prec=80, rounding=ROUND_HALF_EVEN)
# A double returns every decimal of up to 15 significant digits unchanged.
_WIRE = Context(prec=15, rounding=ROUND_HALF_EVEN)
# One digit less, so that half of it is a wire number too: the two halves of a position add up to it exactly.
_HALVABLE = Context(prec=14, rounding=ROUND_HALF_EVEN)

ZERO = Decimal(0)


def exact(value: float) -> Decimal:
    """Return the decimal that a double stands for: its shortest round-trip text."""
    return Decimal(repr(float(value)))


def wire_price(value: Decimal) -> Decimal:
    """Return ``value`` rounded to the 15 significant digits that survive the trip through a double."""
    return _WIRE.plus(value)


def halvable_quantity(value: Decimal) -> Decimal:
    """Return ``value`` rounded to 14 significant digits, so that it and its half both survive the trip through a double."""
    return _HALVABLE.plus(value)
