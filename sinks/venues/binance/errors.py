"""Map Binance's error answers to the errors of the adapter (developers documentation, "Error Code", USD-M futures; "Errors", spot)."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from sinks.venues.common.adapter import OutcomeUnknown, RateLimited, RequestRejected, VenueError

# Code -> ``RequestRejected.reason``. All other codes are ``other``.
REASONS: Mapping[int, str] = {
    -1002: "auth",
    -1013: "filter",
    -1015: "too_many_orders",
    -1021: "clock",
    -1022: "auth",
    -1111: "filter",
    -2011: "not_found",  # cancel: unknown order
    -2013: "not_found",  # query: order does not exist
    -2014: "auth",
    -2015: "auth",
    -2018: "insufficient_balance",
    -2019: "insufficient_balance",
    -2021: "would_trigger",
    -2022: "reduce_only",
    -2025: "too_many_orders",
    -2027: "insufficient_balance",  # beyond the position limit of the leverage
    -4003: "filter",
    -4005: "filter",
    -4013: "filter",
    -4014: "filter",
    -4016: "filter",
    -4024: "filter",
    -4045: "too_many_orders",
    -4111: "duplicate_id",
    -4116: "duplicate_id",
    -4118: "reduce_only",
    -4131: "filter",
    -4164: "filter",
    -5021: "filter",
    -5022: "post_only",
}
# Spot has one code for rejected orders; the message says why.
REJECTED = -2010
REJECTIONS: Mapping[str, str] = {
    "insufficient balance": "insufficient_balance",
    "immediately match": "post_only",
    "trigger immediately": "would_trigger",
    "relationship of the prices": "prices",
    "duplicate order": "duplicate_id",
    "not supported for this symbol": "not_supported",
}
# The order may have been executed although the answer says that something went wrong (-1006, -1007: "execution status unknown").
OUTCOME_UNKNOWN = frozenset((-1000, -1001, -1006, -1007))
# The venue did not accept the request: "Service Unavailable" and "Request throttled by system-level protection" (503), server busy.
NOT_TAKEN = frozenset((-1008, -1016))
NOT_TAKEN_WORDS = ("service unavailable", "internal error; unable to process", "throttled")
# 429 without Retry-After does not say how long to wait. 418 is a ban of at least two minutes.
SLOW_DOWN_S, BAN_S = 10.0, 120.0


def error_of(status: int, body: bytes, retry_after: str | None) -> VenueError:
    """Return the error of an answer other than 200.

    The message of a 503 decides, as documented. After "Unknown error, please check your request or try again later" the outcome is unknown.
    "Service Unavailable" and "Internal error; unable to process your request" mean that nothing happened.
    """
    code, message = _code(body)
    if status in (418, 429) or code == -1003:
        wait = _seconds(retry_after) or (BAN_S if status == 418 else SLOW_DOWN_S)
        return RateLimited(f"HTTP {status}, code {code}: {message}", wait)
    if code in NOT_TAKEN or (status == 503 and any(words in message.lower() for words in NOT_TAKEN_WORDS)):
        return RateLimited(f"HTTP {status}, code {code}: {message}", 1.0)
    if status >= 500 or code in OUTCOME_UNKNOWN or code is None:
        return OutcomeUnknown(f"HTTP {status}, code {code}: {message}")
    return RequestRejected(_reason(code, message), str(code), message)


def _reason(code: int, message: str) -> str:
    if code == REJECTED:
        return next((reason for words, reason in REJECTIONS.items() if words in message.lower()), "other")
    return REASONS.get(code, "other")


def _code(body: bytes) -> tuple[int | None, str]:
    try:
        answer = orjson.loads(body)
        return int(answer["code"]), str(answer.get("msg", ""))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None, body[:200].decode(errors="replace")


def _seconds(retry_after: str | None) -> float | None:
    try:
        return float(retry_after) if retry_after else None
    except ValueError:
        return None
