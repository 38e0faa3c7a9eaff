"""Who may call what: every endpoint of login and administration, every role; what admins may do to whom."""

from __future__ import annotations

from typing import Any

import pytest

from sinks.console.auth.roles import ROLES, at_least, manages
from tests.sinks.console.auth.conftest import PASSWORD, House, Start

pytestmark = pytest.mark.stack
A, B = "/api/v1/auth", "/api/v1/admin"
# Method, path, body, the role it needs. Bodies are valid, so that a 422 cannot hide a missing check.
ENDPOINTS: list[tuple[str, str, dict[str, Any] | None, str]] = [
    ("GET", f"{A}/me", None, "viewer"),
    ("GET", f"{A}/sessions", None, "viewer"),
    ("DELETE", f"{A}/sessions", None, "viewer"),
    ("DELETE", f"{A}/sessions/{{session}}", None, "viewer"),
    ("POST", f"{A}/password", {"current": "not the password", "new": "a new long password"}, "viewer"),
    ("POST", f"{A}/totp", {"password": "not the password"}, "viewer"),
    ("POST", f"{A}/totp/confirm", {"code": "000000"}, "viewer"),
    ("POST", f"{A}/totp/remove", {"password": "not the password", "code": "000000"}, "viewer"),
    ("GET", f"{B}/users", None, "admin"),
    ("PUT", f"{B}/users/{{user_id}}/ban", {"banned": False}, "admin"),
    ("PUT", f"{B}/users/{{user_id}}/role", {"role": "viewer"}, "admin"),
    ("POST", f"{B}/users/{{user_id}}/reset", None, "admin"),
    ("GET", f"{B}/invitations", None, "admin"),
    ("POST", f"{B}/invitations", {"role": "user"}, "admin"),
    ("DELETE", f"{B}/invitations/{{code}}", None, "admin"),
    ("GET", f"{B}/audit", None, "admin"),
]
PUBLIC = {("POST", f"{A}/{name}") for name in ("register", "login", "refresh", "logout")}
VALUES = {"session": "00000000-0000-4000-8000-000000000000", "user_id": "999999", "code": "AAAAAAAA"}
# These answer 403 to a wrong password too; what tells the two apart is the text.
PASSWORD_IS_WRONG = ("the password is wrong",)


def test_the_table_names_every_endpoint(house: House) -> None:
    document = house.client().get("/api/v1/openapi.json").json()
    found = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if path.startswith((f"{A}/", f"{B}/"))
    }  # fmt: skip
    assert found == {(method, path) for method, path, _, _ in ENDPOINTS} | PUBLIC


@pytest.mark.parametrize("role", ROLES)
def test_every_endpoint_knows_every_role(house: House, role: str) -> None:
    client = house.client() if role == "guest" else house.as_user(role)
    for method, path, body, needed in ENDPOINTS:
        answer = client.request(method, path.format(**VALUES), json=body)
        if role == "guest":
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer", (method, path)
        elif not at_least(role, needed):  # type: ignore[arg-type]
            assert answer.status_code == 403 and f"needs the role {needed}" in answer.json()["detail"], (method, path)
        else:
            refused = answer.status_code == 403 and answer.json()["detail"] not in PASSWORD_IS_WRONG
            assert answer.status_code != 401 and not refused, (method, path, answer.text)
    if role in ("viewer", "user", "operator"):
        assert house.sql("SELECT code FROM console_invitations") == []


def test_an_open_console_is_read_only_until_it_has_a_user(start: Start) -> None:
    house = start()
    client = house.client()
    found = client.get(f"{A}/me").json()
    assert (found["id"], found["name"], found["role"], found["anonymous"]) == (None, "anonymous", "viewer", True)
    for method, path, body, needed in ENDPOINTS:
        if path == f"{A}/me":
            continue
        answer = client.request(method, path.format(**VALUES), json=body)
        assert answer.status_code == (401 if needed == "admin" else 403), (method, path, answer.text)
    stale = house.client(Authorization="Bearer of.an.older.database")
    assert stale.get(f"{A}/me").status_code == 200
    house.add("anna", "owner")
    house.context.auth._asked_users = float("-inf")  # a second later
    assert client.get(f"{A}/me").status_code == stale.get(f"{A}/me").status_code == 401
    assert house.as_user("anna").get(f"{A}/me").json()["anonymous"] is False


def test_a_console_behind_a_proxy_is_never_open(start: Start) -> None:
    assert start(proxy="10.0.0.2").client().get(f"{A}/me").status_code == 401


def id_of(house: House, name: str) -> int:
    return int(house.sql("SELECT user_id FROM console_users WHERE name = %s", name)[0]["user_id"])


