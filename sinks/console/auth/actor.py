"""Who acts: a user of the console, somebody without login, or a person at the command line."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sinks.console.auth.roles import Role, at_least


@dataclass(frozen=True)
class Identity:
    """Who asks.

    Attributes:
        name: Name of the user; empty for a guest; ``anonymous`` when the console is open.
        role: What they may do.
        user_id: Row of ``console_users``; None without login.
        address: Where the request comes from.
        session: The session; None without login.
    """

    name: str
    role: Role
    user_id: int | None
    address: str
    session: UUID | None = None

    @property
    def logged_in(self) -> bool:
        """Return whether this is a user with a session."""
        return self.session is not None

    def may(self, needed: Role) -> bool:
        """Return whether the role has the rights of ``needed``."""
        return at_least(self.role, needed)


def guest(address: str) -> Identity:
    """Return the identity of a request without login."""
    return Identity("", "guest", None, address)


def anonymous(address: str) -> Identity:
    """Return the identity of every request while the console is open: on loopback, without users."""
    return Identity("anonymous", "viewer", None, address)


def command_line(login: str) -> Identity:
    """Return the identity of a person at the command line: who can reach the database's password is its owner."""
    return Identity(login or "command line", "owner", None, "command line")
