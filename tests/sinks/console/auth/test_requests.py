"""What reaches the application: requests of other sites, huge and malformed bodies, injected text; what a browser may do with an answer."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from structlog.testing import capture_logs

from sinks.console.data import market
from sinks.console.http.security import HEADERS, MOST_BODY
from tests.sinks.console.auth.conftest import PASSWORD, House, Start

pytestmark = pytest.mark.stack
ME, OTHERS = "/api/v1/auth/me", "/api/v1/auth/sessions"


def test_a_page_has_cookies_that_scripts_and_other_sites_cannot_use(house: House) -> None:
    page = house.client(**{"Sec-Fetch-Site": "same-origin"})
    answer = page.post("/api/v1/auth/login", json={"name": "user", "password": PASSWORD, "cookie": True})
    assert answer.json()["access_token"] is None and answer.json()["refresh_token"] is None
    access, refresh = sorted(answer.headers.get_list("set-cookie"))
    for cookie in (access, refresh):
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert "Path=/;" in f"{access};" and "Path=/api/v1/auth;" in f"{refresh};"
    assert page.get(ME).json()["name"] == "user"
    assert page.post("/api/v1/auth/refresh").status_code == 200
    assert page.get(ME).status_code == 200
    assert page.post("/api/v1/auth/logout").status_code == 200
    assert not list(page.cookies.jar) and page.get(ME).status_code == 401


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "SELF"}, False),
        ({"Origin": "SELF"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://localhost"}, False),
        ({"Origin": "http://localhost:1"}, False),
        ({"Origin": "SELF.evil.example"}, False),
        ({"Origin": "https://localhost"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://[::"}, False),
        ({"Origin": ""}, False),
        ({}, False),
        ({"Referer": "SELF/"}, False),
    ],
)
def test_a_cookie_counts_for_requests_of_our_own_pages_only(house: House, headers: dict[str, str], allowed: bool) -> None:
    cookies = dict(house.as_page("user").cookies)
    forger = httpx.Client(
        base_url=house.url, cookies=cookies, headers={name: value.replace("SELF", house.url) for name, value in headers.items()}
    )
    with forger:
        assert forger.get(ME).status_code == 200, "reading is safe: another site does not see the answer"
        for send in (lambda: forger.delete(OTHERS), lambda: forger.post("/api/v1/auth/refresh")):
            answer = send()
            assert answer.status_code == (200 if allowed else 403), answer.text


def test_other_sites_cannot_log_a_browser_in(house: House) -> None:
    body = {"name": "user", "password": PASSWORD, "cookie": True}
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert house.client(**headers).post("/api/v1/auth/login", json=body).status_code == 403
    form = house.client().post("/api/v1/auth/login", data={"name": "user", "password": PASSWORD})
    assert form.status_code == 422, "a plain form, which needs no permission, is not JSON"


def test_a_program_needs_no_origin_and_its_header_never_lets_a_cookie_through(house: House) -> None:
    assert house.as_user("user").delete(OTHERS).status_code == 200
    cookies = dict(house.as_page("owner").cookies)
    for header in ("Bearer nonsense", "Basic dTpw", "x"):
        with httpx.Client(base_url=house.url, cookies=cookies, headers={"Authorization": header, "Sec-Fetch-Site": "cross-site"}) as forger:
            assert forger.delete(OTHERS).status_code == 401


def test_no_other_origin_is_given_leave_to_read(house: House) -> None:
    answer = house.client(Origin="http://evil.example").request(
        "OPTIONS", ME, headers={"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    )
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("path", [ME, "/", "/api/v1/health", "/api/v1/nothing", "/assets/nothing.js"])
def test_every_answer_has_the_security_headers(house: House, path: str) -> None:
    headers = house.client().get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["script-src"] == policy["default-src"] == "'self'" and policy["frame-ancestors"] == policy["object-src"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin" and "Strict-Transport-Security" not in headers and "Server" not in headers
    if path == ME:
        assert headers["Cache-Control"] == "no-store"


def test_behind_tls_there_are_hsts_and_secure_cookies(start: Start) -> None:
    house = start(proxy="127.0.0.1")
    house.add("anna")
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9", "Host": "desk.example", "Origin": "https://desk.example"}
    answer = house.client(**forwarded).post("/api/v1/auth/login", json={"name": "anna", "password": PASSWORD, "cookie": True})
    assert answer.status_code == 200 and answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    cookies = answer.headers.get_list("set-cookie")
    assert {cookie.split("=")[0] for cookie in cookies} == {"__Host-perpflow_access", "__Secure-perpflow_refresh"}
    assert all("Secure" in cookie for cookie in cookies)
    assert [row["address"] for row in house.audit()] == ["203.0.113.9"], "the client's address, as the named proxy reports it"


def test_without_a_proxy_a_forwarded_address_is_not_believed(house: House) -> None:
    house.client(**{"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}).post(
        "/api/v1/auth/login", json={"name": "user", "password": PASSWORD}
    )
    assert [row["address"] for row in house.audit()] == ["127.0.0.1"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8700", "localhost.evil.example", "127.0.0.1.evil.example", "[::", "10.0.0.1"]
)
def test_on_loopback_the_console_has_no_other_name(house: House, host: str) -> None:
    assert house.client(Host=host).get("/api/v1/health").status_code == 421


def test_published_on_loopback_it_has_no_other_name_and_asks_for_a_login(start: Start) -> None:
    house = start(host="0.0.0.0", published="127.0.0.1")
    assert house.client(Host="console:8700").get("/api/v1/health").status_code == 421
    client = house.client()
    assert client.get("/api/v1/health").status_code == 200
    assert client.get("/api/v1/instruments").status_code == 401, "others of the container's network could read"
    house.add("anna")
    answer = client.post("/api/v1/auth/login", json={"name": "anna", "password": PASSWORD, "cookie": True})
    assert answer.status_code == 200 and not any("Secure" in cookie for cookie in answer.headers.get_list("set-cookie"))


def test_a_huge_body_is_refused_before_it_is_read(house: House) -> None:
    client = house.client()
    answer = client.post("/api/v1/auth/login", content=b"x" * (MOST_BODY + 1), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413 and answer.json()["status"] == 413 and "X-Frame-Options" in answer.headers

    def chunks() -> Any:
        for _ in range(40):
            yield b" " * 32_768

    answer = client.post("/api/v1/auth/login", content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    # A length that is announced is refused without waiting for the body.
    parts = urlsplit(house.url)
    with socket.create_connection(("127.0.0.1", parts.port or 0), 5) as raw:
        raw.sendall(
            b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 999999999999\r\n\r\n{"
        )
        assert b" 413 " in raw.recv(4096)
    assert client.get("/api/v1/health").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"\x00", b"[" * 200_000, b'{"name":' * 50_000, b"{}",
        b'{"name": 1, "password": 2}', b'{"name": null, "password": null}', b'{"name": {"$ne": ""}, "password": {"$ne": ""}}',
        b'{"name": "user", "password": "x", "unknown": 1}', b'{"name": "\\ud800", "password": "\\udfff"}',
        b'{"name": "user", "password": "' + b"x" * 2_000 + b'"}', b'{"name": "' + b"x" * 2_000 + b'", "password": "x"}',
        b'{"name": "user", "password": "x", "totp": 123456}', b'{"name": "user", "password": "x", "cookie": "perhaps"}',
        b'{"name": NaN, "password": Infinity}', b'{"name": ' + b"9" * 5_000 + b', "password": "x"}',
    ],
    ids=lambda body: repr(body[:30]),
)  # fmt: skip
def test_a_malformed_body_is_a_problem_of_the_client(house: House, body: bytes) -> None:
    for path in ("login", "register", "refresh"):
        answer = house.client().post(f"/api/v1/auth/{path}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 401, 422), (path, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json" and answer.json()["detail"]


INJECTED = (
    "'; DROP TABLE console_users; --",
    "' OR '1'='1",
    "\\'; SELECT pg_sleep(5) --",
    "%s %(name)s {0} $1 :name",
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "../../etc/passwd\x00.html",
    "\x00\x01\x1b[31m\r\nSet-Cookie: a=b",
    "{{7*7}}${7*7}#{7*7}",
    "‮\U0001f600é",
)  # fmt: skip


def test_text_stays_text_in_every_field(house: House) -> None:
    """No field of any request is run by the database or a page: users are as before, nothing is a server error, HTML is never answered."""
    before = house.sql("SELECT * FROM console_users ORDER BY user_id")
    owner = house.as_user("owner")
    for text in INJECTED:
        visitor = house.client(
            **{
                "User-Agent": text.encode("ascii", "ignore")
                .decode()
                .replace("\x00", "")
                .replace("\r\n", "")
                .replace("\x01", "")
                .replace("\x1b", "")
            }
        )
        posts: list[tuple[str, dict[str, Any]]] = [
            ("auth/login", {"name": text, "password": PASSWORD}),
            ("auth/login", {"name": "user", "password": text, "totp": text[:16]}),
            ("auth/register", {"name": text, "password": PASSWORD, "invitation": "AAAAAAAA"}),
            ("auth/register", {"name": "gina", "password": PASSWORD, "invitation": text}),
            ("auth/register", {"name": "gina", "password": PASSWORD, "invitation": "AAAAAAAA", "email": text}),
            ("auth/refresh", {"refresh_token": text}),
            ("auth/password", {"current": text, "new": text + PASSWORD}),
            ("auth/totp", {"password": text}),
            ("auth/totp/confirm", {"code": text[:16]}),
            ("admin/invitations", {"role": text}),
        ]
        answers = [visitor.post(f"/api/v1/{path}", json=body) for path, body in posts]
        answers += [owner.post(f"/api/v1/{path}", json=body) for path, body in posts[5:]]
        answers.append(owner.request("DELETE", f"/api/v1/admin/invitations/{httpx.QueryParams({'a': text})}"))
        for name in ("cursor", "user", "action", "start", "end", "limit"):
            answers.append(owner.get("/api/v1/admin/audit", params={name: text}))
        answers.append(owner.get("/api/v1/admin/users", params={"cursor": text}))
        answers.append(owner.get("/api/v1/admin/invitations", params={"cursor": f"1-{text}"}))
        for answer in answers:
            assert answer.status_code < 500, (text, answer.request.url, answer.text)
            assert answer.headers["Content-Type"] in ("application/json", "application/problem+json"), (text, answer.request.url)
            assert "set-cookie" not in answer.headers
        house.context.auth.limits.__init__()  # type: ignore[misc]  # the limits are another test's
    after = house.sql("SELECT * FROM console_users ORDER BY user_id")
    assert after == before


def test_an_unexpected_error_has_the_headers_and_no_detail(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*given: Any) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(market, "pulse", broken)
    with capture_logs() as logged:
        answer = house.as_user("viewer").get("/api/v1/pulse")
    assert [line["path"] for line in logged if line["event"] == "unexpected error"] == ["/api/v1/pulse"]
    assert answer.status_code == 500 and answer.headers["content-type"] == "application/problem+json"
    assert "hunter2" not in answer.text
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
