"""The pages in a real browser: both themes, a phone's width, keyboard, accessibility, roles."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pyotp
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect, sync_playwright

from deploy.database import migrate as database
from deploy.demo.pictures import BROWSERS
from schemas.settings import Settings
from sinks.commands.strategies.log import read as read_log
from tests.support.console.market import INSTRUMENT, Trade
from tests.support.console.people import PASSWORD, add_user
from tests.support.console.server import console

CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
PAGES = ("market", "signals", "plaza", "desk", "timeline", "system", "login", "register")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


def opened(browser: Browser, base: httpx.URL, path: str, *, theme: Any = "dark", width: int = 1280) -> Page:
    """Return a page whose script errors fail the test when ``checked`` is called."""
    page = browser.new_page(base_url=str(base), viewport={"width": width, "height": 900}, color_scheme=theme)
    page.on("pageerror", lambda error: problems_of(page).append(str(error)))
    page.on("console", lambda message: problems_of(page).append(message.text) if message.type == "error" else None)
    page.goto(path)
    expect(page.locator("#page .skeleton")).to_have_count(0, timeout=20_000)
    return page


_PROBLEMS: dict[int, list[str]] = {}


def problems_of(page: Page) -> list[str]:
    return _PROBLEMS.setdefault(id(page), [])


@pytest.mark.parametrize(("theme", "width"), [("dark", 1280), ("light", 390)])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_whole(browser: Browser, client: httpx.Client, path: str, theme: str, width: int) -> None:
    """No script error, no problem shown, nothing wider than the window, no serious finding of axe."""
    page = opened(browser, client.base_url, f"/{path}", theme=theme, width=width)
    expect(page.locator("h1")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), "the page scrolls sideways"
    assert page.locator(".problem").count() == 0, page.locator(".problem").all_inner_texts()
    found = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    assert not found, [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found]
    assert not problems_of(page), problems_of(page)
    page.close()


def test_the_market_is_drawn(browser: Browser, client: httpx.Client, trades: list[Trade]) -> None:
    page = opened(browser, client.base_url, f"/market?instrument={INSTRUMENT}")
    expect(page.locator(".chart canvas").first).to_be_visible()
    expect(page.locator(".heatmap canvas")).to_be_visible()
    facts = page.locator(".heatmap + div .facts")
    end = trades[-1].time + 1
    inside = [trade for trade in trades if trade.time >= end - 15 * 60_000 - 1 and trade.time < end]
    expect(facts).to_contain_text(f"{len(inside):,}")
    # A box over the heatmap gives the summary of its stretch.
    before = facts.inner_text()
    box = page.locator(".heatmap canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 80)
    page.mouse.up()
    expect(facts).not_to_have_text(before)
    # The view is in the address: a reload shows the same stretch.
    page.get_by_role("button", name="Everything").click()
    page.wait_for_function("new URL(location).searchParams.has('from')")
    address = page.url
    page.reload()
    expect(page.locator(".chart canvas").first).to_be_visible()
    assert page.url == address
    page.close()


def test_by_keyboard(browser: Browser, client: httpx.Client) -> None:
    page = opened(browser, client.base_url, "/plaza")
    page.keyboard.press("g")
    page.keyboard.press("t")
    expect(page).to_have_url(f"{client.base_url}/timeline".replace("//timeline", "/timeline"))
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.matches('input, select')")
    page.goto("/plaza")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the page")).to_be_focused()
    page.close()


def test_menu_on_a_phone(browser: Browser, client: httpx.Client) -> None:
    page = opened(browser, client.base_url, "/plaza", width=390)
    expect(page.get_by_role("link", name="Desk")).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Desk").click()
    expect(page.get_by_role("heading", name="Desk")).to_be_visible()
    page.close()


def log_in(page: Page, name: str) -> None:
    page.goto("/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.get_by_role("button", name=f"Log out {name}")).to_be_visible()


@pytest.mark.usefixtures("topics")
def test_roles_and_two_editors(browser: Browser, environment: Settings) -> None:
    """A viewer has no buttons. Two operators edit one revision: the second learns that somebody was faster."""
    database.migrate(environment.database_url)
    for name, role in (("vic", "viewer"), ("ann", "operator"), ("bob", "operator")):
        add_user(environment.database_url, name, role)  # type: ignore[arg-type]
    with console(environment) as anyone:
        people = {name: browser.new_context(base_url=str(anyone.base_url)).new_page() for name in ("vic", "ann", "bob")}
        people["ann"].goto("/plaza")
        expect(people["ann"]).to_have_url(f"{str(anyone.base_url).rstrip('/')}/login?then=%2Fplaza")
        for name, page in people.items():
            log_in(page, name)
        with httpx.Client(base_url=anyone.base_url) as program:
            token = program.post("/api/v1/auth/login", json={"name": "ann", "password": PASSWORD}).json()["access_token"]
            new = {"strategy_id": "one", "instrument": "BINANCE:BTCUSDT-PERP", "fields": {"display_name": "<b>One</b>"}}
            assert program.post("/api/v1/strategies", json=new, headers={"Authorization": f"Bearer {token}"}).status_code == 201
        for page in people.values():
            page.goto("/plaza/one?tab=overview")
            expect(page.get_by_role("heading", name="<b>One</b>")).to_be_visible()  # shown as text, never as markup
        assert people["vic"].get_by_role("button", name="Pause").count() == 0 and people["vic"].get_by_role("tab", name="Edit").count() == 0
        for name in ("ann", "bob"):
            people[name].get_by_role("tab", name="Edit").click()
            people[name].get_by_label("entry_score").fill("72" if name == "ann" else "74")
        people["ann"].get_by_label("entry_score").fill("400")
        expect(people["ann"].locator(".field-error", has_text="got 400")).to_be_visible()  # the rule, while typing
        people["ann"].get_by_label("entry_score").fill("72")
        for name in ("ann", "bob"):
            people[name].get_by_role("button", name="Write a new revision").click()
        expect(people["ann"].locator("#toasts")).to_contain_text("The new revision is written")
        expect(people["bob"].locator("#toasts")).to_contain_text("Somebody was faster")
        (config,) = read_log(environment).newest.values()
        assert (config.revision, config.entry_score, config.edited_by) == (2, 72.0, "ann")
        for page in people.values():
            page.context.close()


def test_an_invitation_a_second_factor_and_a_ban(browser: Browser, environment: Settings) -> None:
    """An owner invites; the guest registers, sets up a second factor, logs in with it, is banned and gets out at once."""
    database.migrate(environment.database_url)
    add_user(environment.database_url, "ona", "owner")
    with console(environment) as anyone:
        owner, guest = (browser.new_context(base_url=str(anyone.base_url)).new_page() for _ in range(2))
        log_in(owner, "ona")
        owner.goto("/admin")
        owner.get_by_role("button", name="Invite").click()
        code = owner.locator("code").first.inner_text()
        guest.goto(f"/register?code={code}")
        guest.get_by_label("Name").fill("gus")
        guest.get_by_label("Password").fill("short")
        guest.get_by_role("button", name="Register").click()
        expect(guest.locator(".field-error", has_text="at least")).to_be_visible()
        guest.get_by_label("Password").fill(PASSWORD)
        guest.get_by_role("button", name="Register").click()
        expect(guest.get_by_role("button", name="Log out gus")).to_be_visible()
        assert guest.locator("#nav").get_by_role("link", name="Admin").count() == 0

        guest.goto("/account")
        second = guest.locator("section", has_text="Second factor")
        second.get_by_label("Password").fill(PASSWORD)
        second.get_by_role("button", name="Set up").click()
        secret = second.locator("code").inner_text()
        second.get_by_label("Code that the app shows").fill(pyotp.TOTP(secret).now())
        second.get_by_role("button", name="Confirm").click()
        expect(guest.get_by_role("button", name="Remove the second factor")).to_be_visible()

        owner.reload()
        row = owner.locator("tr", has_text="gus").first
        expect(row).to_contain_text("yes")
        row.get_by_role("button", name="Ban").click()
        owner.get_by_label("Type gus to confirm").fill("gus")
        owner.get_by_label("Reason, for the record").fill("leaves the desk")
        owner.locator("dialog").get_by_role("button", name="Ban").click()
        expect(owner.locator("#toasts")).to_contain_text("gus is banned")
        guest.goto("/plaza")
        expect(guest).to_have_url(f"{str(anyone.base_url).rstrip('/')}/login?then=%2Fplaza")
        expect(owner.locator("table", has_text="user.ban")).to_be_visible()
        for page in (owner, guest):
            page.context.close()
