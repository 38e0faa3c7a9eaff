"""Take pictures of the demo's report and of a dashboard in a browser. The top README shows them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import UserError

# Names of Chromium on PATH: Debian, Google, Arch.
BROWSERS = ("chromium", "google-chrome", "chromium-browser")
# Smallest width at which a dashboard shows all columns. A README shows the picture at about this size.
WIDTH, HEIGHT = 1200, 760
# plotly draws after the page has loaded. A chart that is still missing after this time has failed.
DRAWN_MS = 20_000


@dataclass(frozen=True)
class Picture:
    """One picture to take.

    Attributes:
        page: HTML file.
        name: Name of the PNG file, without suffix.
        top: CSS selector of the element at the upper edge of the picture.
    """

    page: Path
    name: str
    top: str


def take_pictures(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Write a PNG file of ``WIDTH`` x ``HEIGHT`` pixels for each picture into ``folder``; return their paths.

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
            view = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            for one in pictures:
                try:
                    view.goto(one.page.resolve().as_uri())
                    view.wait_for_selector(f"{one.top} .main-svg", timeout=DRAWN_MS, state="attached")
                    view.evaluate("selector => document.querySelector(selector).scrollIntoView()", one.top)
                    file = folder / f"{one.name}.png"
                    view.screenshot(path=file)
                except Error as error:
                    raise UserError(f"--pictures: {one.page}: {error.message.splitlines()[0]}") from error
                written.append(file)
        finally:
            browser.close()
    return written
