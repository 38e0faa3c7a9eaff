"""The secret that signs the tokens: from the environment or a file, else a generated one that the database keeps.

The database is the one place that survives a restart wherever the console runs. A file of its own would be lost with its container, and everybody
would have to log in again. The role ``reader`` has no access to the table. A secret in the environment keeps it out of backups of the database.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from schemas.errors import UserError
from sinks.console.database import Database

VARIABLE = "PERPFLOW_CONSOLE_SECRET"
# The key of HMAC-SHA-256 should be as long as its hash (RFC 7518, 3.2).
SHORTEST = 32


def given_secret() -> bytes | None:
    """Return the secret of the environment or of its file, or None.

    Raises:
        UserError: the file cannot be read, or the secret is too short. The message does not show it.
    """
    text = os.environ.get(VARIABLE, "")
    path = os.environ.get(f"{VARIABLE}_FILE", "")
    name = VARIABLE
    if not text and path:
        name = f"{VARIABLE}_FILE"
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{name}: {path}: {type(error).__name__}") from None
    elif not text:
        return None
    if len(text.encode()) < SHORTEST:
        raise UserError(f"{name}: at least {SHORTEST} characters are needed, e.g. of: openssl rand -base64 48")
    return text.encode()


async def kept_secret(database: Database) -> bytes:
    """Return the secret that the database keeps. The first call generates it; concurrent ones agree on one."""
    async with database.own() as connection:
        await connection.execute("INSERT INTO console_secret (secret) VALUES (%s) ON CONFLICT DO NOTHING", (secrets.token_bytes(SHORTEST),))
        row = await (await connection.execute("SELECT secret FROM console_secret")).fetchone()
        assert row is not None
        return bytes(row["secret"])
