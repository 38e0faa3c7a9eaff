"""Commands that concern many: paper switches and the notifier's test. Comparisons of strategies and of revisions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from deploy.database import migrate as database
from schemas.settings import Settings
from sinks.commands.strategies.history import AuditEntry
from sinks.commands.strategies.log import read as read_log
from sinks.console.data.compare import between
from sinks.console.http.problems import Problem
from sinks.console.options import ConsoleOptions
from stream_apps.core.signals.strategy import changes
from stream_apps.core.signals.strategy_rules import strategy_from_record
from tests.support.console.people import add_user, logged_in
from tests.support.console.server import console
from tests.support.console.tables import write

BTC = "BINANCE:BTCUSDT-PERP"
API = "/api/v1"


def done(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def audit(settings: Settings, action: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(settings.database_url) as connection:
        return connection.execute(
            "SELECT user_name, target, outcome, before, after FROM console_audit WHERE action = %s AND outcome <> 'started' ORDER BY audit_id",
            (action,),
        ).fetchall()


@pytest.mark.usefixtures("topics")
def test_switches_of_all_strategies_at_once(environment: Settings) -> None:
    """One call pauses all; a call with one old revision pauses none, and says which."""
    database.migrate(environment.database_url)
    for name, role in (("ann", "operator"), ("uma", "user")):
        add_user(environment.database_url, name, role)  # type: ignore[arg-type]
    with console(environment) as anyone, logged_in(anyone.base_url, "ann") as ann, logged_in(anyone.base_url, "uma") as uma:
        for name, instrument in (("one", BTC), ("two", "BINANCE:ETHUSDT-PERP"), ("three", BTC)):
            done(ann.post(f"{API}/strategies", json={"strategy_id": name, "instrument": instrument}), 201)
        assert [(one["strategy_id"], one["on"], one["revision"]) for one in done(uma.get(f"{API}/paper/switches"))["strategies"]] == [
            ("one", True, 1),
            ("three", True, 1),
            ("two", True, 1),
        ]
        off = {"on": False, "strategies": {"one": 1, "two": 1, "three": 1}, "note": "drill"}
        assert uma.post(f"{API}/paper/switches", json=off).status_code == 403
        assert anyone.post(f"{API}/paper/switches", json=off).status_code == 401
        answer = done(ann.post(f"{API}/paper/switches", json=off))
        assert answer["written"] and answer["strategies"] == {name: {"status": "paused", "revision": 2} for name in ("one", "two", "three")}
        assert done(ann.post(f"{API}/paper/switches", json={**off, "strategies": {"one": 2}}))["written"] is False
        stale = ann.post(f"{API}/paper/switches", json={"on": True, "strategies": {"one": 2, "two": 1}})
        assert stale.status_code == 409 and "two" in stale.json()["detail"]
        assert {config.status for config in read_log(environment).newest.values()} == {"paused"}
        done(ann.post(f"{API}/paper/switches", json={"on": True, "strategies": {"one": 2, "two": 2}}))
        for body, status in (
            ({"on": True, "strategies": {}}, 422),
            ({"on": True, "strategies": {"none": 1}}, 404),
            ({"strategies": {"one": 3}}, 422),
        ):
            assert ann.post(f"{API}/paper/switches", json=body).status_code == status
    newest = read_log(environment).newest
    assert {name: (one.status, one.revision) for name, one in newest.items()} == {
        "one": ("running", 3),
        "two": ("running", 3),
        "three": ("paused", 2),
    }
    first, *_ = rows = audit(environment, "paper.switch")
    assert first[:3] == ("ann", "one, three, two", "done") and first[3]["one"] == {"status": "running", "revision": 1}
    assert first[4]["strategies"]["one"] == {"status": "paused", "revision": 2}
    assert any(row[2].startswith("refused: ") and "two" in row[2] for row in rows)


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook that keeps what it gets."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", got
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_a_test_message_reaches_every_channel(
    environment: Settings, inbox: tuple[str, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel that answers gets one message; the one that does not is named, and no secret is in the answer or the audit log."""
    address, got = inbox
    monkeypatch.setenv("DESK_URL", address)
    monkeypatch.setenv("AWAY_URL", "http://127.0.0.1:9/secret-path")
    path = tmp_path / "notifier.toml"
    path.write_text(
        "".join(
            f'[[channel]]\nname = "{name}"\nkind = "webhook"\nurl_env = "{name.upper()}_URL"\ntimeout_s = 2\n\n'
            for name in ("desk", "away")
        ),
        encoding="utf-8",
    )
    database.migrate(environment.database_url)
    for name, role in (("ann", "operator"), ("uma", "user")):
        add_user(environment.database_url, name, role)  # type: ignore[arg-type]
    with (
        console(environment, ConsoleOptions(port=0, notifier=path)) as anyone,
        logged_in(anyone.base_url, "ann") as ann,
        logged_in(anyone.base_url, "uma") as uma,
    ):
        assert done(uma.get(f"{API}/system"))["notifier"] is True
        assert uma.post(f"{API}/notifier/test").status_code == 403 and not got
        answer = ann.post(f"{API}/notifier/test")
        channels = {one["channel"]: one for one in done(answer)["channels"]}
        path.write_text('[[channel]]\nname = "desk"\n', encoding="utf-8")
        broken = ann.post(f"{API}/notifier/test")
        assert broken.status_code == 422 and "channel" in broken.json()["detail"]
    assert len(got) == 1 and channels["desk"]["sent"] and not channels["away"]["sent"]
    kept = audit(environment, "notifier.test")
    assert [(row[0], row[1], row[2].partition(":")[0]) for row in kept] == [
        ("ann", "notifier.toml", "done"),
        ("ann", "notifier.toml", "refused"),
    ]
    assert "secret-path" not in answer.text and "secret-path" not in str(kept)
    with console(environment) as anyone, logged_in(anyone.base_url, "ann") as ann:
        assert done(ann.get(f"{API}/system"))["notifier"] is False and ann.post(f"{API}/notifier/test").status_code == 409


