"""What the pages consist of: our files, and vendor files that are what we think they are."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from sinks.console.http import pages

WEB = Path(pages.__file__).parents[1] / "web"


def get(path: str) -> httpx.Response:
    """The answer of an application that has only the pages."""
    app = FastAPI()
    pages.add_pages(app)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.mark.parametrize("name", list(pages.VENDOR))
def test_vendor_files_are_the_pinned_ones(name: str) -> None:
    response = get(f"/vendor/{name}")
    assert response.status_code == 200 and hashlib.sha256(response.content).hexdigest() == pages.VENDOR[name][2]


def test_every_import_and_every_named_file_is_served() -> None:
    for path in WEB.rglob("*.js"):
        for name in re.findall(r'from "(\.[^"]+)"', path.read_text(encoding="utf-8")):
            assert (path.parent / name).resolve().is_file(), f"{path}: {name}"
    for address in re.findall(r'(?:src|href)="(/assets/[^"]+)"', (WEB / "index.html").read_text(encoding="utf-8")):
        assert get(address).status_code == 200, address


@pytest.mark.parametrize(
    "path", ["../pages.py", "..%2f..%2fpages.py", "core/../../app.py", "%2e%2e/app.py", "core", "core/nothing.js", "core\\api.js"]
)
def test_no_path_leaves_the_folder(path: str) -> None:
    response = get(f"/assets/{path}")
    assert response.status_code == 404 or b"import" not in response.content[:200]


def test_nothing_is_read_as_html() -> None:
    """Text of the API never becomes markup: no innerHTML, no document.write, no inline script or handler (the CSP forbids them, too)."""
    for path in [*WEB.rglob("*.js"), *WEB.rglob("*.html")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|javascript:", text), path
        assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>|\son\w+=\"", text), path
