"""The web pages: one document for every address outside /api, and the files that it names.

Our files change with each release, so browsers ask each time (ETag). A vendor file has its version in its name and never changes.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable

from fastapi import FastAPI, Request, Response

from sinks.console.http.problems import Problem, response_of

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Name -> package that contains it, the file in it, SHA-256 of the file (lightweight-charts 5.2.0, Swagger UI 5). A test holds the hash.
VENDOR = {
    "lightweight-charts.js": (
        "lightweight-charts-onesixth",
        "lightweight_charts/js/lightweight-charts.js",
        "419c0a211b955620d78600a922771303427a9382a22d24d84145a9fdaa84ac30",
    ),
    "swagger-ui.js": (
        "fastapi-offline",
        "fastapi_offline/static/swagger-ui-bundle.js",
        "4b5a9b35a1adf37f00d39c0bae23cdb37007e2946240ef035137cc85b4d55349",
    ),
    "swagger-ui.css": (
        "fastapi-offline",
        "fastapi_offline/static/swagger-ui.css",
        "ca238f7d7c2cf4480c1e77a9c3b9da915ab216e96ffd354e69076560c650c6de",
    ),
}


def _web() -> Traversable:
    return resources.files("sinks.console") / "web"


@cache
def _vendor(name: str) -> bytes:
    package, path, _ = VENDOR[name]
    (found,) = [file for file in metadata.files(package) or [] if str(file) == path]
    return found.read_binary()


def _answer(request: Request, content: bytes, kind: str) -> Response:
    tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    return Response(content, 200, headers, kind)


def _file(path: str) -> bytes | None:
    """Return a file of ``web``; None if there is none. The path cannot leave the folder."""
    place = _web()
    for part in path.split("/"):
        if part in ("", ".", "..") or "\\" in part or "\x00" in part:
            return None
        place = place / part
    return place.read_bytes() if place.is_file() else None


def add_pages(app: FastAPI) -> None:
    """Serve the pages; add after the API's routes."""

    @app.get("/assets/{path:path}", include_in_schema=False)
    def asset(request: Request, path: str) -> Response:
        content = _file(path)
        kind = _TYPES.get(f".{path.rpartition('.')[2]}")
        if content is None or kind is None:
            return response_of(Problem(404, f"there is no file {path}"))
        return _answer(request, content, kind)

    @app.get("/vendor/{name}", include_in_schema=False)
    def vendor(request: Request, name: str) -> Response:
        if name not in VENDOR:
            return response_of(Problem(404, f"there is no file {name}"))
        return _answer(request, _vendor(name), _TYPES[f".{name.rpartition('.')[2]}"])

    @app.get("/api/docs", include_in_schema=False)
    def docs(request: Request) -> Response:
        return _answer(request, (_web() / "docs.html").read_bytes(), _TYPES[".html"])

    @app.get("/api/{path:path}", include_in_schema=False)
    def unknown(path: str) -> Response:
        return response_of(Problem(404, f"there is no endpoint /api/{path}"))

    @app.get("/{path:path}", include_in_schema=False)
    def page(request: Request, path: str) -> Response:
        return _answer(request, (_web() / "index.html").read_bytes(), _TYPES[".html"])
