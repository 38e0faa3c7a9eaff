"""A checked request, and an endpoint. No sockets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from producers.simulated.exchange.core.account import Account
from producers.simulated.exchange.session.keys import ApiKey
from producers.simulated.exchange.session.trading_session import Desk
from producers.simulated.wire.protocol import Query


@dataclass
class Call:
    """A request with a valid key and signature.

    Attributes:
        now: The exchange's time, ms. key: None for public endpoints.
    """

    desk: Desk
    query: Query
    now: int
    key: ApiKey | None = None

    @property
    def account(self) -> Account:
        """Account of the key."""
        if self.key is None:
            raise AssertionError("a public endpoint has no account")
        return self.desk.exchange.accounts[self.key.account]

    def has(self, name: str) -> bool:
        """Return whether a parameter was sent and is not empty."""
        return name in self.query and self.query.text(name, " ").strip() != ""


class Action(NamedTuple):
    """An endpoint: ``name`` is how faults call it; ``access`` NONE, KEY or SIGNED; ``order``: counts as an order."""

    name: str
    method: str
    path: str
    weight: int
    access: str
    answer: Callable[[Any], Any]
    order: bool = False
