"""The dry run says what the worker said at the same instant, from what the sink has stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from deploy.database import migrate as database
from schemas.settings import Settings
from sinks.commands.strategies import revisions
from sinks.console.data.decide import decide
from sinks.console.data.records import rendering
from sinks.console.http.problems import Problem
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from stream_apps.core.signals.strategy_rules import strategy_from_record
from tests.support.console.people import add_user, logged_in
from tests.support.console.server import console
from tests.support.console.tables import write
from tests.support.markets.logs import LTC, Log, decoded, ltc_trades, run

TRADES = 9_000
# Windows that the first hours fill, no input but trades, and whales small enough for this coin.
SHARED: dict[str, Any] = {
    "instrument": LTC, "event_time": 1, "receive_time": 1, "gate_obi_enabled": False, "gate_spot_perp_enabled": False, "whale_usd_threshold": 2_000.0,
    "whale_flow_pct": 0.6, "vol_atr_pct_min": 0.0001, "entry_score": 60.0, "flip_threshold": 70.0, "cooldown_minutes": 3, "weight_direction": 80,
    "weight_env": 5, "weight_aux": 0, "weight_momentum": 15,
}  # fmt: skip
STRATEGIES = [
    strategy_from_record({"strategy_id": f"s-{fast}", "display_name": fast, "cvd_fast_window": fast, "cvd_slow_window": slow, **SHARED})
    for fast, slow in (("5m", "30m"), ("15m", "1h"))
]


class World:
    """A replayed market in a database, and what the engine said of it."""

    def __init__(self, url: str) -> None:
        log = Log()
        log.instrument()
        for config in STRATEGIES:
            log.strategy(config.to_record())
        log.trades(ltc_trades(TRADES))
        outputs, _ = run(log)
        self.scores = decoded(outputs, "scores")
        self.signals = decoded(outputs, "signals")
        with psycopg.connect(url) as connection:
            for topic in ("features", "signals"):
                write(connection, topic, decoded(outputs, topic))
            write(connection, "agg_trades", [Settings().codec.decode("agg_trades", value) for _, _, _, value in log.topics["agg_trades"]])


@pytest.fixture(scope="module")
def url(database_url: str) -> Iterator[str]:
    name = "decide_world"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[arg-type]
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    yield f"{database_url.rpartition('/')[0]}/{name}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world(url: str) -> World:
    database.migrate(url)
    return World(url)


def decided(url: str, config: StrategyConfig, instants: list[int]) -> list[dict[str, Any]]:
    """The dry run at instants (ms)."""

    async def ask() -> list[dict[str, Any]]:
        async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
            return [await decide(connection, config, datetime.fromtimestamp(at / 1000, UTC), 15_000) for at in instants]

    return asyncio.run(ask())


def test_another_instrument_of_a_strategy(world: World, url: str) -> None:
    """A strategy of two instruments is judged on the second as one of that instrument alone, under its own hash."""
    config = STRATEGIES[0]
    both = replace(config, instrument=f"{LTC}-PERP", instruments=(LTC,))
    truth = [one for one in world.scores if one["strategy_id"] == config.strategy_id and one["warm"]][-1]

    async def ask() -> dict[str, Any]:
        async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
            return await decide(connection, both, datetime.fromtimestamp(truth["event_time"] / 1000, UTC), 15_000, LTC)

    assert asyncio.run(ask())["score"] == {**truth, "config_hash": config_hash(both)} != truth


def test_what_the_stored_records_cannot_tell_is_refused(world: World, url: str) -> None:
    """The correlation gate of V5.0 reads panes of the other assets: without them a dry run would pass where the worker refuses."""
    alone = strategy_from_record({"strategy_id": "v50", "instrument": LTC, "display_name": "v50", "model": "v50_rules"})
    several = replace(alone, instruments=("BINANCE:BTCUSDT-PERP",))
    at = [world.scores[-1]["event_time"]]
    with pytest.raises(Problem, match="correlation gate"):
        decided(url, several, at)
    for known in (alone, replace(alone, instruments=(f"{LTC}-PERP",)), replace(several, gate_correlation_enabled=False)):
        assert decided(url, known, at)[0]["score"]["config_hash"] == config_hash(known)


@pytest.mark.parametrize("config", STRATEGIES, ids=lambda one: one.strategy_id)
def test_it_says_what_the_worker_said(world: World, url: str, config: StrategyConfig) -> None:
    """The worker's compiled scorer at the same instants, with its own state, is the truth: signals, gates, cooldowns, flips."""
    truth = [one for one in world.scores if one["strategy_id"] == config.strategy_id]
    signalled = [i for i, one in enumerate(truth) if one["signalled"]]
    # Around every signal, where memory matters, and every seventh instant.
    chosen = sorted({i + step for i in signalled[:30] for step in (0, 1) if i + step < len(truth)} | set(range(0, len(truth), 11)))
    found = decided(url, config, [truth[i]["event_time"] for i in chosen])
    assert [one["score"] for one in found] == [truth[i] for i in chosen]
    signals = {one["signal_id"]: one for one in world.signals}
    assert [one["signal"] for one in found] == [signals.get(truth[i]["score_id"]) for i in chosen]
    assert {"entry", "entry+flip", "flip", "cooldown", "blocked", "not_warm"} <= {truth[i]["verdict"] for i in chosen}


