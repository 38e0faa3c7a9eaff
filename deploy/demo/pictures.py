"""Take pictures of the demo's console, its report and a dashboard in a browser. The top README shows them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from schemas.errors import UserError

# Names of Chromium on PATH: Debian, Google, Arch.
BROWSERS = ("chromium", "google-chrome", "chromium-browser")
# Smallest width at which a dashboard shows all columns. A README shows the picture at about this size.
WIDTH, HEIGHT = 1200, 760
# A phone.
PHONE_WIDTH, PHONE_HEIGHT = 390, 760
# Charts draw after the page has loaded. A chart that is still missing after this time has failed.
DRAWN_MS = 60_000


@dataclass(frozen=True)
class Picture:
    """One picture to take.

    Attributes:
        page: Address of the page.
        name: Name of the PNG file, without suffix.
        top: CSS selector of the element at the upper edge of the picture.
        drawn: CSS selector of what is there when the page is drawn.
        gone: CSS selector of what is not there any more then; empty: no such thing.
        theme: ``light`` or ``dark``.
        phone: Take it at a phone's width.
    """

    page: str
    name: str
    top: str
    drawn: str
    gone: str = ""
    theme: Literal["light", "dark"] = "light"
    phone: bool = False


def console_pictures(url: str, instrument: str) -> list[Picture]:
    """Return the pictures of a console: the market of an instrument in both themes, the desk on a phone."""
    market = f"{url}/market?instrument={quote(instrument)}"
    chart, desk = ("body", ".heatmap", ".skeleton"), ("body", "table", ".skeleton")
    return [
        Picture(market, "console-market-dark", *chart, "dark"),
        Picture(market, "console-market-light", *chart, "light"),
        Picture(f"{url}/desk", "console-desk-phone", *desk, "dark", phone=True),
    ]


def take_pictures(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Write a PNG file for each picture into ``folder``, of ``WIDTH`` x ``HEIGHT`` pixels or a phone's; return their paths.

    Raises:
        UserError: no browser, no playwright, or a page lacks the element or the chart.
    """
    browser_path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser_path is None:
        raise UserError(f"--pictures: no Chromium on PATH ({', '.join(BROWSERS)}); Debian and Ubuntu: apt-get install chromium")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise UserError("--pictures: the Python package playwright is missing; pip install playwright") from error
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with sync_playwright() as playwright:
        # Root in a container has no namespaces for Chromium's sandbox. The pages are our own files.
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        try:
            for one in pictures:
                width, height = (PHONE_WIDTH, PHONE_HEIGHT) if one.phone else (WIDTH, HEIGHT)
                view = browser.new_page(viewport={"width": width, "height": height}, color_scheme=one.theme)
                try:
                    view.goto(one.page, timeout=DRAWN_MS)
                    view.wait_for_selector(f"{one.top} {one.drawn}", timeout=DRAWN_MS, state="attached")
                    if one.gone:
                        view.wait_for_selector(one.gone, timeout=DRAWN_MS, state="detached")
                    view.wait_for_load_state("load")
                    view.evaluate("selector => document.querySelector(selector).scrollIntoView()", one.top)
                    file = folder / f"{one.name}.png"
                    view.screenshot(path=file)
                except Error as error:
                    raise UserError(f"--pictures: {one.page}: {error.message.splitlines()[0]}") from error
                view.close()
                written.append(file)
        finally:
            browser.close()
    return written
