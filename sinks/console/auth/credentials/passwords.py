"""Passwords: Argon2id hashes, computed outside the event loop by two threads at most."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from sinks.console.http.problems import Problem

T = TypeVar("T")

# 19 MiB, two passes, one lane: the OWASP parameters for Argon2id. Two hashes at once add 38 MiB to the process and take about 20 ms each.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
THREADS = 2
# More waiting hashes than this take longer than a person waits for a login.
WAITING = 64
SHORTEST, LONGEST = 12, 256

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
_queued = 0
# Verified when no user has the name. So a login of an unknown name takes as long as one with a wrong password.
_NOBODY = _HASHER.hash("no user has this password")


async def _run(work: partial[T]) -> T:
    global _queued
    if _queued >= WAITING:
        raise Problem(503, "too many logins at once; try again", headers={"Retry-After": "2"})
    _queued += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(_threads, work)
    finally:
        _queued -= 1


def weakness(password: str, name: str) -> str | None:
    """Return why a password is refused, or None. The rule is NIST SP 800-63B's: length counts, kinds of characters do not."""
    if len(password) < SHORTEST:
        return f"at least {SHORTEST} characters are needed"
    if len(password) > LONGEST:
        return f"at most {LONGEST} characters are allowed"
    if len(set(password)) < 4:
        return "at least 4 different characters are needed"
    if name and name.casefold() in password.casefold() and len(password) < len(name) + SHORTEST:
        return "it holds the name and little else"
    return None


def _verify(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


async def hashed(password: str) -> str:
    """Return the Argon2id hash of a password, with its parameters and salt."""
    return await _run(partial(_HASHER.hash, password))


async def matches(stored: str | None, password: str) -> bool:
    """Return whether a password belongs to a stored hash. None (no such user) takes as long and is False."""
    return await _run(partial(_verify, stored or _NOBODY, password)) and stored is not None


def outdated(stored: str) -> bool:
    """Return whether a hash has other parameters than today's."""
    return _HASHER.check_needs_rehash(stored)