def test_differences_of_any_two_revisions() -> None:
    """Every pair equals a comparison of the two configurations themselves, also when a revision in between is gone from the trail."""
    base = {"strategy_id": "s", "instrument": BTC, "display_name": "s", "event_time": 1}
    steps: list[dict[str, Any]] = [
        {}, {"entry_score": 80.0}, {"entry_score": 75.0, "tags": ["a"]}, {"status": "paused"}, {"tags": []}, {"status": "running", "tp2_ratio": 3.0},
    ]  # fmt: skip
    configs = []
    for number, step in enumerate(steps, 1):
        base |= step | {"revision": number}
        configs.append(strategy_from_record(dict(base)))
    for gone in (None, 3, 4):
        held = [one for one in configs if one.revision != gone]
        trail = [
            AuditEntry(one.revision, 1, "", None, "edit", changes(before, one)) for before, one in zip([None, *held], held, strict=False)
        ] + [AuditEntry(0, 0, "", None, "refused", {"entry_score": (1, 2)}, "no")]
        for a in held:
            for b in held:
                expected = {name: list(pair) for name, pair in changes(a, b).items()} if a is not b else {}
                assert between(trail, a.revision, b.revision) == expected, (a.revision, b.revision)
    with pytest.raises(Problem, match="revision 4 is not known"):
        between(trail, 1, 4)


def closed(number: int, strategy: str, net_r: float) -> dict[str, Any]:
    time = 1_760_000_000_000 + number * 60_000
    return {
        "trade_id": f"{strategy}-{number}", "signal_id": "s", "instrument": BTC, "event_time": time + 1, "receive_time": time + 1, "strategy_id": strategy,
        "strategy_name": strategy, "config_revision": 1, "config_hash": "h", "mode": "paper", "direction": "LONG", "tier": "light", "regime": "range",
        "score": 80.0, "signal_time": time, "entry_time": time, "entry_price": 1.0, "exit_price": 1.0, "exit_reason": "stop", "tp1_hit": False,
        "quantity": 1.0, "risk_distance": 1.0, "risk_amount": 100.0, "risk_multiple": 1.0, "gross_r": net_r, "fee_r": 0.0, "funding_r": 0.0,
        "slippage_r": 0.0, "net_r": net_r, "net_pnl": net_r * 100, "fees": 0.0, "funding": 0.0, "mfe_r": 0.0, "mae_r": 0.0, "hold_ms": 1,
        "price_estimated": False,
    }  # fmt: skip


@pytest.mark.usefixtures("topics")
def test_two_strategies_side_by_side(environment: Settings) -> None:
    database.migrate(environment.database_url)
    add_user(environment.database_url, "ann", "operator")
    good, bad = [(-1.0, 2.0, 1.0)[n % 3] for n in range(150)], [(-1.0, 0.5)[n % 2] for n in range(120)]
    with psycopg.connect(environment.database_url) as connection:
        rows = [closed(n, name, value) for name, values in (("good", good), ("bad", bad)) for n, value in enumerate(values)]
        write(connection, "trades_closed", rows)
    with console(environment) as anyone, logged_in(anyone.base_url, "ann") as ann:
        for name, fields in (("good", {}), ("bad", {"entry_score": 70.0}), ("new", {})):
            done(ann.post(f"{API}/strategies", json={"strategy_id": name, "instrument": BTC, "fields": fields}), 201)
        done(ann.patch(f"{API}/strategies/good", json={"revision": 1, "fields": {"entry_score": 77.0}}))
        found = done(ann.get(f"{API}/compare", params={"a": "good", "b": "bad"}))
        assert found["fields"] == {"display_name": ["good", "bad"], "entry_score": [77.0, 70.0]}
        both = found["trades"]["all"]
        assert (both["a"]["trades"], both["a"]["wins"], both["b"]["trades"], both["b"]["wins"], both["verdict"]) == (150, 100, 120, 60, "A")
        assert both["a"]["mean_r"] == pytest.approx(sum(good) / 150) and both["difference"] == pytest.approx(
            sum(good) / 150 - sum(bad) / 120
        )
        assert both["interval"]["low"] < both["difference"] < both["interval"]["high"]
        few = done(ann.get(f"{API}/compare", params={"a": "good", "b": "new"}))["trades"]["all"]
        assert (few["verdict"], few["b"]["trades"], few["b"]["mean_r"], few["difference"]) == ("too few trades", 0, None, None)
        assert ann.get(f"{API}/compare", params={"a": "good", "b": "none"}).status_code == 404
        changed = done(ann.get(f"{API}/strategies/good/differences", params={"first": 2, "second": 1}))["fields"]
        assert changed == {"entry_score": [77.0, 75.0]}
        assert ann.get(f"{API}/strategies/good/differences", params={"first": 1, "second": 9}).status_code == 404
        assert ann.get(f"{API}/strategies/none/differences", params={"first": 1, "second": 1}).status_code == 404
