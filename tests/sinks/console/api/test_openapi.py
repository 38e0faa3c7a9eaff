"""The whole OpenAPI document under schemathesis: nothing that a client sends makes the console fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deploy.database import migrate as database
from schemas.settings import Settings
from tests.support.console.people import add_user, logged_in
from tests.support.console.server import console

pytestmark = pytest.mark.usefixtures("topics")
# Cases an operation: enough for every kind of invalid value; the long form is for a person with time.
EXAMPLES = int(os.environ.get("PERPFLOW_FUZZ_EXAMPLES", "3"))


def fuzz(base_url: httpx.URL, headers: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    address = str(base_url).rstrip("/")
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{address}/api/v1/openapi.json", "--url", address]
    # The live stream does not end by itself; its parameters have tests of their own.
    command += [
        "--checks",
        "not_a_server_error",
        "--max-examples",
        str(EXAMPLES),
        "--phases",
        "examples,coverage,fuzzing",
        "--exclude-path",
        "/api/v1/live",
    ]
    command += ["--exclude-path-regex", "/api/v1/auth/(logout|sessions).*", "--seed", "1", "--no-color"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)


@pytest.mark.parametrize("role", [None, "operator"])
def test_no_request_makes_it_fail(environment: Settings, tmp_path: Path, role: str | None) -> None:
    """Without users (all reads), and as an operator (all commands, against a real broker)."""
    database.migrate(environment.database_url)
    if role is not None:
        add_user(environment.database_url, "olga", "operator")
    with console(environment) as anyone:
        headers = {}
        if role is not None:
            with logged_in(anyone.base_url, "olga") as olga:
                headers = {"Authorization": olga.headers["Authorization"]}
        found = fuzz(anyone.base_url, headers, tmp_path)
    assert found.returncode == 0, found.stdout[-6_000:]
    assert "Server error" not in found.stdout
