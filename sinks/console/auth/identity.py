"""Who asks, as a dependency of endpoints.

    @router.post("/strategies/{name}/pause")
    async def pause(name: str, identity: Operator, context: Contextual) -> ...

or, for any role, ``identity: Annotated[Identity, Depends(needs("admin"))]``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer

from sinks.console.auth.actor import Identity
from sinks.console.auth.limits import SAFE_METHODS, network
from sinks.console.auth.roles import Role, at_least
from sinks.console.auth.service import Auth, login_needed
from sinks.console.context import context_of
from sinks.console.http.cookies import access_cookie
from sinks.console.http.problems import Problem

__all__ = ["Admin", "Authenticated", "Guest", "Identity", "Operator", "Owner", "User", "Viewer", "address_of", "auth_of", "needs"]

# For the OpenAPI document. The values are read below: a wrong scheme must be refused, never skipped.
_BEARER = HTTPBearer(auto_error=False, scheme_name="bearer", description="Access token of a program.")
_COOKIE = APIKeyCookie(name="perpflow_access", auto_error=False, scheme_name="cookie", description="Access token of a page.")


def auth_of(request: Request) -> Auth:
    """Return the logins of the application that answers ``request``."""
    return context_of(request).auth


Authenticated = Annotated[Auth, Depends(auth_of)]


def address_of(request: Request) -> str:
    """Return the address of the client. Behind the named proxy it is the one that the proxy reports."""
    return request.client.host if request.client is not None else ""


def token_of(request: Request) -> str | None:
    """Return the access token: of the header Authorization if there is one, else of the cookie.

    A request with the header never falls back to the cookie, because the header exempts it from the same-origin check.

    Raises:
        Problem: 401, the header is not a bearer token.
    """
    header = request.headers.get("authorization")
    if header is None:
        return request.cookies.get(access_cookie(request))
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise login_needed("Authorization: expected Bearer and an access token")
    return token.strip()


def needs(role: Role) -> Callable[..., Awaitable[Identity]]:
    """Return a dependency that answers 401 without login and 403 with too low a role, and returns the ``Identity``.

    Unsafe methods and what only an admin sees ask the database on every request. Reads believe it for seconds (``service.FRESH_S``).
    """
    privileged = at_least(role, "admin")

    async def identify(
        request: Request, _bearer: Annotated[object, Security(_BEARER)] = None, _cookie: Annotated[object, Security(_COOKIE)] = None
    ) -> Identity:
        auth = auth_of(request)
        fresh = privileged or request.method not in SAFE_METHODS
        address = address_of(request)
        try:
            identity = await auth.identify(token_of(request), address, fresh=fresh)
        except Problem as problem:
            if role != "guest" or problem.status != 401:
                raise
            identity = await auth.identify(None, address, fresh=fresh)
        await auth.limits.request(identity.name if identity.logged_in else network(address), request.method)
        if at_least(identity.role, role):
            return identity
        if not identity.logged_in:
            if identity.role == "guest":
                raise login_needed("log in first")
            raise login_needed("the console is read-only until it has a user (perpflow console-users add)")
        raise Problem(403, f"this needs the role {role}; {identity.name} is {identity.role}")

    return identify


Guest = Annotated[Identity, Depends(needs("guest"))]
Viewer = Annotated[Identity, Depends(needs("viewer"))]
User = Annotated[Identity, Depends(needs("user"))]
Operator = Annotated[Identity, Depends(needs("operator"))]
Admin = Annotated[Identity, Depends(needs("admin"))]
Owner = Annotated[Identity, Depends(needs("owner"))]
