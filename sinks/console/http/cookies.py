"""The cookies of a page's session. Scripts cannot read them, and other sites cannot send them."""

from __future__ import annotations

from fastapi import Request, Response

from sinks.console.auth.credentials.tokens import ACCESS_S, SESSION_S
from sinks.console.context import context_of

# The refresh token is sent to these endpoints only.
REFRESH_PATH = "/api/v1/auth"


def _names(request: Request, secure: bool | None = None) -> tuple[str, str, bool]:
    if context_of(request).options.secure if secure is None else secure:
        # The browser itself refuses a cookie with these prefixes that came without TLS (RFC 6265bis 4.1.3).
        return "__Host-perpflow_access", "__Secure-perpflow_refresh", True
    # Browsers do not separate cookies by port: two consoles on one machine would log each other out.
    server = request.scope.get("server")
    port = server[1] if server else 0
    return f"perpflow_access_{port}", f"perpflow_refresh_{port}", False


def access_cookie(request: Request) -> str:
    """Return the name of the cookie with the access token."""
    return _names(request)[0]


def refresh_cookie(request: Request) -> str:
    """Return the name of the cookie with the refresh token."""
    return _names(request)[1]


def has_session_cookie(request: Request, secure: bool) -> bool:
    """Return whether a browser sent one of the two to a console that listens with TLS (``secure``) or without."""
    access, refresh, _ = _names(request, secure)
    return access in request.cookies or refresh in request.cookies


def set_cookies(request: Request, response: Response, access: str, refresh: str) -> None:
    """Give the browser both tokens."""
    access_name, refresh_name, secure = _names(request)
    response.set_cookie(access_name, access, max_age=ACCESS_S, path="/", secure=secure, httponly=True, samesite="strict")
    response.set_cookie(refresh_name, refresh, max_age=SESSION_S, path=REFRESH_PATH, secure=secure, httponly=True, samesite="strict")


def clear_cookies(request: Request, response: Response) -> None:
    """Take both tokens from the browser."""
    access_name, refresh_name, secure = _names(request)
    response.delete_cookie(access_name, path="/", secure=secure, httponly=True, samesite="strict")
    response.delete_cookie(refresh_name, path=REFRESH_PATH, secure=secure, httponly=True, samesite="strict")