def test_trades_that_are_not_stored_yet(world: World, url: str) -> None:
    """While the sink is behind, the newest instant whose trades are all there is judged; without any, the answer says why."""
    config = STRATEGIES[0]
    last = world.scores[-1]["event_time"]
    with psycopg.connect(url) as connection:
        large = [
            row[0]
            for row in connection.execute(
                "SELECT (extract(epoch FROM event_time) * 1000)::bigint FROM features WHERE large_buys + large_sells > 0 ORDER BY event_time"
            ).fetchall()
        ]
    at = large[len(large) // 2]
    behind = datetime.fromtimestamp((at - 60_000) / 1000, UTC)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE away AS SELECT * FROM agg_trades WHERE event_time > %s", (behind,))
        connection.execute("DELETE FROM agg_trades WHERE event_time > %s", (behind,))
    try:
        (found,) = decided(url, config, [at])
        judged = found["score"]["event_time"]
        assert judged <= at and found["newest_instant_ms"] == at
        assert found["score"] == next(
            one for one in world.scores if (one["event_time"], one["strategy_id"]) == (judged, config.strategy_id)
        )
        with pytest.raises(Problem, match="the sink is behind"):
            decided(url, config, [max(one for one in large if one <= last)])
    finally:
        with psycopg.connect(url) as connection:
            connection.execute("INSERT INTO agg_trades SELECT * FROM away")
            connection.execute("DROP TABLE away")


def done(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.usefixtures("topics")
def test_the_api(world: World, url: str, environment: Settings) -> None:
    """A user tries a strategy and an edit of it. Nothing is written; the answer says which instant was judged."""
    settings = environment.model_copy(update={"database_url": url})
    config = STRATEGIES[0]
    revisions.publish(settings, [config], 1)
    with psycopg.connect(url) as connection:
        connection.execute("TRUNCATE console_users CASCADE")
    for name, role in (("vic", "viewer"), ("uma", "user")):
        add_user(url, name, role)  # type: ignore[arg-type]
    truth = [rendering("scores")(one) for one in world.scores if one["strategy_id"] == config.strategy_id]
    entered = next(one for one in truth if "entry" in one["verdict"])
    with console(settings) as anyone, logged_in(anyone.base_url, "vic") as vic, logged_in(anyone.base_url, "uma") as uma:
        body = {"strategy_id": config.strategy_id}
        assert anyone.post("/api/v1/decide", json=body).status_code == 401
        assert vic.post("/api/v1/decide", json=body).status_code == 403
        newest = done(uma.post("/api/v1/decide", json=body))
        assert (newest["dry_run"], newest["judged_at_ms"], newest["score"]) == (True, truth[-1]["event_time_ms"], truth[-1])
        then = done(uma.post("/api/v1/decide", json={**body, "at": entered["event_time_ms"]}))
        assert then["score"] == entered and then["signal"]["signal_id"] == entered["score_id"]
        # A stricter entry score would not have entered; the layers are the same.
        tried = done(
            uma.post(
                "/api/v1/decide", json={**body, "at": entered["event_time_ms"], "fields": {"entry_score": 95.0, "flip_threshold": 95.0}}
            )
        )
        assert (tried["signal"], tried["score"]["verdict"], tried["score"]["layers"]) == (None, "below_entry", entered["layers"])
        wrong = uma.post("/api/v1/decide", json={**body, "fields": {"entry_score": 400.0}})
        assert wrong.status_code == 422 and wrong.json()["errors"][0]["field"] == "body.fields.entry_score"
        assert done(uma.post("/api/v1/decide", json={**body, "instrument": LTC}))["score"] == truth[-1]
        foreign = uma.post("/api/v1/decide", json={**body, "instrument": "BINANCE:BTCUSDT-PERP"})
        assert foreign.status_code == 422 and foreign.json()["errors"][0]["field"] == "body.instrument"
        assert uma.post("/api/v1/decide", json={"strategy_id": "none"}).status_code == 404
        assert uma.post("/api/v1/decide", json={**body, "at": 1}).status_code == 404
        assert uma.post("/api/v1/decide", json={**body, "fields": {"status": "paused"}}).status_code == 422
    assert replace(revisions.read(settings)[config.strategy_id], event_time=0) == replace(config, event_time=0, edited_by="")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM signals").fetchone() == (len(world.signals),)
