"""Settings that TimescaleDB's background jobs need of a PostgreSQL server: values found, values wanted, the line that sets them."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

# Jobs are spread over their schedules (see jobs.py), so few run at once. 16 is the extension's default and leaves room for
# the launcher, one scheduler a database, and the jobs of other databases on the server.
BACKGROUND_WORKERS = 16
# Workers that PostgreSQL starts beside those of the extension and of parallel queries (TimescaleDB's own formula).
RESERVED_WORKERS = 3


@dataclass(frozen=True)
class Shortage:
    """One setting that is too small.

    Attributes:
        setting: Its name in ``postgresql.conf``.
        found: Its value on the server.
        wanted: The smallest value that is enough.
        line: The SQL statement that sets it. The server must be restarted afterwards.
    """

    setting: str
    found: str
    wanted: str
    line: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.found}, needs {self.wanted}: {self.line}  (then restart the server)"


def shortages(connection: psycopg.Connection) -> list[Shortage]:
    """Return the settings that are too small for the jobs; empty on a server without TimescaleDB in this database."""
    if connection.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").fetchone() is None:
        return []
    found: dict[str, str] = dict(
        connection.execute(
            "SELECT name, setting FROM pg_settings WHERE name IN"
            " ('shared_preload_libraries', 'timescaledb.max_background_workers', 'max_worker_processes', 'max_parallel_workers')"
        ).fetchall()
    )
    return judge(found)


def judge(found: dict[str, str]) -> list[Shortage]:
    """Return the settings that are too small.

    Args:
        found: Name -> value of the four settings. ``timescaledb.max_background_workers`` exists only where the extension is preloaded.
    """
    preloaded = [name.strip() for name in found["shared_preload_libraries"].split(",") if name.strip()]
    if "timescaledb" not in preloaded:
        names = [*preloaded, "timescaledb"]
        line = "ALTER SYSTEM SET shared_preload_libraries = " + ", ".join(f"'{name}'" for name in names) + ";"
        return [Shortage("shared_preload_libraries", repr(",".join(preloaded)), repr(",".join(names)), line)]
    workers = int(found["timescaledb.max_background_workers"])
    processes = int(found["max_worker_processes"])
    # Raising the first one alone would move the shortage to the second one.
    wanted_processes = RESERVED_WORKERS + max(workers, BACKGROUND_WORKERS) + int(found["max_parallel_workers"])
    limits = (("timescaledb.max_background_workers", workers, BACKGROUND_WORKERS), ("max_worker_processes", processes, wanted_processes))
    return [
        Shortage(setting, str(value), str(least), f"ALTER SYSTEM SET {setting} = {least};")
        for setting, value, least in limits
        if value < least
    ]
