"""Tokens: forged, expired, stolen, raced; sessions that end; what a restart keeps."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid

import httpx
import jwt
import pytest

from sinks.console.auth.sessions import RACE_S
from tests.sinks.console.auth.conftest import PASSWORD, House, Start

pytestmark = pytest.mark.stack


def refresh(house: House, token: str) -> httpx.Response:
    return house.client().post("/api/v1/auth/refresh", json={"refresh_token": token})


def me(house: House, token: str) -> httpx.Response:
    return house.client(Authorization=f"Bearer {token}").get("/api/v1/auth/me")


def test_a_login_answers_with_the_user_and_a_pair_of_tokens(house: House) -> None:
    tokens = house.login("operator")
    assert (tokens["token_type"], tokens["expires_in"], tokens["user"]["name"], tokens["user"]["role"]) == (
        "bearer", 900, "operator", "operator",
    )  # fmt: skip
    found = me(house, tokens["access_token"]).json()
    assert found["name"] == "operator" and found["created_at"].endswith("Z") and found["created_at_ms"] > 1.7e12
    (row,) = house.sql("SELECT * FROM console_sessions")
    kept = str(row)
    assert tokens["refresh_token"] not in kept and len(row["refresh_hash"]) == 32


def test_of_a_hundred_refreshes_at_once_exactly_one_wins(house: House) -> None:
    tokens = house.login("user")

    async def race() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=house.url, timeout=30, limits=limits) as client:
            body = {"refresh_token": tokens["refresh_token"]}
            return await asyncio.gather(*(client.post("/api/v1/auth/refresh", json=body) for _ in range(100)))

    answers = asyncio.run(race())
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 99
    (winner,) = [answer.json() for answer in answers if answer.status_code == 200]
    # Nobody was logged out by the race.
    assert me(house, winner["access_token"]).status_code == 200
    assert refresh(house, winner["refresh_token"]).status_code == 200


def test_an_old_refresh_token_is_a_theft_and_ends_the_session(house: House) -> None:
    first = house.login("user")
    second = refresh(house, first["refresh_token"]).json()
    # Within seconds it is a race of two tabs.
    assert refresh(house, first["refresh_token"]).status_code == 409
    house.sql("UPDATE console_sessions SET rotated_at = rotated_at - %s * interval '1 s'", RACE_S + 1)
    assert refresh(house, first["refresh_token"]).status_code == 401
    # Neither the thief nor the user goes on: one of the two must log in again.
    assert refresh(house, second["refresh_token"]).status_code == 401
    house.context.auth.forget(second["user"]["id"])
    assert me(house, second["access_token"]).status_code == 401
    assert [row["action"] for row in house.audit()] == ["user.login", "session.theft"]


def test_a_token_of_two_refreshes_ago_is_a_theft_even_at_once(house: House) -> None:
    first = house.login("user")
    second = refresh(house, first["refresh_token"]).json()
    third = refresh(house, second["refresh_token"]).json()
    assert refresh(house, first["refresh_token"]).status_code == 401
    assert refresh(house, third["refresh_token"]).status_code == 401


def test_a_theft_ends_one_session_only(house: House) -> None:
    phone, desk = house.login("user"), house.login("user")
    newer = refresh(house, phone["refresh_token"]).json()
    refresh(house, newer["refresh_token"])
    assert refresh(house, phone["refresh_token"]).status_code == 401
    assert refresh(house, desk["refresh_token"]).status_code == 200


def test_a_session_ends_by_logout_and_by_the_user_from_elsewhere(house: House) -> None:
    phone, desk = house.login("user"), house.login("user")
    at_desk = house.client(Authorization=f"Bearer {desk['access_token']}")
    listed = at_desk.get("/api/v1/auth/sessions").json()["records"]
    assert [one["current"] for one in listed].count(True) == 1 and len(listed) == 2
    (other,) = [one["id"] for one in listed if not one["current"]]
    assert at_desk.delete(f"/api/v1/auth/sessions/{uuid.uuid4()}").status_code == 404
    assert at_desk.delete(f"/api/v1/auth/sessions/{other}").status_code == 200
    assert me(house, phone["access_token"]).status_code == 401
    assert refresh(house, phone["refresh_token"]).status_code == 401
    assert at_desk.post("/api/v1/auth/logout").json() == {"ok": True}
    assert me(house, desk["access_token"]).status_code == 401
    assert refresh(house, desk["refresh_token"]).status_code == 401


def test_nobody_ends_the_session_of_another_user(house: House) -> None:
    victim = house.login("owner")
    (session,) = house.sql("SELECT session_id FROM console_sessions")
    assert house.as_user("user").delete(f"/api/v1/auth/sessions/{session['session_id']}").status_code == 404
    assert refresh(house, victim["refresh_token"]).status_code == 200


def test_an_expired_session_is_over_for_both_tokens(house: House) -> None:
    tokens = house.login("user")
    house.sql("UPDATE console_sessions SET expires_at = now()")
    assert me(house, tokens["access_token"]).status_code == 401
    assert refresh(house, tokens["refresh_token"]).status_code == 401


def forged(house: House) -> dict[str, str]:
    """Tokens that nobody with the secret made, or not for this use."""
    tokens = house.login("owner")
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    secret = bytes(house.sql("SELECT secret FROM console_secret")[0]["secret"])
    head, body, signature = tokens["access_token"].split(".")

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return {
        "alg none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        "alg None, with a signature": f"{part({'alg': 'None', 'typ': 'JWT'})}.{body}.{signature}",
        "alg HS512": jwt.encode(claims, secret * 2, "HS512"),
        "other key": jwt.encode(claims, b"k" * 32, "HS256"),
        "empty key": f"{head}.{body}.{part('')}",
        "higher role, old signature": f"{head}.{part({**claims, 'sub': '1', 'role': 'owner'})}.{signature}",
        "expired": jwt.encode({**claims, "iat": int(time.time()) - 1000, "exp": int(time.time()) - 1}, secret, "HS256"),
        "no expiry": jwt.encode({name: value for name, value in claims.items() if name != "exp"}, secret, "HS256"),
        "no audience": jwt.encode({name: value for name, value in claims.items() if name != "aud"}, secret, "HS256"),
        "session of nobody": jwt.encode({**claims, "sid": str(uuid.uuid4())}, secret, "HS256"),
        "session is no uuid": jwt.encode({**claims, "sid": "1 OR 1=1"}, secret, "HS256"),
        "session of another user": jwt.encode({**claims, "sub": str(int(claims["sub"]) - 1)}, secret, "HS256"),
        "refresh token as access token": tokens["refresh_token"],
        "not a token": "x.y.z",
        "dots": "....",
        "long": "a" * 20_000,
    }


def test_forged_tokens_are_refused(house: House) -> None:
    for kind, token in forged(house).items():
        answer = me(house, token)
        assert answer.status_code == 401, kind
        assert answer.headers["WWW-Authenticate"] == "Bearer" and answer.json()["status"] == 401, kind
        assert house.client(Authorization=f"Bearer {token}").get("/api/v1/admin/users").status_code == 401, kind
    access = house.login("owner")["access_token"]
    assert refresh(house, access).status_code == 401, "an access token is no refresh token"
    for header in (access, f"Basic {access}", "Bearer", f"Token {access}"):
        assert house.client(Authorization=header).get("/api/v1/auth/me").status_code == 401, header[:8]


def test_claims_do_not_give_a_role_that_the_database_took(house: House) -> None:
    """The secret signs the old role until the token expires; the database decides all the same."""
    client = house.as_user("admin")
    assert client.get("/api/v1/admin/users").status_code == 200
    house.sql("UPDATE console_users SET role = 'viewer' WHERE name = 'admin'")
    answer = client.get("/api/v1/admin/users")
    assert answer.status_code == 403 and "admin is viewer" in answer.json()["detail"]


def test_a_ban_counts_at_once_for_commands_and_within_seconds_for_reads(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = house.login("operator")
    client = house.client(Authorization=f"Bearer {tokens['access_token']}")
    assert client.get("/api/v1/auth/me").status_code == 200
    house.sql("UPDATE console_users SET banned = true WHERE name = 'operator'")  # another process did it
    assert client.delete("/api/v1/auth/sessions").status_code == 401
    assert client.get("/api/v1/auth/me").status_code == 401  # the command made it known here
    assert refresh(house, tokens["refresh_token"]).status_code == 401
    answer = house.client().post("/api/v1/auth/login", json={"name": "operator", "password": PASSWORD})
    assert (answer.status_code, answer.json()["detail"]) == (403, "this user is banned")
    wrong = house.client().post("/api/v1/auth/login", json={"name": "operator", "password": PASSWORD + "!"})
    assert wrong.status_code == 401, "who does not know the password does not learn of the ban"


def test_a_restart_logs_nobody_out(house: House, start: Start) -> None:
    tokens = house.login("user")
    again = start()
    assert me(again, tokens["access_token"]).status_code == 200
    assert refresh(again, tokens["refresh_token"]).status_code == 200
    assert len(house.sql("SELECT * FROM console_secret")) == 1


def test_another_secret_in_the_environment_ends_all_tokens(house: House, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = house.login("user")
    monkeypatch.setenv("PERPFLOW_CONSOLE_SECRET", "s" * 40)
    again = start()
    assert me(again, tokens["access_token"]).status_code == 401
    assert refresh(again, tokens["refresh_token"]).status_code == 401
    assert me(again, again.login("user")["access_token"]).status_code == 200


def test_a_new_password_ends_the_other_sessions(house: House) -> None:
    here, there = house.login("user"), house.login("user")
    client = house.client(Authorization=f"Bearer {here['access_token']}")
    body = {"current": PASSWORD, "new": "another long password"}
    assert client.post("/api/v1/auth/password", json={**body, "current": "not the password"}).status_code == 403
    assert client.post("/api/v1/auth/password", json={**body, "new": "short"}).status_code == 422
    assert client.post("/api/v1/auth/password", json=body).status_code == 200
    assert client.get("/api/v1/auth/me").status_code == 200
    assert me(house, there["access_token"]).status_code == 401
    assert house.client().post("/api/v1/auth/login", json={"name": "user", "password": PASSWORD}).status_code == 401
    house.login("user", "another long password")
