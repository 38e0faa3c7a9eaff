"""Annotations: who may make, see, change and remove one; versions; every write is in the audit log."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg

from deploy.database import migrate as database
from schemas.settings import Settings
from tests.support.console.people import add_user, logged_in
from tests.support.console.server import console

BTC = "BINANCE:BTCUSDT-PERP"
PATH = "/api/v1/annotations"
T = 1_760_000_000_000
EVIL = "'); DROP TABLE console_annotations; -- <script>alert(1)</script>"


def done(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json() if response.content else None


def labels(client: httpx.Client, **query: Any) -> list[str]:
    """Labels of all pages."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = done(client.get(PATH, params={**query, **({"cursor": cursor} if cursor else {})}))
        found += [one["label"] for one in page["records"]]
        cursor = page["next"]
        if cursor is None:
            return found


def test_the_life_of_an_annotation(environment: Settings) -> None:
    database.migrate(environment.database_url)
    for name, role in (("vic", "viewer"), ("uma", "user"), ("ugo", "user"), ("olga", "operator")):
        add_user(environment.database_url, name, role)  # type: ignore[arg-type]
    with (
        console(environment) as anyone,
        logged_in(anyone.base_url, "vic") as vic,
        logged_in(anyone.base_url, "uma") as uma,
        logged_in(anyone.base_url, "ugo") as ugo,
        logged_in(anyone.base_url, "olga") as olga,
    ):
        new = {"instrument": BTC, "start": T, "end": T + 60_000, "label": "pre-rise", "note": EVIL}
        assert anyone.post(PATH, json=new).status_code == 401 and vic.post(PATH, json=new).status_code == 403
        made = done(uma.post(PATH, json=new), 201)
        assert (made["author"], made["start_ms"], made["end_ms"], made["label"], made["note"], made["version"]) == (
            "uma",
            T,
            T + 60_000,
            "pre-rise",
            EVIL,
            1,
        )
        for broken, field in (
            ({"end": T}, "body.end"),
            ({"label": ""}, "body.label"),
            ({"label": "x" * 41}, "body.label"),
            ({"note": "a\x00b"}, "body.note"),
            ({"start": "soon"}, "body.start"),
            ({"colour": "red"}, "body.colour"),
        ):
            answer = uma.post(PATH, json={**new, **broken})
            assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == field, answer.text

        assert done(vic.get(PATH))["records"] == [made]
        one = f"{PATH}/{made['id']}"
        assert vic.patch(one, json={"version": 1, "label": "x"}).status_code == 403
        other = ugo.patch(one, json={"version": 1, "label": "range"})
        assert other.status_code == 403 and "uma" in other.json()["detail"]
        edited = done(uma.patch(one, json={"version": 1, "label": "pre-fall"}))
        assert (edited["label"], edited["note"], edited["version"]) == ("pre-fall", EVIL, 2)
        late = uma.patch(one, json={"version": 1, "note": "late"})
        assert late.status_code == 409 and late.json()["version"] == 2
        assert ugo.delete(one, params={"version": 2}).status_code == 403
        assert uma.delete(one, params={"version": 1}).status_code == 409
        done(olga.delete(one, params={"version": 2}), 204)
        assert uma.patch(one, json={"version": 3, "label": "x"}).status_code == 404
        assert done(vic.get(PATH)) == {"records": [], "next": None}
    with psycopg.connect(environment.database_url) as connection:
        rows = connection.execute(
            "SELECT user_name, action, target, before ->> 'label', after ->> 'label', split_part(outcome, ':', 1) FROM console_audit"
            " WHERE action LIKE 'annotation.%' ORDER BY audit_id"
        ).fetchall()
        kept = connection.execute("SELECT deleted, label FROM console_annotations").fetchall()
    number = str(made["id"])
    assert [row for row in rows if row[5] == "done"] == [
        ("uma", "annotation.create", number, None, "pre-rise", "done"),
        ("uma", "annotation.edit", number, "pre-rise", "pre-fall", "done"),
        ("olga", "annotation.delete", number, "pre-fall", None, "done"),
    ]
    assert {row[0] for row in rows if row[5] == "refused"} == {"ugo", "uma"} and kept == [(True, "pre-fall")]


def test_those_that_touch_a_range_once_each(environment: Settings) -> None:
    database.migrate(environment.database_url)
    add_user(environment.database_url, "uma", "user")
    with console(environment) as anyone, logged_in(anyone.base_url, "uma") as uma:
        for minute in range(7):  # two begin at each time
            for name in ("a", "b"):
                stretch = {"start": T + minute * 60_000, "end": T + minute * 60_000 + 90_000}
                done(uma.post(PATH, json={"instrument": BTC, **stretch, "label": f"{minute}{name}"}), 201)
        done(uma.post(PATH, json={"instrument": "BINANCE:ETHUSDT-PERP", "start": T, "end": T + 1, "label": "eth"}), 201)
        every = [f"{minute}{name}" for minute in range(6, -1, -1) for name in ("b", "a")]
        for limit in (1, 3, 100):
            assert labels(uma, instrument=BTC, limit=limit) == every
        # [3 min, 4 min) touches what begins before its end and ends after its start: those of minutes 2 and 3.
        assert labels(uma, instrument=BTC, start=T + 180_000, end=T + 240_000) == ["3b", "3a", "2b", "2a"]
        assert labels(uma, instrument=BTC, end=T) == [] and "eth" in labels(uma)
        assert uma.get(PATH, params={"cursor": "x"}).status_code == 422