def test_who_changes_whom(house: House) -> None:
    for role in ("viewer", "user", "operator", "admin", "owner"):
        house.add(f"other-{role}", role)
    for actor in ("admin", "owner"):
        client = house.as_user(actor)
        for target in ("viewer", "user", "operator", "admin", "owner"):
            path = f"{B}/users/{id_of(house, f'other-{target}')}"
            expected = 200 if manages(actor, target) else 403  # type: ignore[arg-type]
            assert expected == (200 if actor == "owner" or target in ("viewer", "user", "operator") else 403)
            assert client.put(f"{path}/ban", json={"banned": True}).status_code == expected, (actor, target)
            assert client.put(f"{path}/ban", json={"banned": False}).status_code == expected, (actor, target)
            assert client.post(f"{path}/reset").status_code == expected, (actor, target)
            assert client.put(f"{path}/role", json={"role": target}).status_code == expected, (actor, target)
        own = f"{B}/users/{id_of(house, actor)}"
        assert client.put(f"{own}/role", json={"role": "owner"}).status_code == 409
        assert client.put(f"{own}/ban", json={"banned": True}).status_code == 409
    admin = house.as_user("admin")
    viewer = f"{B}/users/{id_of(house, 'viewer')}"
    for role in ("admin", "owner"):
        assert admin.put(f"{viewer}/role", json={"role": role}).status_code == 403
    assert admin.post(f"{B}/invitations", json={"role": "admin"}).status_code == 403
    assert admin.post(f"{B}/invitations", json={"role": "owner"}).status_code == 422
    assert house.as_user("owner").post(f"{B}/invitations", json={"role": "owner"}).status_code == 422
    assert admin.put(f"{B}/users/999999/ban", json={"banned": True}).status_code == 404


def test_a_ban_ends_sessions_and_a_reset_gives_a_password_once(house: House) -> None:
    owner, user = house.as_user("owner"), house.as_user("user")
    path = f"{B}/users/{id_of(house, 'user')}"
    assert user.get(f"{A}/me").status_code == 200
    assert owner.put(f"{path}/ban", json={"banned": True}).json()["banned"] is True
    assert user.get(f"{A}/me").status_code == 401, "at once: this process banned"
    owner.put(f"{path}/ban", json={"banned": False})
    assert user.get(f"{A}/me").status_code == 401, "an ended session stays ended"
    again = house.as_user("user")
    password = owner.post(f"{path}/reset").json()["password"]
    assert again.get(f"{A}/me").status_code == 401
    assert house.client().post(f"{A}/login", json={"name": "user", "password": PASSWORD}).status_code == 401
    house.login("user", password)


def test_a_new_role_holds_at_once(house: House) -> None:
    user = house.as_user("user")
    assert user.get(f"{B}/users").status_code == 403
    house.as_user("owner").put(f"{B}/users/{id_of(house, 'user')}/role", json={"role": "admin"})
    assert user.get(f"{B}/users").status_code == 200


def test_one_owner_is_always_left(house: House) -> None:
    house.add("second", "owner")
    second = house.as_user("second")
    assert second.put(f"{B}/users/{id_of(house, 'owner')}/role", json={"role": "admin"}).status_code == 200
    house.sql("UPDATE console_users SET role = 'owner', banned = true WHERE name = 'owner'")
    # A banned owner does not count, and the only other one cannot change itself.
    assert second.put(f"{B}/users/{id_of(house, 'second')}/role", json={"role": "admin"}).status_code == 409


def test_the_audit_log_tells_who_what_from_where_and_what_changed(house: House) -> None:
    admin = house.as_user("admin")
    path = f"{B}/users/{id_of(house, 'user')}"
    admin.put(f"{path}/role", json={"role": "operator"})
    admin.put(f"{path}/role", json={"role": "owner"})
    rows = house.as_user("owner").get(f"{B}/audit", params={"action": "user.role"}).json()["records"]
    assert [(row["user"], row["target"], row["before"], row["after"], row["address"]) for row in rows] == [
        ("admin", "user", {"role": "operator"}, {"role": "owner"}, "127.0.0.1"),
        ("admin", "user", {"role": "user"}, {"role": "operator"}, "127.0.0.1"),
    ]
    assert rows[1]["outcome"] == "done" and rows[0]["outcome"].startswith("refused: 403")
    assert house.sql("SELECT role FROM console_users WHERE name = 'user'") == [{"role": "operator"}]


def test_pages_hold_every_row_once(house: House) -> None:
    owner = house.as_user("owner")
    for _ in range(23):
        owner.post(f"{B}/invitations", json={"role": "viewer", "days": None})
    house.sql("UPDATE console_invitations SET created_at = now()")  # one time for all: the code makes the order total
    for name, key in (("audit", "id"), ("invitations", "code"), ("users", "id")):
        seen: list[Any] = []
        cursor = None
        while True:
            page = owner.get(f"{B}/{name}", params={"limit": 4, **({"cursor": cursor} if cursor else {})}).json()
            seen += [row[key] for row in page["records"]]
            cursor = page["next"]
            if cursor is None:
                break
        (count,) = house.sql(f"SELECT count(*) AS n FROM console_{name}")
        assert len(seen) == len(set(seen)) == count["n"] and (name == "users" or count["n"] >= 23), name
    assert owner.get(f"{B}/audit", params={"cursor": "x"}).status_code == 422
    subject = owner.get(f"{B}/audit", params={"action": "invitation", "limit": 500}).json()["records"]
    assert len(subject) == 23
    assert owner.get(f"{B}/audit", params={"end": "2001-01-01T00:00:00Z"}).json()["records"] == []
    assert len(owner.get(f"{B}/audit", params={"start": "2001-01-01T00:00:00Z", "user": "owner"}).json()["records"]) >= 23
