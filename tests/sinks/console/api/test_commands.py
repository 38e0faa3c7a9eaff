"""Commands of the API: the very records of the command line, by role, on a revision, in the audit log."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from deploy.database import migrate as database
from schemas.settings import Settings
from sinks.commands.strategies.log import read as read_log
from tests.support.console.people import add_user, logged_in
from tests.support.console.server import console

pytestmark = pytest.mark.usefixtures("topics")
BTC = "BINANCE:BTCUSDT-PERP"


def done(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def audit(settings: Settings) -> list[tuple[Any, ...]]:
    with psycopg.connect(settings.database_url) as connection:
        return connection.execute(
            "SELECT user_name, action, target, before ->> 'revision', after -> 'strategy' ->> 'revision', outcome FROM console_audit"
            " WHERE action LIKE 'strategy.%' AND outcome <> 'started' ORDER BY audit_id"
        ).fetchall()


def test_the_life_of_a_strategy(environment: Settings) -> None:
    database.migrate(environment.database_url)
    add_user(environment.database_url, "ann", "operator")
    with console(environment) as anyone, logged_in(anyone.base_url, "ann") as ann:
        checked = done(ann.post("/api/v1/strategies/check", json={"strategy_id": "one", "instrument": BTC}))
        assert checked["strategy"]["entry_score"] > 0 and not read_log(environment).newest
        new = {"strategy_id": "one", "instrument": BTC, "fields": {"entry_score": 70.0, "flip_threshold": 85.0}, "note": "first"}
        assert done(ann.post("/api/v1/strategies", json=new), 201)["strategy"]["revision"] == 1
        assert done(ann.post("/api/v1/strategies", json=new))["written"] is False
        assert ann.post("/api/v1/strategies", json={**new, "fields": {"entry_score": 71.0, "flip_threshold": 85.0}}).status_code == 409

        edit = done(ann.patch("/api/v1/strategies/one", json={"revision": 1, "fields": {"entry_score": 72.0}}))
        assert (edit["written"], edit["strategy"]["revision"], edit["strategy"]["edited_by"]) == (True, 2, "ann")
        stale = ann.patch("/api/v1/strategies/one", json={"revision": 1, "fields": {"entry_score": 73.0}})
        assert stale.status_code == 409 and "2" in stale.json()["detail"]

        wrong = ann.patch("/api/v1/strategies/one", json={"revision": 2, "fields": {"entry_score": 400.0}})
        assert wrong.status_code == 422 and wrong.json()["errors"][0]["field"] == "body.fields.entry_score"
        by_edit = ann.patch("/api/v1/strategies/one", json={"revision": 2, "fields": {"status": "paused"}})
        assert by_edit.status_code == 422 and by_edit.json()["errors"][0]["reason"] == "use pause, resume, deprecate or restore"
        assert ann.patch("/api/v1/strategies/one", json={"revision": 2, "fields": {}}).status_code == 422
        assert ann.post("/api/v1/strategies/none/pause", json={"revision": 1}).status_code == 404

        for revision, (change, status) in enumerate(
            [("pause", "paused"), ("resume", "running"), ("deprecate", "deprecated"), ("restore", "running")], 2
        ):
            assert done(ann.post(f"/api/v1/strategies/one/{change}", json={"revision": revision}))["strategy"]["status"] == status
        assert ann.post("/api/v1/strategies/one/restore", json={"revision": 6}).status_code == 422
        money = done(ann.post("/api/v1/strategies/one/add-balance", json={"revision": 6, "amount": 250.5}))
        assert money["strategy"]["added_balance"] == 250.5 and money["config_hash"] == edit["config_hash"]

        (config,) = read_log(environment).newest.values()
        assert (config.revision, config.entry_score, config.added_balance, config.edited_by) == (7, 72.0, 250.5, "ann")
        history = done(ann.get("/api/v1/strategies/one/history"))["history"]
        assert [entry["did"] for entry in history] == ["create", "edit", "pause", "resume", "deprecate", "restore", "edit"]
        assert history[1]["changed"] == {"entry_score": [70.0, 72.0]}
    rows = audit(environment)
    assert [row[1].partition(".")[2] for row in rows if row[5] == "done"] == [
        "create",
        "create",
        "edit",
        "pause",
        "resume",
        "deprecate",
        "restore",
        "add-balance",
    ]
    assert all(row[0] == "ann" and row[2] == "one" for row in rows)
    assert [row[3:5] for row in rows if row[1] == "strategy.edit" and row[5] == "done"] == [("1", "2")]
    assert sum(row[5].startswith("refused") for row in rows) >= 4


def test_a_strategy_of_several_instruments(environment: Settings) -> None:
    """The form's fields name them. Another asset belongs into another partition, so the check says so by the field."""
    database.migrate(environment.database_url)
    add_user(environment.database_url, "ann", "operator")
    with console(environment) as anyone, logged_in(anyone.base_url, "ann") as ann:
        new = {"strategy_id": "several", "instrument": BTC, "fields": {"instruments": ["BYBIT:BTCUSDT-PERP"], "max_positions": 2}}
        other = {**new, "fields": {"instruments": ["BINANCE:ETHUSDT-PERP"]}}
        for path in ("/api/v1/strategies/check", "/api/v1/strategies"):
            refused = ann.post(path, json=other)
            assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == "body.fields.instruments", refused.text
            assert "PERPFLOW_ASSET_GROUPS=BTC+ETH" in refused.json()["errors"][0]["reason"]
        assert done(ann.post("/api/v1/strategies", json=new), 201)["strategy"]["instruments"] == ["BYBIT:BTCUSDT-PERP"]
        edit = done(ann.patch("/api/v1/strategies/several", json={"revision": 1, "fields": {"instruments": ["BINANCE:BTCUSDT"]}}))
        assert edit["strategy"]["instruments"] == ["BINANCE:BTCUSDT"]
        (config,) = read_log(environment).newest.values()
        assert config.all_instruments == (BTC, "BINANCE:BTCUSDT")


