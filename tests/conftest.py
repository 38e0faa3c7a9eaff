"""Shared fixtures: a real broker and a real database, once per run, and an environment of its own for each test."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
import structlog

from deploy.stack import Stack
from schemas.settings import ROLES, Settings
from tests.support.paths import ROOT, TESTS
from tests.support.scheduling import LongestFirst, longest_first

# Images for containers often forbid bytecode files. Then each of the hundreds of processes of a run compiles the product again, and each
# process of ``pytest -n`` rewrites the assertions of all test files.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Points at the folder of a stack that stays up between runs; without it each run starts one of its own and removes it.
REUSE_VARIABLE = "PERPFLOW_TEST_STACK_DIR"
# Where the processes of ``pytest -n`` find the stack that they share. The first that needs it starts it; the controller removes it.
SHARED_VARIABLE = "PERPFLOW_TEST_SHARED_STACK"


# A stack in memory waits for no disk: Kafka syncs several files a partition, PostgreSQL every commit, and tests make some 35,000 partitions. Kills of
# processes lose nothing that they would keep on a disk. With less free memory than this they are on the disk.
MEMORY = Path("/dev/shm")
MEMORY_FREE_BYTES, SPARE_BYTES = 4 << 30, 8 << 30


# The first example of a compiled function waits for its compilation: a deadline would judge that, not the function.
hypothesis.settings.register_profile("compiled", deadline=None)
hypothesis.settings.load_profile("compiled")

# Brokers of tests live for seconds or minutes: Java's second compiler costs them more than it gains (measured: a third of the CPU time of starting one
# and of making topics). Brokers that the tests start as users do inherit it too.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

# The markets and recordings of the tests are shorter than the day of trades that an instrument needs to be warm (D11). Processes inherit it.
os.environ.setdefault("PERPFLOW_ENGINE_SETTINGS", "quantile_history_ms=0")

# Fewer than a real environment's: making and removing a topic's partitions is most of the work of many tests.
PARTITIONS = 6


def folder_for_stacks() -> str | None:
    """Return the folder in memory when there is enough of it, else None, which is the system's folder for temporary files."""
    if not os.access(MEMORY, os.W_OK) or psutil.disk_usage(str(MEMORY)).free < MEMORY_FREE_BYTES:
        return None
    return str(MEMORY) if psutil.virtual_memory().available >= MEMORY_FREE_BYTES + SPARE_BYTES else None


@dataclass(frozen=True)
class Services:
    """Where the broker and the database are.

    Attributes:
        kafka: Bootstrap servers.
        database_url: URL of a database whose user may create databases.
        local: The local stack, or None when they run in containers.
    """

    kafka: str
    database_url: str
    local: Stack | None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that talks to processes or sockets gets one second try, and the report says that it did (``R``): on a machine that is busy
    with other things a limit of time may pass that says nothing about the code. What fails of itself fails twice. Pure tests have no such
    excuse."""
    longest_first(items)
    for item in items:
        if item.get_closest_marker("stack") or item.path.relative_to(TESTS).parts[0] not in ("schemas", "stream_apps"):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_configure(config: pytest.Config) -> None:
    """Before the processes of ``pytest -n`` start, compile the kernels once: each of them would do it.

    A shell that points at a stack has the passwords of its roles; tests that work under a role say so themselves.
    """
    for role in ROLES:
        os.environ.pop(f"PERPFLOW_{role.upper()}_PASSWORD", None)
    if not hasattr(config, "workerinput"):
        os.environ[SHARED_VARIABLE] = tempfile.mkdtemp(prefix="perpflow-tests-", dir=folder_for_stacks())
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        from producers.binance.warmup import compile_frames
        from schemas.codec.avro import Codec
        from stream_apps.core.paper.warmup import compile_decisions, compile_kernels
        from stream_apps.core.quality.warmup import compile_quality_kernels

        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            for compiled in [
                pool.submit(work, Codec()) for work in (compile_kernels, compile_decisions, compile_quality_kernels, compile_frames)
            ]:
                compiled.result()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile``, processes take the longest files first."""
    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return LongestFirst(config, log)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the shared stack when all processes are done with it."""
    if not hasattr(config, "workerinput") and (folder := os.environ.pop(SHARED_VARIABLE, None)):
        if (Path(folder) / "stack").exists():
            Stack(Path(folder) / "stack").reset()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def logging_of_its_own() -> Iterator[None]:
    """Loggers write to the streams of the test that set them up, which are closed after it: no test may inherit another's."""
    yield
    structlog.reset_defaults()


