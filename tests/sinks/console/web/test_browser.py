"""The pages in a real browser: both themes, a phone's width, keyboard, accessibility, roles."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pyotp
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, FloatRect, Locator, Page, expect, sync_playwright
from playwright.sync_api import Error as PageError

from deploy.database import migrate as database
from deploy.demo.pictures import BROWSERS
from schemas.settings import Settings
from sinks.commands.strategies.log import read as read_log
from tests.sinks.console.live.live_lab import produce, record
from tests.support.console.market import INSTRUMENT, Trade, store
from tests.support.console.people import PASSWORD, add_user
from tests.support.console.server import console

CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
PAGES = ("market", "signals", "plaza", "desk", "costs", "plaza/compare", "timeline", "system", "login", "register")


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
    facts = page.locator(".stretch .facts")
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


@pytest.mark.usefixtures("topics")
def test_annotations_and_files(browser: Browser, environment: Settings, trades: list[Trade]) -> None:
    """A user boxes a stretch, annotates it, sees it after a reload on the heatmap, downloads its trades, deletes it. A viewer only looks."""
    database.migrate(environment.database_url)
    store(environment.database_url, trades)
    for name, role in (("uma", "user"), ("vic", "viewer")):
        add_user(environment.database_url, name, role)  # type: ignore[arg-type]
    with console(environment) as anyone:
        uma, vic = (browser.new_context(base_url=str(anyone.base_url), accept_downloads=True).new_page() for _ in range(2))
        log_in(uma, "uma")
        log_in(vic, "vic")
        uma.goto(f"/market?instrument={INSTRUMENT}")
        uma.get_by_role("button", name="Earlier").click()
        expect(uma).to_have_url(re.compile("flow="))
        expect(uma.locator(".stretch .facts")).to_be_visible()
        box = still(uma.locator(".heatmap canvas"))
        uma.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 50)
        uma.mouse.down()
        uma.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 80)
        uma.mouse.up()
        uma.get_by_text("Annotate this stretch").click()
        uma.get_by_label("Label").fill("pre-rise")
        uma.get_by_label("Text").fill("<b>calm</b>")
        start, end = (uma.get_by_label(name).input_value() for name in ("Start, UTC", "End, UTC"))
        uma.get_by_role("button", name="Save the annotation").click()
        expect(uma.locator("#toasts")).to_contain_text("The annotation is saved")
        uma.reload()
        row = uma.locator("tr", has_text="pre-rise")
        expect(row).to_contain_text("<b>calm</b>")  # text, never markup
        vic.goto(uma.url)
        expect(vic.locator("tr", has_text="pre-rise")).to_be_visible()
        assert vic.get_by_text("Annotate this stretch").count() == 0 and vic.get_by_role("button", name="Delete").count() == 0
        with httpx.Client(base_url=anyone.base_url) as program:
            token = program.post("/api/v1/auth/login", json={"name": "vic", "password": PASSWORD}).json()["access_token"]
            (kept,) = program.get("/api/v1/annotations", headers={"Authorization": f"Bearer {token}"}).json()["records"]
        assert (kept["start"], kept["end"], kept["author"]) == (start, end, "uma")
        with vic.expect_download() as download:
            vic.get_by_role("link", name="Trades as CSV").click()
        assert download.value.suggested_filename == "trades.csv"
        row.get_by_role("button", name="Delete").click()
        expect(uma.locator("#toasts")).to_contain_text("The annotation is deleted")
        expect(row).to_have_count(0)
        for page in (uma, vic):
            page.context.close()


def still(place: Locator) -> FloatRect:
    """Return where a place of the page is, once it is in view and has stopped moving: panels above it may still get their data."""
    for _ in range(100):
        try:
            place.scroll_into_view_if_needed()
            before = place.bounding_box()
            place.page.wait_for_timeout(500)
            if before is not None and before == place.bounding_box():
                return before
        except PageError:  # it was drawn anew meanwhile
            continue
    raise AssertionError("it moves for 50 s")


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
        # The two revisions side by side; all strategies paused by one command.
        people["vic"].goto("/plaza/one?tab=revisions")
        expect(
            people["vic"].get_by_role("region", name="Differences of two revisions").locator("tr", has_text="entry_score")
        ).to_contain_text("72")
        people["ann"].goto("/plaza")
        expect(people["ann"].get_by_role("button", name="Pause all")).to_be_visible()
        assert people["vic"].get_by_role("button", name="Pause all").count() == 0
        expect(people["ann"].locator("article", has_text="<b>One</b>")).to_have_count(0)  # the sink has not stored it
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


def test_every_key_is_listed_and_does_what_it_says(browser: Browser, client: httpx.Client) -> None:
    page = opened(browser, client.base_url, "/plaza")
    expect(page.get_by_role("heading", name="Plaza")).to_be_visible()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(dialog).to_contain_text("Compare two strategies")
    letters = [text.removeprefix("g ") for text in dialog.locator("kbd").all_inner_texts() if text.startswith("g ")]
    assert len(letters) == len(set(letters)) == page.locator("#nav a").count()  # each page has a letter of its own
    found = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    assert not found, found
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.keyboard.press("c")
    expect(page).to_have_url(re.compile("/plaza/compare"))
    page.keyboard.press("g")
    page.keyboard.press("y")
    expect(page.get_by_role("heading", name="System")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).not_to_contain_text("Compare two strategies")  # a key ends with its page
    page.get_by_role("button", name="Close").click()
    page.goto("/timeline")
    expect(page.get_by_label("signals")).to_be_checked()
    page.keyboard.press("1")
    expect(page.get_by_label("signals")).not_to_be_checked()
    page.close()


@pytest.mark.usefixtures("topics")
def test_what_comes_is_shown_without_polling(browser: Browser, environment: Settings, trades: list[Trade]) -> None:
    """A gap and a book that arrive in Kafka appear on open pages; no list is asked for again. The stream brings the health tree."""
    database.migrate(environment.database_url)
    store(environment.database_url, trades)
    produce(environment, "instruments", record("instruments", instrument=INSTRUMENT, base_asset="LTC", quantity_decimals=3))
    with console(environment) as anyone:
        asked: list[str] = []
        timeline = opened(browser, anyone.base_url, "/timeline")
        market = opened(browser, anyone.base_url, f"/market?instrument={INSTRUMENT}")
        system = opened(browser, anyone.base_url, "/system")
        expect(timeline.locator("#connection")).to_have_text("live")
        for page in (timeline, system):
            page.on("request", lambda request: asked.append(request.url))
        # A stream says nothing of what was written before it listened, so the record is written until it is seen.
        row = timeline.locator("tr", has_text="sequence broke here")
        book = {
            "bid_prices": [99.0, 98.0],
            "bid_quantities": [1.0, 3.0],
            "ask_prices": [101.0, 102.0, 103.0],
            "ask_quantities": [2.0, 2.0, 2.0],
        }
        for number in range(60):
            produce(
                environment,
                "gaps",
                record("gaps", instrument=INSTRUMENT, event_time=trades[-1].time + number, detail="sequence broke here"),
            )
            produce(environment, "depth", record("depth", instrument=INSTRUMENT, event_time=trades[-1].time + number, state="live", **book))
            timeline.wait_for_timeout(500)
            if row.count() and market.locator(".depth canvas").count():
                break
        expect(row.first).to_be_visible()
        expect(market.locator("section", has_text="Order book")).to_contain_text("2 + 3 levels")
        expect(market.locator("section", has_text="Order book")).to_contain_text("40.0 %")  # 4 of 10
        system.wait_for_timeout(6_000)  # more than one round of the watcher
        assert not [url for url in asked if "/api/v1/" in url and "/live" not in url and "/auth/" not in url], asked
        for page in (timeline, market, system):
            page.close()


def test_live_candles_correct_past_ones_and_leave_holes(browser: Browser, client: httpx.Client) -> None:
    """A closed minute replaces what was drawn while it formed; minutes that never came are empty places; an older candle changes nothing."""
    page = opened(browser, client.base_url, "/account")
    found = page.evaluate(
        """async () => {
        const { MarketChart } = await import("/assets/pages/market/chart.js");
        const place = document.body.appendChild(document.createElement("div"));
        const chart = await MarketChart.make(place);
        const minute = 60_000, at = (n) => 1_700_000_040_000 + n * minute;
        const columns = { open: [1, 2, 3], high: [1, 2, 3], low: [1, 2, 3], close: [1, 2, 3], volume: [1, 1, 1], cvd: [5, 6, 7] };
        const none = { time_ms: [], value: [] };
        chart.show({ candles: { open_time_ms: [at(0), at(1), at(2)], ...columns }, liquidations: [], trades: [],
          series: { open_interest: none, funding_estimated: none, funding_settled: none, obi: none } });
        const candle = (n, close, cvd) => ({ start_ms: at(n), end_ms: at(n + 1), open: close, high: close, low: close, close, volume: 1, cvd, partial: false });
        chart.update(candle(1, 20, 60));
        chart.update(candle(5, 50, 8));
        chart.update({ ...candle(6, 60, 9), partial: true });
        chart.update(candle(-3, 99, 99));
        const places = [0, 1, 2, 5].map((n) => chart.chart.timeScale().timeToIndex(at(n) / 1000, false));
        const shown = [chart.candles.data(), chart.cvd.data()].map((all) => all.map((one) => [one.time * 1000 - at(0), one.close ?? one.value ?? null]));
        chart.remove();
        place.remove();
        return [...shown, places];
    }"""
    )
    minute = 60_000
    # The library's data() leaves empty places out; the numbers of the places on the axis show them.
    assert found[0] == [[0, 1], [minute, 20], [2 * minute, 3], [5 * minute, 50]]
    assert found[2] == [0, 1, 2, 5]
    sums = [value for _, value in found[1]]
    assert [after - before for before, after in itertools.pairwise(sums)] == [60, 7, 8]
    page.close()


def test_the_menu_stays_while_the_console_is_away(browser: Browser, client: httpx.Client) -> None:
    """A reload while /auth/me fails keeps who was logged in; an answer that nobody is logged in does not."""
    page = opened(browser, client.base_url, "/plaza")
    expect(page.locator("#nav").get_by_role("link", name="Desk")).to_be_visible()
    page.route("**/api/v1/auth/me", lambda route: route.fulfill(status=503, json={"detail": "the database does not answer"}))
    page.reload()
    expect(page.locator("#nav").get_by_role("link", name="Desk")).to_be_visible()
    page.unroute("**/api/v1/auth/me")
    page.route("**/api/v1/auth/me", lambda route: route.fulfill(status=401, json={"detail": "log in first"}))
    page.route("**/api/v1/auth/refresh", lambda route: route.fulfill(status=401, json={"detail": "log in first"}))
    page.reload()
    expect(page.get_by_role("link", name="Log in")).to_be_visible()
    expect(page.locator("#nav").get_by_role("link", name="Desk")).to_have_count(0)
    page.close()
