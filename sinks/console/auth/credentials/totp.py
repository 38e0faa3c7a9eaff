"""The second factor: time-based one-time codes (RFC 6238, by pyotp). A code counts once."""

from __future__ import annotations

import hmac
import time

import pyotp

from sinks.console.database import Connection

ISSUER = "perpflow"
STEP_S = 30
# A code of the step before or after counts too: clocks of phones differ by seconds, and typing takes some.
TOLERANCE = 1


def generate() -> str:
    """Return a new secret: 160 random bits as Base32 text."""
    return pyotp.random_base32()


def uri(secret: str, name: str) -> str:
    """Return the otpauth:// address that an authenticator app reads from a QR code."""
    return pyotp.TOTP(secret, interval=STEP_S).provisioning_uri(name=name, issuer_name=ISSUER)


def step_of(secret: str, code: str, now: float) -> int | None:
    """Return the 30 s step whose code this is, or None.

    Args:
        secret: Base32 secret of the user.
        code: Six digits; spaces are ignored.
        now: Unix time, s.
    """
    digits = code.replace(" ", "")
    if not (digits.isascii() and digits.isdigit()):
        return None
    one = pyotp.TOTP(secret, interval=STEP_S)
    current = int(now // STEP_S)
    found = None
    for step in range(current - TOLERANCE, current + TOLERANCE + 1):
        if hmac.compare_digest(one.at(step * STEP_S), digits):
            found = step
    return found


async def consume(connection: Connection, user_id: int, code: str, now: float | None = None) -> bool:
    """Use up a code of a user's second factor. Return whether it was right and unused. Of parallel calls with one code exactly one is right."""
    row = await (await connection.execute("SELECT totp_secret FROM console_users WHERE user_id = %s", (user_id,))).fetchone()
    if row is None or row["totp_secret"] is None:
        return False
    step = step_of(row["totp_secret"], code, time.time() if now is None else now)
    if step is None:
        return False
    cursor = await connection.execute(
        "UPDATE console_users SET totp_last_step = %s WHERE user_id = %s AND totp_last_step < %s AND totp_secret = %s",
        (step, user_id, step, row["totp_secret"]),
    )
    return cursor.rowcount == 1


async def enrol(connection: Connection, user_id: int) -> str:
    """Start enrolment: keep a new secret that waits for its first code, and return it."""
    secret = generate()
    await connection.execute("UPDATE console_users SET totp_pending = %s WHERE user_id = %s", (secret, user_id))
    return secret


async def confirm(connection: Connection, user_id: int, code: str, now: float | None = None) -> bool:
    """End enrolment with the first code of the waiting secret. That code is used up. Return whether it was right."""
    row = await (await connection.execute("SELECT totp_pending FROM console_users WHERE user_id = %s FOR UPDATE", (user_id,))).fetchone()
    if row is None or row["totp_pending"] is None:
        return False
    step = step_of(row["totp_pending"], code, time.time() if now is None else now)
    if step is None:
        return False
    await connection.execute(
        "UPDATE console_users SET totp_secret = totp_pending, totp_pending = NULL, totp_last_step = %s WHERE user_id = %s", (step, user_id)
    )
    return True


async def remove(connection: Connection, user_id: int) -> None:
    """Remove the second factor and a waiting one."""
    await connection.execute("UPDATE console_users SET totp_secret = NULL, totp_pending = NULL WHERE user_id = %s", (user_id,))
