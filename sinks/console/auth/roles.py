"""The roles of the console, from least to most rights.

| role | may |
|---|---|
| guest | see what needs no login: health, funding rates |
| viewer | read everything except users, the audit log and dead letters |
| user | annotate charts, start backtests, dry runs |
| operator | give commands: strategies, paper switches, risk |
| admin | see and change users of lower roles, invitations, the audit log |
| owner | everything, also other owners and admins |
"""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["guest", "viewer", "user", "operator", "admin", "owner"]
# The roles of a user with a login.
UserRole = Literal["viewer", "user", "operator", "admin", "owner"]
# The roles that an invitation can give. Only an owner makes another owner.
InvitedRole = Literal["viewer", "user", "operator", "admin"]

ROLES: tuple[Role, ...] = get_args(Role)


def rank(role: Role) -> int:
    """Return the position of a role: 0 for guest, higher with more rights."""
    return ROLES.index(role)


def at_least(role: Role, needed: Role) -> bool:
    """Return whether ``role`` has the rights of ``needed``."""
    return rank(role) >= rank(needed)


def manages(actor: Role, target: Role) -> bool:
    """Return whether ``actor`` may change a user of role ``target``, or give that role: an owner always, an admin only below itself."""
    return actor == "owner" or (at_least(actor, "admin") and rank(actor) > rank(target))
