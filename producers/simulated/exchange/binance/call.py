"""A request to the Binance endpoints for trading. No sockets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from producers.simulated.exchange.binance import errors
from producers.simulated.exchange.core.rules import Contract
from producers.simulated.exchange.session.call import Call
from producers.simulated.wire.protocol import VenueError

# The venue takes plain decimals of up to 20 characters.
NUMBER, MOST_DIGITS = re.compile(r"^-?[0-9]{1,20}(\.[0-9]{1,20})?$", re.ASCII), 20


@dataclass
class BinanceCall(Call):
    """A request with Binance's errors for its parameters."""

    def contract(self) -> Contract:
        """Return the instrument of ``symbol``. Raises VenueError, Refusal."""
        return self.desk.exchange.market(self.text("symbol")).contract

    def text(self, name: str) -> str:
        """Return a mandatory text. Raises VenueError."""
        if not self.has(name):
            raise errors.missing(name)
        return self.query.text(name)

    def choice(self, name: str, known: tuple[str, ...], default: str | None = None) -> str:
        """Return one of the allowed values. Raises VenueError."""
        if default is not None and not self.has(name):
            return default
        value = self.text(name).upper()
        if value not in known:
            codes = {
                "side": (-1117, "Invalid side."),
                "type": (-1116, "Invalid orderType."),
                "timeInForce": (-1115, "Invalid timeInForce."),
            }
            if name in codes:
                raise VenueError(400, *codes[name])
            raise errors.malformed(name)
        return value

    def number(self, name: str) -> Decimal | None:
        """Return a decimal, None if it was not sent. Raises VenueError."""
        if not self.has(name):
            return None
        text = self.query.text(name)
        if len(text) > MOST_DIGITS or not NUMBER.match(text):
            raise errors.malformed(name)
        return Decimal(text)

    def needed(self, name: str) -> Decimal:
        """Return a mandatory decimal. Raises VenueError."""
        found = self.number(name)
        if found is None:
            raise errors.missing(name)
        return found

    def flag(self, name: str) -> bool:
        """Return whether a parameter is true. Raises VenueError."""
        if not self.has(name):
            return False
        value = self.query.text(name).lower()
        if value not in ("true", "false"):
            raise errors.malformed(name)
        return value == "true"

    def symbol(self) -> str | None:
        """Return ``symbol`` if it was sent. Raises Refusal when it is not known."""
        return self.contract().symbol if self.has("symbol") else None