def docker_answers() -> bool:
    """Return whether a container engine answers."""
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.fixture(scope="session")
def stack() -> Iterator[Services]:
    """The broker and the database of this run: containers when an engine answers, else one local stack for all processes of the run.

    No test may stop them or set what holds for the whole server. One that does takes ``private_stack``.
    """
    if reuse := os.environ.get(REUSE_VARIABLE):
        running = Stack(reuse)
        running.up()
        yield _services(running)
    elif docker_answers():
        yield from _containers()
    else:
        shared = Stack(Path(os.environ[SHARED_VARIABLE]) / "stack")
        shared.up()  # takes a lock; harmless when another process was first
        yield _services(shared)


@pytest.fixture(scope="session")
def private_stack() -> Iterator[Services]:
    """A broker and a database for the tests that kill them (marker ``private_stack``, which puts ``environment`` there, too)."""
    if docker_answers():
        pytest.skip("kills the local stack's processes; these run in containers")
    with tempfile.TemporaryDirectory(prefix="perpflow-own-", dir=folder_for_stacks()) as folder:
        own = Stack(Path(folder) / "stack")
        own.up()
        try:
            yield _services(own)
        finally:
            own.reset()


def _services(local: Stack) -> Services:
    env = local.env()
    return Services(env["KAFKA_BOOTSTRAP_SERVERS"], env["DATABASE_URL"], local)


def _containers() -> Iterator[Services]:
    """Start the images of docker-compose.yml, the broker with an address that this process can reach."""
    import yaml
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.container import DockerContainer

    from deploy.stack import broker, processes

    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    port = processes.free_port()
    environment = {
        **services["kafka"]["environment"],
        "KAFKA_ADVERTISED_LISTENERS": f"INTERNAL://localhost:19092,EXTERNAL://{processes.HOST}:{port}",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    }
    kafka_container = DockerContainer(services["kafka"]["image"]).with_envs(**environment).with_bind_ports(9092, port)
    with kafka_container, PostgresContainer(services["timescaledb"]["image"], driver=None) as database_container:
        deadline = time.monotonic() + 120
        while not broker.ready(port):
            assert time.monotonic() < deadline, kafka_container.get_logs()
            time.sleep(0.5)
        yield Services(f"{processes.HOST}:{port}", database_container.get_connection_url(), None)


@pytest.fixture(scope="session")
def kafka(stack: Services) -> str:
    """Bootstrap servers of the broker of this run."""
    return stack.kafka


@pytest.fixture(scope="session")
def database_url(stack: Services) -> str:
    """URL of the database server of this run. Tests that write take ``environment``, which has a database of its own."""
    return stack.database_url


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings with a topic prefix and an empty database of this test's own; both are removed afterwards.

    Topics are created when the test asks: ``create_topics(environment)``, or the fixture ``topics``.
    """
    import psycopg

    from deploy.stack.topics import delete_topics

    alone = request.node.get_closest_marker("private_stack") is not None
    stack: Services = request.getfixturevalue("private_stack" if alone else "stack")
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    settings = Settings(
        kafka_bootstrap_servers=stack.kafka,
        database_url=f"{stack.database_url.rpartition('/')[0]}/{name}",
        topic_prefix=f"{name}.",
        partitions=PARTITIONS,
        keep_history=True,
    )
    yield settings
    delete_topics(settings)
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def topics(environment: Settings) -> list[str]:
    """The catalogue's topics, created in this test's environment; their wire names."""
    from deploy.stack.topics import create_topics

    return create_topics(environment)


@pytest.fixture
def environment_variables(environment: Settings) -> Callable[..., dict[str, str]]:
    """Return a function that gives the variables a child process needs to run in this test's environment."""

    def variables(**more: Any) -> dict[str, str]:
        names = {field.alias: getattr(environment, name) for name, field in Settings.model_fields.items()}
        ours = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in names.items() if key}
        return {**os.environ, "PYTHONPATH": str(ROOT), **ours, **{key: str(value) for key, value in more.items()}}

    return variables
