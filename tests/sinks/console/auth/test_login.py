"""Lock-out, the second factor, invitations, what a login tells and does not tell."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pyotp
import pytest
import structlog

from sinks.console.auth.credentials import totp
from tests.sinks.console.auth.conftest import PASSWORD, House

pytestmark = pytest.mark.stack
LOGIN = "/api/v1/auth/login"


def attempt(house: House, name: str, password: str = "wrong password", **more: str) -> httpx.Response:
    return house.client().post(LOGIN, json={"name": name, "password": password, **more})


def at_once(house: House, path: str, bodies: list[dict[str, object]]) -> list[int]:
    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=house.url, timeout=60) as client:
            return await asyncio.gather(*(client.post(path, json=body) for body in bodies))

    return sorted(answer.status_code for answer in asyncio.run(run()))


def test_five_failures_lock_the_name_even_for_the_right_password(house: House) -> None:
    assert [attempt(house, "user").status_code for _ in range(5)] == [401] * 5
    answer = attempt(house, "user", PASSWORD)
    assert answer.status_code == 429 and 840 < int(answer.headers["Retry-After"]) <= 900
    assert attempt(house, "USER@example.com", PASSWORD).status_code == 401, "this user has no such address"
    house.login("viewer")  # another name is not locked
    outcomes = [row["outcome"] for row in house.audit()]
    assert outcomes[:5] == ["refused: password"] * 4 + ["refused: password; locked for 15 minutes"]
    assert outcomes.count("refused: password; locked for 15 minutes") == 1


def test_a_name_and_its_address_have_one_count(house: House) -> None:
    house.add("mail")
    assert {attempt(house, name).status_code for name in ("mail", "mail@example.com", "MAIL", " mail ", "Mail@Example.com")} == {401}
    assert attempt(house, "mail", PASSWORD).status_code == attempt(house, "mail@example.com", PASSWORD).status_code == 429


def test_guesses_in_parallel_are_five_too(house: House) -> None:
    bodies: list[dict[str, object]] = [{"name": "user", "password": f"guess number {i}"} for i in range(25)]
    statuses = at_once(house, LOGIN, bodies)
    assert statuses == [401] * 5 + [429] * 20


def test_a_success_forgets_earlier_failures(house: House) -> None:
    for _ in range(3):
        assert [attempt(house, "user").status_code for _ in range(4)] == [401] * 4
        house.login("user")


def test_an_unknown_name_is_answered_like_a_wrong_password(house: House) -> None:
    known, unknown = attempt(house, "user"), attempt(house, "nobody")
    assert known.json() == unknown.json() and known.status_code == unknown.status_code

    def seconds(name: str) -> float:
        begin = time.perf_counter()
        attempt(house, name)
        return time.perf_counter() - begin

    # Both hash once: the medians differ by less than half of a hash.
    known_s, unknown_s = (sorted(seconds(name) for name in names)[1] for names in (("user",) * 3, ("nobody",) * 3))
    assert unknown_s > 0.5 * known_s
    for _ in range(3):
        attempt(house, "nobody")
    assert attempt(house, "nobody").status_code == 429


def test_an_address_has_thirty_logins_a_minute(house: House) -> None:
    statuses = at_once(house, LOGIN, [{"name": f"nobody{i}", "password": "wrong password"} for i in range(40)])
    assert statuses == [401] * 30 + [429] * 10


def enrolled(house: House, name: str) -> tuple[httpx.Client, pyotp.TOTP]:
    client = house.as_user(name)
    assert client.post("/api/v1/auth/totp", json={"password": "wrong password"}).status_code == 403
    begun = client.post("/api/v1/auth/totp", json={"password": PASSWORD}).json()
    app = pyotp.parse_uri(begun["uri"])
    assert isinstance(app, pyotp.TOTP) and (app.secret, app.name, app.issuer) == (begun["secret"], name, "perpflow")
    assert attempt(house, name, PASSWORD).status_code == 200, "it counts from its first code on"
    assert client.post("/api/v1/auth/totp/confirm", json={"code": "000000" if app.now() != "000000" else "111111"}).status_code == 422
    # The code of the step before, so that the test may use that of this step at once.
    assert client.post("/api/v1/auth/totp/confirm", json={"code": app.at(int(time.time()) - 30)}).status_code == 200
    assert client.get("/api/v1/auth/me").json()["totp"] is True
    return client, app


def test_the_second_factor_is_asked_and_a_code_counts_once(house: House) -> None:
    client, app = enrolled(house, "user")
    answer = attempt(house, "user", PASSWORD)
    assert answer.status_code == 401 and answer.json()["totp_required"] is True
    code = app.now()
    assert attempt(house, "user", totp=code).status_code == 401, "a code does not replace the password"
    statuses = at_once(house, LOGIN, [{"name": "user", "password": PASSWORD, "totp": code}] * 3)
    assert statuses == [200, 401, 401]
    assert attempt(house, "user", PASSWORD, totp=code).status_code == 401
    assert client.post("/api/v1/auth/totp", json={"password": PASSWORD}).status_code == 409


def test_codes_cannot_be_guessed_with_the_password(house: House) -> None:
    """Asking without a code between the guesses does not give more of them."""
    _, app = enrolled(house, "user")
    right = {app.at(int(time.time()) + 30 * step) for step in range(-2, 6)}
    wrong = [code for code in (f"{i:06}" for i in range(100)) if code not in right][:6]
    statuses = []
    for code in wrong:
        statuses.append(attempt(house, "user", PASSWORD, totp=code).status_code)
        statuses.append(attempt(house, "user", PASSWORD).status_code)
    assert statuses[:5] == [401] * 5 and set(statuses[5:]) == {429}


def test_the_second_factor_is_removed_with_password_and_code(house: House) -> None:
    client, app = enrolled(house, "user")
    assert client.post("/api/v1/auth/totp/remove", json={"password": PASSWORD, "code": "abcdef"}).status_code == 403
    assert client.post("/api/v1/auth/totp/remove", json={"password": PASSWORD, "code": app.now()}).status_code == 200
    assert attempt(house, "user", PASSWORD).status_code == 200


@pytest.mark.parametrize(("shift", "right"), [(-61, False), (-30, True), (0, True), (30, True), (61, False)])
def test_a_clock_may_differ_by_a_step(shift: int, right: bool) -> None:
    secret, now = totp.generate(), 1_700_000_010.0
    found = totp.step_of(secret, pyotp.TOTP(secret).at(int(now) + shift), now)
    assert found == ((int(now) + shift) // 30 if right else None)


def test_codes_of_rfc_6238() -> None:
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # its appendix B, SHA-1, the last six digits
    for now, code in ((59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")):
        assert totp.step_of(secret, code, now) == now // 30
        assert totp.step_of(secret, f" {code[:3]} {code[3:]}", now) == now // 30
    assert totp.step_of(secret, "２８７０８２", 59) is None


def invite(house: House, **offer: object) -> str:
    answer = house.as_user("owner").post("/api/v1/admin/invitations", json=offer)
    assert answer.status_code == 201, answer.text
    code: str = answer.json()["code"]
    return code


def register(house: House, name: str, invitation: str, **more: object) -> httpx.Response:
    body = {"name": name, "password": PASSWORD, "invitation": invitation, **more}
    return house.client().post("/api/v1/auth/register", json=body)


def test_an_invitation_registers_as_many_as_it_says(house: House) -> None:
    code = invite(house, role="operator", max_uses=2)
    first = register(house, "Anna", code.lower(), email="Anna@Example.com")
    assert first.status_code == 201
    assert (first.json()["user"]["name"], first.json()["user"]["email"], first.json()["user"]["role"]) == (
        "anna",
        "anna@example.com",
        "operator",
    )
    assert register(house, "anna", code).status_code == 409
    assert register(house, "berta", code, email="anna@example.com").status_code == 409
    assert register(house, "berta", f"{code[:4]}-{code[4:]}").status_code == 201, "a refused registration used nothing up"
    assert register(house, "carla", code).status_code == 400
    listed = house.as_user("owner").get("/api/v1/admin/invitations").json()["records"]
    assert [(one["code"], one["used"], one["status"]) for one in listed] == [(code, 2, "exhausted")]
    assert len(house.sql("SELECT * FROM console_invitation_uses")) == 2


def test_of_many_registrations_at_once_one_uses_the_invitation(house: House) -> None:
    code = invite(house)
    bodies: list[dict[str, object]] = [{"name": f"racer{i}", "password": PASSWORD, "invitation": code} for i in range(10)]
    assert at_once(house, "/api/v1/auth/register", bodies) == [201] + [400] * 9
    assert len(house.sql("SELECT name FROM console_users WHERE name LIKE 'racer%'")) == 1


def test_disabled_expired_and_unknown_invitations_are_refused(house: House) -> None:
    owner = house.as_user("owner")
    disabled, expired = invite(house), invite(house)
    assert owner.delete(f"/api/v1/admin/invitations/{disabled}").status_code == 200
    assert owner.delete("/api/v1/admin/invitations/AAAAAAAA").status_code == 404
    house.sql("UPDATE console_invitations SET expires_at = now() WHERE code = %s", expired)
    for code in (disabled, expired, "AAAAAAAA", "' OR 1=1 --", "%", "________"):
        answer = register(house, "dora", code)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "body.invitation"), code


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a"), ("name", "a b"), ("name", "аdmin"), ("name", "x" * 41), ("name", "a@b.example"), ("name", ""),
        ("password", "short"), ("password", "aaaaaaaaaaaaaaaa"), ("password", "x1y2" * 100), ("password", "evelyn-and-only"[:12]),
        ("email", "no address"), ("email", "a@b"), ("email", f"{'a' * 300}@b.example"), ("role", "owner"),
    ],
)  # fmt: skip
def test_a_registration_names_the_wrong_field(house: House, field: str, value: str) -> None:
    code = invite(house)
    body = {"name": "evelyn", "password": PASSWORD, "invitation": code, field: value}
    answer = house.client().post("/api/v1/auth/register", json=body)
    assert answer.status_code == 422 and field in answer.json()["detail"]
    assert house.sql("SELECT used FROM console_invitations") == [{"used": 0}]


def test_no_log_line_and_no_row_holds_a_secret(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    secrets = [PASSWORD]
    with structlog.testing.capture_logs() as lines:
        code = invite(house)
        registered = register(house, "fay", code, cookie=False).json()
        client, app = enrolled(house, "user")
        typed = app.now()
        tokens = house.login("user", totp=typed)
        attempt(house, "hunter2-hunter2-typed-as-name", "wrong-secret-password")
        attempt(house, "user", "wrong-secret-password")
        renewed = house.client().post("/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json()
        house.client().post("/api/v1/auth/refresh", json={"refresh_token": "garbage-garbage-token"})
        house.sql("UPDATE console_sessions SET rotated_at = rotated_at - interval '1 hour'")
        house.client().post("/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
        fay = registered["user"]["id"]
        reset = house.as_user("owner").post(f"/api/v1/admin/users/{fay}/reset").json()["password"]
        client.post("/api/v1/auth/password", json={"current": PASSWORD, "new": "wholly new password"})
        house.client(Authorization="Bearer garbage-garbage-token").get("/api/v1/auth/me")
        # A body that fails validation is not repeated to anybody.
        answer = house.client().post(LOGIN, json={"name": ["x"], "password": "wrong-secret-password", "totp": "123"})
        assert answer.status_code == 422 and "wrong-secret" not in answer.text
    assert any(line.get("action") == "user.login" for line in lines) and any(line["log_level"] == "warning" for line in lines)
    for one in (registered, tokens, renewed):
        secrets += [one["access_token"], one["refresh_token"]]
    stored = [row["password_hash"] for row in house.sql("SELECT password_hash FROM console_users")]
    kept = bytes(house.sql("SELECT secret FROM console_secret")[0]["secret"])
    secrets += [
        code,
        app.secret,
        reset,
        "hunter2",
        "wrong-secret-password",
        "wholly new password",
        "garbage-garbage",
        kept.hex(),
        str(kept),
    ]
    text = json.dumps(lines, default=str) + str(house.audit()) + "".join(capfd.readouterr())
    for secret in secrets + stored:
        assert secret not in text, f"{secret[:6]}... is in a log"
    assert "fay" in text
