"""A room imports only what stands before it: schemas, stream_apps cores, producers / agents / replay / sinks, deploy (DESIGN 5a)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Room -> rooms it may import. stream_apps itself holds the cores' file loaders, which stand with the cores.
ALLOWED = {
    "schemas": {"schemas"},
    "stream_apps.core": {"schemas", "stream_apps.core"},
    "stream_apps.agents": {"schemas", "stream_apps", "stream_apps.core", "stream_apps.agents"},
    "stream_apps.replay": {"schemas", "stream_apps", "stream_apps.core", "stream_apps.replay"},
    "stream_apps.research": {"schemas", "stream_apps", "stream_apps.core", "stream_apps.replay", "stream_apps.research"},
    "stream_apps": {"schemas", "stream_apps", "stream_apps.core"},
    "producers": {"schemas", "producers"},
    "sinks": {"schemas", "stream_apps.core", "sinks"},
    "deploy": {
        "schemas",
        "stream_apps",
        "stream_apps.core",
        "stream_apps.agents",
        "stream_apps.replay",
        "stream_apps.research",
        "producers",
        "sinks",
        "deploy",
    },
}
ROOMS = sorted(ALLOWED, key=len, reverse=True)
# What a pure core may not touch: clocks, randomness, files, sockets, processes, Kafka, Faust, the database.
IMPURE = {"time", "datetime", "random", "secrets", "uuid", "os", "socket", "subprocess", "threading", "asyncio", "logging", "structlog"}
IMPURE |= {
    "faust",
    "aiokafka",
    "confluent_kafka",
    "psycopg",
    "httpx",
    "aiohttp",
    "websockets",
    "pathlib",
    "tempfile",
    "io",
    "shutil",
    "importlib",
    "requests",
    "sqlite3",
}


def room_of(module: str) -> str | None:
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), None)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


FILES = [path for room in ("schemas", "stream_apps", "producers", "sinks", "deploy") for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_stands_before_it(path: Path) -> None:
    room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    assert room is not None
    for name in imports(path):
        target = room_of(name)
        assert target is None or target in ALLOWED[room], f"{room} imports {name}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "stream_apps" / "core").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT / "stream_apps" / "core"))
)
def test_cores_are_pure(path: Path) -> None:
    touched = {name.split(".")[0] for name in imports(path)} & IMPURE
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not touched and "open" not in called, f"{path.name} imports {touched} or opens files"


def test_the_top_level_has_the_agreed_rooms_only() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    built = {"build", "perpflow.egg-info", "__pycache__", "logs"}
    assert folders - built == {"producers", "stream_apps", "schemas", "sinks", "deploy", "tests"}
