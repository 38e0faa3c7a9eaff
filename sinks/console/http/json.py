"""JSON responses of the console: written by orjson, with an ETag where the content may not have changed."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from fastapi import Request, Response

MEDIA_TYPE = "application/json"


def json_response(value: Any, status: int = 200) -> Response:
    """Return a response whose body is ``value``; browsers and proxies do not keep it."""
    return Response(orjson.dumps(value), status, {"Cache-Control": "no-store"}, MEDIA_TYPE)


def tagged(request: Request, value: Any) -> Response:
    """Return a response with an ETag of the content, or 304 when the client already has it."""
    body = orjson.dumps(value)
    tag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    known = {part.strip() for part in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(None, 304, headers)
    return Response(body, 200, headers, MEDIA_TYPE)
