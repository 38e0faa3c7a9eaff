"""Access and refresh tokens: JSON web tokens signed by HMAC-SHA-256 (PyJWT).

An access token says who asks. It lives 15 minutes and is checked without the database. A refresh token gets the next pair. Its signature proves that
this console issued it, so an unknown one of a known session is an old one, never a guess.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import jwt

ALGORITHM = "HS256"
ACCESS_S = 15 * 60
# A session ends after this time without a refresh, and after SESSION_MOST_S in any case.
SESSION_S = 7 * 86_400
SESSION_MOST_S = 30 * 86_400
# One kind of token cannot be used as the other: each names what it is for.
_ACCESS, _REFRESH = "perpflow-access", "perpflow-refresh"


class TokenError(Exception):
    """A token is not one of ours, is of another kind, or has expired. The text says which and never holds the token."""


@dataclass(frozen=True)
class Claims:
    """What an access token says, once its signature is checked."""

    user_id: int
    name: str
    role: str
    session: UUID


def issue_access(secret: bytes, claims: Claims) -> str:
    """Return an access token."""
    now = int(time.time())
    payload = {
        "aud": _ACCESS,
        "sub": str(claims.user_id),
        "name": claims.name,
        "role": claims.role,
        "sid": str(claims.session),
        "iat": now,
        "exp": now + ACCESS_S,
    }
    return jwt.encode(payload, secret, ALGORITHM)


def issue_refresh(secret: bytes, session: UUID) -> str:
    """Return a refresh token of a session. No two are equal."""
    now = int(time.time())
    payload = {"aud": _REFRESH, "sid": str(session), "jti": secrets.token_urlsafe(24), "iat": now, "exp": now + SESSION_S}
    return jwt.encode(payload, secret, ALGORITHM)


def read_access(secret: bytes, token: str) -> Claims:
    """Return the claims of an access token.

    Raises:
        TokenError: it is invalid.
    """
    payload = _read(secret, token, _ACCESS, ["exp", "iat", "aud", "sub", "sid", "name", "role"])
    try:
        return Claims(int(payload["sub"]), str(payload["name"]), str(payload["role"]), UUID(payload["sid"]))
    except (ValueError, TypeError, AttributeError):
        raise TokenError("the token is not valid") from None


def read_refresh(secret: bytes, token: str) -> UUID:
    """Return the session of a refresh token.

    Raises:
        TokenError: it is invalid.
    """
    payload = _read(secret, token, _REFRESH, ["exp", "iat", "aud", "sid", "jti"])
    try:
        return UUID(payload["sid"])
    except (ValueError, TypeError, AttributeError):
        raise TokenError("the token is not valid") from None


def fingerprint(token: str) -> bytes:
    """Return the SHA-256 of a token, which is what the database keeps. Tokens are random, so no slow hash is needed."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _read(secret: bytes, token: str, audience: str, required: list[str]) -> dict[str, Any]:
    try:
        return jwt.decode(token, secret, algorithms=[ALGORITHM], audience=audience, options={"require": required})
    except jwt.ExpiredSignatureError:
        raise TokenError("the token has expired") from None
    except (jwt.PyJWTError, ValueError, TypeError):  # e.g. bytes that are not UTF-8
        raise TokenError("the token is not valid") from None
