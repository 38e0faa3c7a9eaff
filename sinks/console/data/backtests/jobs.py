"""The jobs of one console: starts them, watches them, writes their state. At most ``MOST_RUNNING`` run at once on one database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import structlog

from schemas.settings import Settings
from sinks.console.data.backtests import runs
from sinks.console.data.backtests.process import PROGRESS, Place, Running
from sinks.console.data.backtests.request import BacktestRequest, arguments, source_argument
from sinks.console.database import AWAY, Database
from sinks.console.http.problems import Problem
from sinks.console.options import ConsoleOptions, ReplayCommand
from stream_apps.core.signals.strategy import StrategyError
from stream_apps.core.signals.strategy_rules import strategy_from_record

# A replay fills a core. More at once would slow the live services down.
MOST_RUNNING = 2
# A job whose progress stands still for so long hangs.
SILENT_S = 1_800.0
LONGEST_S = 24 * 3_600.0
# After SIGTERM a job has this time before it is killed.
GRACE_S = 10.0
WATCH_S = 0.5
BEAT_S = 5.0
_LOCK = 8_700_130  # of the transaction that counts the running jobs and adds one
_FAILED = (psycopg.Error, *AWAY)


class Backtests:
    """Jobs of one process.

    Args:
        settings: The environment, also of the jobs.
        options: The command, and where its sources and results are.
        database: The pools.
    """

    def __init__(self, settings: Settings, options: ConsoleOptions, database: Database) -> None:
        self._settings, self._options, self._database = settings, options, database
        self._jobs: dict[UUID, Running] = {}
        self._begun: dict[UUID, float] = {}
        self._beats: dict[UUID, float] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._log = structlog.get_logger(service="console")

    def start(self) -> None:
        """Begin to watch. Called on the event loop."""
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching. Jobs go on: the next console finds them."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher

    # --- commands ------------------------------------------------------------------------------------------------------

    async def begin(self, request: BacktestRequest, user: str) -> UUID:
        """Start a job; return its id.

        Raises:
            Problem: 409 if enough run already or this console starts none, 422 for a source that is not offered, 503 if the job cannot start.
        """
        replay = self._options.replay
        if replay is None:
            raise Problem(409, "this console was started without the command of replays")
        source = source_argument(request.source, self._options.replay_files)
        identity = uuid.uuid4()
        folder = self._options.backtests.resolve() / str(identity)
        async with self._database.own() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            await runs.interrupt_lost(connection)
            count = len(await runs.running(connection))
            if count >= MOST_RUNNING:
                raise Problem(409, f"{count} backtests run already, which is the limit: wait for one, or cancel one")
            try:
                folder.mkdir(parents=True)
                own = await self._own_strategies(replay, request.strategies, folder)
                command = [*replay.command, *arguments(request, source, own), "--jobs", "1", "--out", str(folder)]
                running = Running.start(folder, [*command, "--progress", str(folder / PROGRESS)], self._environment())
            except OSError as error:
                raise Problem(503, f"the job cannot start: {error.strerror or error}: {folder.parent}") from error
            try:
                await runs.add(connection, identity, user, request.model_dump(mode="json"), str(running.place))
            except BaseException:
                running.kill()  # a job that no row names would never be seen
                raise
        self._take(identity, running)
        return identity

    def cancel(self, identity: UUID, user: str) -> bool:
        """Ask a job to end. Returns False if this console does not watch it."""
        running = self._jobs.get(identity)
        if running is None:
            return False
        running.end("cancelled", f"cancelled by {user}")
        asyncio.get_running_loop().call_later(GRACE_S, running.kill)
        return True

    def folder(self, identity: UUID) -> Path:
        """Return where the files of a run are."""
        return self._options.backtests.resolve() / str(identity)

    async def _own_strategies(self, replay: ReplayCommand, names: list[str], folder: Path) -> dict[str, Path]:
        """Write the newest revision of each named strategy that runs here to a file of the run; return the files."""
        async with self._database.reading() as connection:
            rows = await (
                await connection.execute("SELECT strategy_id, config FROM strategy_registry WHERE strategy_id = ANY(%s)", (names,))
            ).fetchall()
        found = {}
        for number, row in enumerate(rows):
            try:
                text = replay.strategy_text(strategy_from_record(row["config"]))
            except StrategyError as error:
                reason = f"{row['strategy_id']}: {error}"
                raise Problem(422, f"body.strategies: {reason}", errors={"body.strategies": reason}) from error
            found[row["strategy_id"]] = folder / f"strategy-{number}.toml"
            found[row["strategy_id"]].write_text(text, encoding="utf-8")
        return found

    def _environment(self) -> dict[str, str]:
        """Return the environment of a job: that of the console with its settings, without the secret of logins."""
        names = {field.alias: getattr(self._settings, name) for name, field in Settings.model_fields.items()}
        ours = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in names.items() if key}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PERPFLOW_CONSOLE_")}
        return {**inherited, **ours}

    # --- watching ------------------------------------------------------------------------------------------------------

    def _take(self, identity: UUID, running: Running) -> None:
        self._jobs[identity] = running
        self._begun[identity] = asyncio.get_running_loop().time()
        self._beats[identity] = 0.0

    async def _watch(self) -> None:
        while not await self._adopted():
            await asyncio.sleep(BEAT_S)
        while True:
            for identity, running in list(self._jobs.items()):
                try:
                    await self._look(identity, running)
                except _FAILED as error:  # tried again: the state of the job is on disk
                    self._log.warning("the state of a backtest cannot be written", backtest=str(identity), error=type(error).__name__)
            await asyncio.sleep(WATCH_S)

    async def _adopted(self) -> bool:
        """Take over the jobs of an earlier console on this machine. Returns whether the database answered."""
        try:
            async with self._database.own() as connection:
                for row in await runs.running(connection):
                    place, identity = Place.parse(row["place"]), row["backtest_id"]
                    running = Running(self.folder(identity), place)
                    if identity in self._jobs:
                        continue
                    if running.alive:
                        self._take(identity, running)
                    elif place.host == os.uname().nodename:
                        status, report, error = running.outcome()
                        if status != "done":
                            said = running.said()
                            status, error = "interrupted", f"the process was gone when the console started{said and f': {said}'}"
                        await runs.finish(connection, identity, status, report, error)
                await runs.interrupt_lost(connection)
        except psycopg.errors.UndefinedTable:
            return True  # a database before its migration has no runs
        except _FAILED:
            return False
        return True

    async def _look(self, identity: UUID, running: Running) -> None:
        now = asyncio.get_running_loop().time()
        progress = running.progress()
        if running.alive:
            if running.silent_s > SILENT_S:
                self._give_up(running, f"no progress for {SILENT_S / 60:g} min")
            elif now - self._begun[identity] > LONGEST_S:
                self._give_up(running, f"not done after {LONGEST_S / 3600:g} h")
            if now - self._beats[identity] >= (BEAT_S if progress is None else WATCH_S):
                async with self._database.own() as connection:
                    await runs.beat(connection, identity, progress)
                self._beats[identity] = now
            return
        status, report, error = await asyncio.to_thread(running.outcome)
        async with self._database.own() as connection:
            await runs.beat(connection, identity, running.progress())
            await runs.finish(connection, identity, status, report, error)
        for known in (self._jobs, self._begun, self._beats):
            known.pop(identity, None)
        self._log.info("backtest ended", backtest=str(identity), status=status)

    def _give_up(self, running: Running, reason: str) -> None:
        running.end("failed", reason)
        asyncio.get_running_loop().call_later(GRACE_S, running.kill)


def compared(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Return two reports beside each other: every statistic of each account, and what else differs. Figures alone are no verdict.

    Args:
        a, b: ``report.json`` of each.
    """
    accounts = {}
    for side, report in (("a", a), ("b", b)):
        for one in report["strategies"]:
            accounts[f"{side}: {one['strategy_id']}"] = one
        if len(report["strategies"]) > 1 and report["all"] is not None:
            accounts[f"{side}: all together"] = report["all"]
    counts = {name: one["statistics"]["trades"]["value"] for name, one in accounts.items()}
    return {
        "accounts": list(accounts),
        "trades": counts,
        "statistics": {
            name: {**about, "values": {account: one["statistics"].get(name) for account, one in accounts.items()}}
            for name, about in a["definitions"].items()
        },
        "differences": [
            {"what": what, "a": a.get(what), "b": b.get(what)}
            for what in ("source", "files", "since", "until", "warm_up_ms", "paper", "engine", "perpflow")
            if a.get(what) != b.get(what)
        ],
    }
