"""The local stack: one folder with broker, database, optional Prometheus and console, and a state file with ports and process ids."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from deploy.stack import broker as broker_part
from deploy.stack import console as console_part
from deploy.stack import postgres as database_part
from deploy.stack import processes
from deploy.stack import prometheus as prometheus_part
from deploy.stack.errors import StackError
from deploy.stack.java import Progress, find_java
from schemas.process.service import TARGETS_VARIABLE
from schemas.settings import ROLES

DEFAULT_DIR = ".perpflow"
DIR_VARIABLE = "PERPFLOW_STACK_DIR"
# Content of the stack's folder. Reset removes only this.
_OURS = ("kafka", "postgres", "prometheus", "logs", "state.json", "lock")


@dataclass(frozen=True)
class PartStatus:
    """State of one part.

    Attributes:
        name: ``kafka``, ``postgres``, ``prometheus`` or ``console``.
        running: Its process exists.
        healthy: It answers.
        port: Its port. None before the first start.
        pid: Its process id. None if it does not run.
        log: Its log file.
    """

    name: str
    running: bool
    healthy: bool
    port: int | None
    pid: int | None
    log: str

    def as_dict(self) -> dict[str, Any]:
        """Return the status as a dictionary."""
        return asdict(self)


def _no_progress(message: str) -> None:
    """Ignore progress."""


_Part = broker_part.Broker | database_part.Database | prometheus_part.Prometheus | console_part.Console


class Stack:
    """A Kafka broker, a PostgreSQL server, optionally a Prometheus and a console, with data, logs, ports and process ids in one folder.

    Args:
        directory: The folder; None: PERPFLOW_STACK_DIR, else ``.perpflow`` in the current directory.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self.dir = Path(directory or os.environ.get(DIR_VARIABLE) or DEFAULT_DIR).expanduser().resolve()
        self.broker = broker_part.Broker(self.dir / "kafka", self.dir / "logs")
        self.database = database_part.Database(self.dir / "postgres", self.dir / "logs")
        self.prometheus = prometheus_part.Prometheus(self.dir / "prometheus", self.dir / "logs")
        self.console = console_part.Console(self.dir, self.dir / "logs")

    # --- state file ----------------------------------------------------------------------------------------------

    @property
    def _state_path(self) -> Path:
        return self.dir / "state.json"

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise StackError(f"{self._state_path} is damaged ({error}): `perpflow stack reset` removes the stack") from error
        return state

    def _save(self, state: dict[str, Any]) -> None:
        new = self._state_path.with_name("state.json.new")
        new.touch(mode=0o600)  # holds the database's password
        new.write_text(json.dumps(state, indent=1), encoding="utf-8")
        new.replace(self._state_path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, so that concurrent commands do not start a part twice."""
        if self.dir.exists() and not self._state_path.exists() and any(self.dir.iterdir()) and not (self.dir / "lock").exists():
            raise StackError(f"{self.dir} contains other files; choose an empty or new folder with --dir or {DIR_VARIABLE}")
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            lock = (self.dir / "lock").open("w")
        except OSError as error:
            raise StackError(f"the folder {self.dir} cannot be used ({error.strerror}): choose another with --dir") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _process(self, part: _Part, name: str) -> psutil.Process | None:
        return processes.find_ours(self._state().get("processes", {}).get(name), part.marker, part.program)

    def _broker_process(self) -> psutil.Process | None:
        return self._process(self.broker, "kafka")

    def _database_process(self) -> psutil.Process | None:
        return self._process(self.database, "postgres")

    def _prometheus_process(self) -> psutil.Process | None:
        return self._process(self.prometheus, "prometheus")

    def _console_process(self) -> psutil.Process | None:
        return self._process(self.console, "console")

    def _remember(self, name: str, process: psutil.Process | None) -> None:
        state = self._state()
        recorded = state.setdefault("processes", {})
        if process is None:
            recorded.pop(name, None)
        else:
            recorded[name] = {"pid": process.pid, "created": process.create_time()}
        self._save(state)

    # --- commands ------------------------------------------------------------------------------------------------

    def up(
        self,
        progress: Progress | None = None,
        kafka_port: int | None = None,
        database_port: int | None = None,
        prometheus: bool = False,
        console: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the parts that do not run, and wait until all parts answer.

        Args:
            progress: Called with each step, one line per call.
            kafka_port: New port of the broker. None: the last one, or a free one at the first start.
            database_port: Port of the database, likewise.
            prometheus: Add a Prometheus to the stack.
            console: Add a console to the stack.
            environment: Variables of the console besides those of the stack.

        Raises:
            StackError: a program is missing, a port is taken, or a part does not start. Parts that this call started are stopped again.
        """
        say = progress or _no_progress
        with self._locked():
            state = self._planned(kafka_port, database_port)
            broker, database = self._broker_process(), self._database_process()
            started: list[psutil.Process] = []
            try:
                with ThreadPoolExecutor(1) as beside:  # both folders are made at the same time, at a first start
                    initialised = beside.submit(self.database.initialise, state["password"], say) if database is None else None
                    if broker is None:
                        broker = self._start_broker(state, say)
                        started.append(broker)
                if database is None and initialised is not None:
                    initialised.result()
                    database = self._start_database(state, say)
                    started.append(database)
                assert database is not None
                pages = None
                if (console or "console_port" in state) and self._console_process() is None:
                    pages = self._start_console(say, environment or {})  # its imports take as long as the others' start
                    started.append(pages)
                self.database.wait(database, self._database_url(state))
                self.broker.wait(broker, state["kafka_port"])
                if (prometheus or "prometheus_port" in state) and self._prometheus_process() is None:
                    started.append(self._start_prometheus(state, say))
                if pages is not None:
                    self.console.wait(pages, self._state()["console_port"])
            except BaseException:
                for process in started:
                    processes.kill(process)
                raise
            say("the stack is up")

    def plan(self, prometheus: bool = False) -> None:
        """Choose ports and passwords of a stack that does not run yet, so that ``env`` tells them before ``up``. Raises StackError like ``up``."""
        with self._locked():
            state = self._planned(None, None)
            if prometheus and "prometheus_port" not in state:
                taken = [value for name, value in state.items() if name.endswith("_port")]
                self._save({**state, "prometheus_port": processes.free_port(taken)})

    def _planned(self, kafka_port: int | None, database_port: int | None) -> dict[str, Any]:
        state = self._state()
        self._choose_ports(state, kafka_port, database_port, self._broker_process() is not None, self._database_process() is not None)
        state.setdefault("password", database_part.new_password())
        for role in ROLES:
            state.setdefault(f"{role}_password", database_part.new_password())
        self._save(state)
        return state

    def _choose_ports(
        self, state: dict[str, Any], kafka_port: int | None, database_port: int | None, broker_runs: bool, database_runs: bool
    ) -> None:
        wanted = (
            ("kafka_port", kafka_port, broker_runs, "--kafka-port"),
            ("database_port", database_port, database_runs, "--database-port"),
        )
        for key, asked, runs, option in wanted:
            if runs:
                if key not in state:
                    raise StackError(
                        f"a part runs, but {self._state_path} is lost or damaged; `perpflow stack reset` stops the stack and deletes its data"
                    )
                if asked is not None and asked != state.get(key):
                    raise StackError(f"it runs on port {state.get(key)}: `perpflow stack down`, then `perpflow stack up {option} {asked}`")
                continue
            port = asked or state.get(key)
            if port is None:
                port = processes.free_port([value for name, value in state.items() if name.endswith("_port")])
            elif not processes.port_is_free(port):
                raise StackError(
                    f"port {port} is taken by {processes.port_owner(port)}; stop that process, or choose another with "
                    f"`perpflow stack up {option} {processes.free_port()}` (the data stays)"
                )
            state[key] = port
        if not broker_runs:
            # Only the broker uses this port, so it may change.
            known = state.get("controller_port")
            if known is None or not processes.port_is_free(known):
                state["controller_port"] = processes.free_port([state["kafka_port"], state["database_port"]])

    def _start_broker(self, state: dict[str, Any], say: Progress) -> psutil.Process:
        find_java()
        self.broker.configure(state["kafka_port"], state["controller_port"])
        self.broker.format(say)
        process = self.broker.start(say)
        self._remember("kafka", process)
        return process

    def _start_database(self, state: dict[str, Any], say: Progress) -> psutil.Process:
        process = self.database.start(state["database_port"], say)
        self._remember("postgres", process)
        return process

    def _start_prometheus(self, state: dict[str, Any], say: Progress) -> psutil.Process:
        known = state.get("prometheus_port")
        if known is None or not processes.port_is_free(known):  # only `perpflow stack env` gives this port to others, so it may change
            known = processes.free_port([value for name, value in state.items() if name.endswith("_port")])
        process = self.prometheus.start(known, say)
        self.prometheus.wait(process, known)
        self._save({**self._state(), "prometheus_port": known})
        self._remember("prometheus", process)
        return process

    def _start_console(self, say: Progress, environment: Mapping[str, str]) -> psutil.Process:
        state = self._state()
        port = state.get("console_port", console_part.PORT)
        if not processes.port_is_free(port):  # only `perpflow stack status` and a person's browser know it, so it may change
            port = processes.free_port([value for name, value in state.items() if name.endswith("_port")])
        process = self.console.start(port, {**self.env(), **environment}, say)
        self._save({**state, "console_port": port})
        self._remember("console", process)
        return process

    @property
    def console_url(self) -> str | None:
        """Address of the console. None: the stack has none."""
        port = self._state().get("console_port")
        return console_part.url(port) if port is not None else None

    def status(self) -> list[PartStatus]:
        """Return the state of the parts."""
        state = self._state()
        broker, database = self._broker_process(), self._database_process()
        parts = [
            PartStatus(
                "kafka",
                broker is not None,
                broker is not None and "kafka_port" in state and broker_part.answers(state["kafka_port"]),
                state.get("kafka_port"),
                broker.pid if broker else None,
                str(self.broker.log),
            ),
            PartStatus(
                "postgres",
                database is not None,
                database is not None and "password" in state and database_part.answers(self._database_url(state)),
                state.get("database_port"),
                database.pid if database else None,
                str(self.database.log),
            ),
        ]
        if (port := state.get("prometheus_port")) is not None:
            process = self._prometheus_process()
            healthy = process is not None and prometheus_part.answers(port)
            pid = process.pid if process else None
            parts.append(PartStatus("prometheus", process is not None, healthy, port, pid, str(self.prometheus.log)))
        if (port := state.get("console_port")) is not None:
            process = self._console_process()
            healthy = process is not None and console_part.answers(port)
            pid = process.pid if process else None
            parts.append(PartStatus("console", process is not None, healthy, port, pid, str(self.console.log)))
        return parts

    def healthy(self) -> bool:
        """Return whether all parts answer."""
        return all(part.healthy for part in self.status())

    def down(self, progress: Progress | None = None) -> bool:
        """Stop all parts and keep the data. Return whether a part was running."""
        if not self._state_path.exists():
            return False
        say = progress or _no_progress
        with self._locked():
            return self._stop_all(say)

    def _stop_all(self, say: Progress) -> bool:
        broker, database, prometheus = self._broker_process(), self._database_process(), self._prometheus_process()
        console = self._console_process()
        if console is not None:
            say("stopping the console")
            processes.stop(console)
            self._remember("console", None)
        if broker is not None:
            say("stopping the Kafka broker")
            broker.send_signal(signal.SIGTERM)
        if database is not None:
            say("stopping PostgreSQL")
            processes.stop(database, signal.SIGINT)  # fast shutdown: closes sessions instead of waiting for them
            self._remember("postgres", None)
        if broker is not None:
            processes.stop(broker)
            self._remember("kafka", None)
        if prometheus is not None:
            say("stopping Prometheus")
            processes.stop(prometheus)
            self._remember("prometheus", None)
        return any(part is not None for part in (broker, database, prometheus, console))

    def reset(self, progress: Progress | None = None) -> bool:
        """Stop all parts and remove the stack's files, including data. Return whether there were any.

        Raises:
            StackError: the folder is not the folder of a stack.
        """
        if not self.dir.exists():
            return False
        if not self._state_path.exists() and not (self.dir / "lock").exists():
            if any(self.dir.iterdir()):
                raise StackError(f"{self.dir} is not the folder of a stack (it has no state.json): nothing was removed")
            return False
        say = progress or _no_progress
        with self._locked():
            with contextlib.suppress(StackError):  # a reset must work with a damaged state file
                self._stop_all(say)
            for part in (
                self.broker,
                self.database,
                self.prometheus,
                self.console,
            ):  # also processes that a damaged state file no longer names
                process = processes.find_ours(None, part.marker, part.program)
                if process is not None:
                    processes.kill(process)
            say(f"removing {self.dir}")
            for name in _OURS:
                path = self.dir / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder stays if it contains other files
            self.dir.rmdir()
        return True

    # --- environment ---------------------------------------------------------------------------------------------

    def _database_url(self, state: dict[str, Any]) -> str:
        return database_part.database_url(state["database_port"], state["password"])

    def env(self) -> dict[str, str]:
        """Return the environment variables that point perpflow at this stack.

        Raises:
            StackError: it has never been started.
        """
        state = self._state()
        if "kafka_port" not in state or "database_port" not in state:
            raise StackError(f"there is no stack in {self.dir}; `perpflow stack up` creates one")
        found = {
            "KAFKA_BOOTSTRAP_SERVERS": f"{processes.HOST}:{state['kafka_port']}",
            "DATABASE_URL": self._database_url(state),
            # `perpflow db migrate` sets them for the roles. Sink, executor and readers log in with them.
            **{f"PERPFLOW_{role.upper()}_PASSWORD": state[f"{role}_password"] for role in ROLES if f"{role}_password" in state},
            # A local stack mostly plays recordings. Retention uses event time and would delete them within minutes.
            "PERPFLOW_KEEP_HISTORY": "true",
        }
        if "prometheus_port" in state:
            found |= {"PROMETHEUS_URL": prometheus_part.url(state["prometheus_port"]), TARGETS_VARIABLE: str(self.prometheus.targets)}
        return found

    # --- faults, for tests ---------------------------------------------------------------------------------------

    def kill_broker(self) -> None:
        """Send SIGKILL to the broker. Its data survives in the system's page cache."""
        self._kill(self.broker, "kafka")

    def kill_database(self) -> None:
        """Send SIGKILL to the database server and its children. Committed data survives."""
        self._kill(self.database, "postgres")

    def _kill(self, part: _Part, name: str) -> None:
        with self._locked():
            process = self._process(part, name)
            if process is None:
                raise StackError(f"{name} does not run")
            processes.kill(process)
            self._remember(name, None)

    def restart_broker(self, kill: bool = False) -> None:
        """Stop the broker (``kill``: with SIGKILL) and start it on the same port; returns when it answers."""
        self._restart(self.kill_broker if kill else lambda: self._stop_part(self.broker, "kafka", signal.SIGTERM))

    def restart_database(self, kill: bool = False) -> None:
        """Stop the database (``kill``: with SIGKILL) and start it on the same port; returns when it answers."""
        self._restart(self.kill_database if kill else lambda: self._stop_part(self.database, "postgres", signal.SIGINT))

    def _stop_part(self, part: _Part, name: str, number: signal.Signals) -> None:
        with self._locked():
            process = self._process(part, name)
            if process is None:
                raise StackError(f"{name} does not run")
            processes.stop(process, number)
            self._remember(name, None)

    def _restart(self, stop: Callable[[], None]) -> None:
        stop()
        self.up()
