"""Client order ids: functions of (environment, signal, leg, attempt), so that repeats and foreign orders are recognised.

``pf`` + 6 characters of the environment + ``-`` + 16 characters of the signal + ``-`` + leg code + attempt, for example
``pfk3q2ab-aqzv5m2k7dpl3wxe-st2``. Every venue accepts ``a-z2-7`` and ``-``, at most 36 characters. The journal maps an id back to its signal. 16
characters of base 32 are 80 bits; among a million signals the probability of a collision is 4e-13.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

LEGS = {
    "entry": "en",
    "tp1": "ta",
    "tp2": "tb",
    "stop": "st",
    "break_even_stop": "be",
    "trailing_stop": "tr",
    "partial": "pa",
    "timeout": "ti",
    "flip": "fl",
    "guard": "gu",
    "manual": "ma",
    "unprotected": "un",
    "orphan": "or",
    "counter": "co",
    "target": "tg",
    "add_on": "ad",
    "pair": "oc",
    "guard_stop": "gs",
}
_BY_CODE = {code: leg for leg, code in LEGS.items()}
MAX_LENGTH = 36


def _short(text: str, characters: int) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()[:characters]


def prefix_of(environment: str) -> str:
    """Return the prefix of all client order ids of an environment (mode, venue, account, topic prefix)."""
    return f"pf{_short(environment, 6)}-"


def client_order_id(environment: str, signal_id: str, leg: str, attempt: int) -> str:
    """Return the client order id of an attempt. Raises KeyError for a leg that is not in ``LEGS``, ValueError for an attempt below 1."""
    if attempt < 1:
        raise ValueError(f"attempt: must be at least 1, got {attempt}")
    made = f"{prefix_of(environment)}{_short(signal_id, 16)}-{LEGS[leg]}{attempt}"
    assert len(made) <= MAX_LENGTH
    return made


@dataclass(frozen=True, slots=True)
class ParsedId:
    """The parts of a client order id."""

    signal_hash: str
    leg: str
    attempt: int


def parse(environment: str, client_id: str) -> ParsedId | None:
    """Return the parts of an id; None if it belongs to another environment or to a foreign order."""
    prefix = prefix_of(environment)
    if not client_id.startswith(prefix):
        return None
    signal_hash, _, rest = client_id.removeprefix(prefix).partition("-")
    leg, number = _BY_CODE.get(rest[:2]), rest[2:]
    if len(signal_hash) != 16 or leg is None or not number.isdigit():
        return None
    return ParsedId(signal_hash, leg, int(number))


def is_ours(environment: str, client_id: str) -> bool:
    """Return whether this environment created the order id."""
    return parse(environment, client_id) is not None
