"""Where the console may listen, its secret, its command line: what needs no browser."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import UserError
from sinks.console.auth.credentials import passwords
from sinks.console.auth.credentials.signing import given_secret
from sinks.console.auth.limits import network
from sinks.console.auth.roles import ROLES, manages
from sinks.console.http.listening import check_listening
from sinks.console.options import ConsoleOptions
from tests.sinks.console.auth.conftest import House, Start
from tests.support.paths import ROOT

TLS = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}


@pytest.mark.parametrize(
    ("options", "users", "reason"),
    [
        ({}, 0, None),
        ({"host": "localhost"}, 0, None),
        ({"host": "::1"}, 0, None),
        ({"host": "127.0.0.1"}, 3, None),
        ({"host": "0.0.0.0"}, 0, "no users"),
        ({"host": "0.0.0.0", **TLS}, 0, "no users"),
        ({"host": "::", **TLS}, 0, "no users"),
        ({"host": "10.0.0.1"}, 1, "unencrypted"),
        ({"host": "0.0.0.0"}, 1, "unencrypted"),
        ({"host": ""}, 1, "unencrypted"),
        ({"host": "desk.example"}, 1, "unencrypted"),
        ({"host": "0.0.0.0", **TLS}, 1, None),
        ({"host": "0.0.0.0", "proxy": "10.0.0.2"}, 1, None),
        ({"host": "0.0.0.0", "proxy": "10.0.0.2,10.1.0.0/16"}, 1, None),
        ({"host": "0.0.0.0", "published": "127.0.0.1"}, 0, "no users"),
        ({"host": "0.0.0.0", "published": "127.0.0.1"}, 1, None),
        ({"host": "0.0.0.0", "published": "::1"}, 1, None),
        ({"host": "0.0.0.0", "published": "0.0.0.0"}, 1, "--published"),
        ({"host": "0.0.0.0", "published": "10.0.0.1"}, 1, "--published"),
        ({"host": "127.0.0.1", "published": "127.0.0.1"}, 1, "--published"),
        ({"proxy": "127.0.0.1"}, 0, "no users"),
        ({"proxy": "127.0.0.1"}, 1, None),
        ({"proxy": "*"}, 1, "--proxy"),
        ({"proxy": "proxy.example"}, 1, "--proxy"),
    ],
)
def test_others_reach_the_console_only_with_users_and_tls(options: dict[str, Any], users: int, reason: str | None) -> None:
    if reason is None:
        check_listening(ConsoleOptions(**options), users)
        return
    with pytest.raises(UserError, match=reason):
        check_listening(ConsoleOptions(**options), users)


def test_the_secret_comes_from_the_environment_or_a_file_and_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PERPFLOW_CONSOLE_SECRET", raising=False)
    monkeypatch.delenv("PERPFLOW_CONSOLE_SECRET_FILE", raising=False)
    assert given_secret() is None
    (tmp_path / "secret").write_text("f" * 40 + "\n")
    monkeypatch.setenv("PERPFLOW_CONSOLE_SECRET_FILE", str(tmp_path / "secret"))
    assert given_secret() == b"f" * 40
    monkeypatch.setenv("PERPFLOW_CONSOLE_SECRET", "e" * 32)
    assert given_secret() == b"e" * 32
    monkeypatch.setenv("PERPFLOW_CONSOLE_SECRET", "tooshortsecret")
    with pytest.raises(UserError, match="at least 32") as caught:
        given_secret()
    assert "tooshort" not in str(caught.value)
    monkeypatch.delenv("PERPFLOW_CONSOLE_SECRET")
    for content in (None, b"\xff" * 40, b""):
        path = tmp_path / "other"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        monkeypatch.setenv("PERPFLOW_CONSOLE_SECRET_FILE", str(path))
        with pytest.raises(UserError, match="PERPFLOW_CONSOLE_SECRET_FILE"):
            given_secret()


def test_a_password_is_argon2id_and_an_old_hash_is_noticed() -> None:
    from argon2 import PasswordHasher

    stored = asyncio.run(passwords.hashed("a password of some length"))
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PasswordHasher().verify(stored, "a password of some length")
    assert asyncio.run(passwords.matches(stored, "a password of some length"))
    for wrong in ("a password of some lengtH", "", "\0", "a password of some length "):
        assert not asyncio.run(passwords.matches(stored, wrong))
    assert not asyncio.run(passwords.matches(None, "no user has this password"))
    assert not asyncio.run(passwords.matches("not a hash", "x"))
    assert not passwords.outdated(stored)
    assert passwords.outdated(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("x"))


def test_an_admin_manages_lower_roles_and_an_owner_all() -> None:
    assert [role for role in ROLES if manages("owner", role)] == list(ROLES)
    assert [role for role in ROLES if manages("admin", role)] == ["guest", "viewer", "user", "operator"]
    assert not [(actor, role) for actor in ("guest", "viewer", "user", "operator") for role in ROLES if manages(actor, role)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_a_subscriber_cannot_change_its_address(address: str, expected: str) -> None:
    assert network(address) == expected


def run(house: House, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli", "console-users", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DATABASE_URL": house.database_url}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, timeout=60, check=False)


@pytest.mark.stack
def test_the_command_line_manages_users(start: Start, tmp_path: Path) -> None:
    house = start()
    password = "words of a password"
    added = run(house, "add", "Anna", "--role", "owner", "--password-file", "-", stdin=f"{password}\n")
    assert (added.returncode, added.stdout) == (0, "added anna, owner\n"), added.stderr
    (tmp_path / "password").write_text(f"{password}\nanother line\n")
    kept = run(house, "add", "anna", "--role", "viewer", "--missing", "--password-file", "-", stdin=f"{password} again\n")
    assert kept.returncode == 0 and "is there already" in kept.stdout  # below she is still owner
    assert run(house, "add", "ben", "--email", "Ben@Example.com", "--password-file", str(tmp_path / "password")).returncode == 0
    for arguments, stdin, reason in (
        (("add", "anna", "--password-file", "-"), password, "another user has this name"),
        (("add", "x y", "--password-file", "-"), password, "name: expected"),
        (("add", "carl", "--password-file", "-"), "short", "password: at least 12"),
        (("add", "carl", "--password-file", str(tmp_path / "nothing")), "", "FileNotFoundError"),
        (("add", "carl"), password, "no terminal"),
        (("add", "carl", "--role", "king", "--password-file", "-"), password, "--role: expected one of"),
        (("ban", "nobody"), "", "no user 'nobody'"),
        (("ban", "anna"), "", "anna is the last owner"),
        (("role", "anna", "admin"), "", "anna is the last owner"),
        (("disable-invitation", "AAAAAAAA"), "", "no such invitation"),
    ):
        answer = run(house, *arguments, stdin=stdin)
        assert answer.returncode == 1 and answer.stderr.startswith("perpflow: ") and reason in answer.stderr, (arguments, answer.stderr)
        assert password not in answer.stderr
    client = house.as_user("ben", password=password)
    assert run(house, "ban", "ben").stdout == "ben is banned\n"
    assert client.delete("/api/v1/auth/sessions").status_code == 401
    assert run(house, "unban", "ben").returncode == 0
    assert run(house, "role", "ben", "operator").stdout == "ben is operator\n"
    house.login("ben", password)
    assert run(house, "reset-password", "ben", "--remove-totp", "--password-file", "-", stdin="quite another password").returncode == 0
    house.login("ben", "quite another password")
    code = run(house, "invite", "--role", "user", "--uses", "2", "--days", "0").stdout.strip()
    body = {"name": "carl", "password": password, "invitation": code}
    assert house.client().post("/api/v1/auth/register", json=body).status_code == 201
    shown = run(house, "invitations").stdout
    assert code in shown and "1 of 2" in shown and "active" in shown and "never" in shown
    assert run(house, "disable-invitation", code.lower()).stdout == "disabled\n"
    assert house.client().post("/api/v1/auth/register", json={**body, "name": "dora"}).status_code == 400
    listed = run(house, "list").stdout
    assert "ben@example.com" in listed and all(name in listed for name in ("anna", "ben", "carl", "operator", "owner"))
    rows = [row for row in house.audit() if row["address"] == "command line"]
    assert [row["action"] for row in rows] == [
        "user.create", "user.create", "user.ban", "user.unban", "user.role", "user.reset", "invitation.create", "invitation.disable",
    ]  # fmt: skip
    assert all(row["outcome"] == "done" and row["user_name"] for row in rows)
    assert password not in str(house.audit()) and code not in str(house.audit())


@pytest.mark.stack
def test_the_command_line_says_that_the_database_is_not_migrated(environment: Any) -> None:
    answer = run(House("", environment.database_url, None), "list")  # type: ignore[arg-type]
    assert answer.returncode == 1 and "perpflow db migrate" in answer.stderr