def test_two_editors_of_one_revision(environment: Settings) -> None:
    """Many edit revision 1 at once: one wins, all others learn that they were late, and the log has one revision 2."""
    database.migrate(environment.database_url)
    add_user(environment.database_url, "ann", "operator")
    with console(environment) as anyone, logged_in(anyone.base_url, "ann") as ann:
        done(ann.post("/api/v1/strategies", json={"strategy_id": "one", "instrument": BTC}), 201)

        def edit(score: int) -> int:
            return ann.patch("/api/v1/strategies/one", json={"revision": 1, "fields": {"entry_score": 60.0 + score}}).status_code

        with ThreadPoolExecutor(6) as pool:
            statuses = sorted(pool.map(edit, range(6)))
    assert statuses == [200, 409, 409, 409, 409, 409]
    assert [config.revision for config in read_log(environment).revisions["one"]] == [1, 2]


@pytest.mark.parametrize("role", ["viewer", "user"])
def test_who_may_only_look(environment: Settings, role: Any) -> None:
    database.migrate(environment.database_url)
    add_user(environment.database_url, "vic", role)
    with console(environment) as anyone, logged_in(anyone.base_url, "vic") as vic:
        assert anyone.get("/api/v1/strategies").status_code == 401
        assert vic.get("/api/v1/strategies").status_code == 200
        commands = [
            ("POST", "/api/v1/strategies", {"strategy_id": "x", "instrument": BTC}),
            ("PATCH", "/api/v1/strategies/x", {"revision": 1, "fields": {"entry_score": 70.0}}),
            ("POST", "/api/v1/strategies/x/pause", {"revision": 1}),
            ("POST", "/api/v1/strategies/x/add-balance", {"revision": 1, "amount": 1.0}),
            ("POST", "/api/v1/risk/halt", {"account": "*", "confirm": "*", "reason": "x"}),
        ]
        for method, path, body in commands:
            assert vic.request(method, path, json=body).status_code == 403, path
            assert anyone.request(method, path, json=body).status_code == 401, path
    assert not read_log(environment).newest and not audit(environment)


def test_the_red_switches(environment: Settings) -> None:
    """A halt is in the database's switch and in the topic; it needs the account's name twice; a resume lifts it."""
    database.migrate(environment.database_url)
    add_user(environment.database_url, "olga", "operator")
    with console(environment) as anyone, logged_in(anyone.base_url, "olga") as olga:
        body = {"account": "BINANCE-testnet", "confirm": "BINANCE-testne", "reason": "drill"}
        refused = olga.post("/api/v1/risk/halt", json=body)
        assert refused.status_code == 422 and refused.json()["errors"][0]["field"] == "body.confirm"
        receipt = done(olga.post("/api/v1/risk/halt", json={**body, "confirm": body["account"]}))
        assert (receipt["arrived"], receipt["database"], receipt["kafka"]) == (True, None, None)
        (switch,) = done(olga.get("/api/v1/risk"))["switches"]
        assert (switch["command"], switch["account"], switch["by"], switch["command_id"]) == (
            "halt",
            body["account"],
            "olga",
            receipt["command_id"],
        )
        done(olga.post("/api/v1/risk/resume", json={**body, "confirm": body["account"]}))
        assert done(olga.get("/api/v1/risk"))["switches"] == []
