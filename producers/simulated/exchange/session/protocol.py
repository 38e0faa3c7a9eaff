"""The interface of a venue's protocol for the simulated exchange; see ``binance`` and ``bybit``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from aiohttp import web

from producers.simulated.exchange.core.engine import Exchange
from producers.simulated.exchange.core.orders import Event
from producers.simulated.exchange.session.call import Action, Call
from producers.simulated.exchange.session.faults import ExchangeFault
from producers.simulated.exchange.session.keys import ApiKey
from producers.simulated.exchange.session.trading_session import Desk
from producers.simulated.exchange.session.users import UserStreams
from producers.simulated.wire.protocol import VenueError


class Protocol(ABC):
    """A venue's REST interface and user stream.

    Attributes:
        trading: Its endpoints. market: Those that a market-data simulator serves itself. roots: First parts of its paths. exchange: Its
        core.
    """

    trading: ClassVar[tuple[Action, ...]]
    market: ClassVar[tuple[Action, ...]]
    roots: ClassVar[tuple[str, ...]]
    key_header: ClassVar[str]
    exchange: ClassVar[type[Exchange]] = Exchange

    @abstractmethod
    def checked(self, desk: Desk, action: Action, request: web.Request, query: bytes, body: bytes) -> ApiKey | None:
        """Return the key of a request with valid signature and time; None for a public one. Raises VenueError."""

    @abstractmethod
    def values(self, query: bytes, body: bytes) -> Mapping[str, Any]:
        """Return the parameters of a request. Raises VenueError, UnicodeDecodeError."""

    @abstractmethod
    def answer(self, action: Action, call: Call) -> Any:
        """Execute a request and return the response. Raises VenueError."""

    @abstractmethod
    def refused(self, error: VenueError, now: int) -> tuple[int, Any]:
        """Return HTTP status and body of an error."""

    @abstractmethod
    def fault(self, fault: ExchangeFault) -> VenueError:
        """Return the error of a fault."""

    @abstractmethod
    def too_many(self, status: int, retry_after: int) -> VenueError:
        """Return the error for too many requests (HTTP 429, 418)."""

    @abstractmethod
    def too_many_orders(self, limit: str) -> VenueError:
        """Return the error for too many orders."""

    @abstractmethod
    def unknown(self, method: str, path: str) -> VenueError:
        """Return the error for an unknown path."""

    @abstractmethod
    def malformed(self, name: str) -> VenueError:
        """Return the error for an unreadable parameter."""

    @abstractmethod
    def illegal(self) -> VenueError:
        """Return the error for bytes that are not text."""

    @abstractmethod
    def messages(self, exchange: Exchange, event: Event, now: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the user stream's messages for an event (kind and message), in the venue's order."""

    @abstractmethod
    def streams(self, desk: Desk) -> UserStreams:
        """Return its user streams."""
