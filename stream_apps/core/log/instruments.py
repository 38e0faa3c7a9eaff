"""What the topic ``instruments`` says of a partition's instruments, as far as every engine needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class InstrumentFacts:
    """Facts of an instrument.

    Attributes:
        author: Author of the marks at which the instrument fires.
        price_decimals, quantity_decimals: Decimals of the venue's prices and base quantities, 0 to 12.
    """

    author: str
    price_decimals: int
    quantity_decimals: int


class InstrumentTable(Protocol):
    """Instruments by row: ``names[row]``, ``index[name]``, ``facts[name]``."""

    names: list[str]
    index: dict[str, int]
    facts: dict[str, InstrumentFacts]

    def set_facts(self, name: str, author: str, price_decimals: int, quantity_decimals: int) -> int:
        """Take an instrument's facts, making a row for a new one; return its row."""


class Instruments:
    """The plain table of instruments, for engines that keep nothing else by instrument row."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self.facts: dict[str, InstrumentFacts] = {}

    def set_facts(self, name: str, author: str, price_decimals: int, quantity_decimals: int) -> int:
        """Take an instrument's facts, making a row for a new one; return its row."""
        row = self.index.setdefault(name, len(self.names))
        if row == len(self.names):
            self.names.append(name)
        self.facts[name] = InstrumentFacts(author, price_decimals, quantity_decimals)
        return row
