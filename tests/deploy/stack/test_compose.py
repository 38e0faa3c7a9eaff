"""The container stack, checked as far as that goes without a container engine."""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from deploy import cli
from deploy.stack import broker
from deploy.stack.java import KAFKA_VERSION
from producers.venues import VENUES
from schemas.errors import UserError
from schemas.settings import Settings
from sinks.console.http.listening import check_listening
from sinks.console.options import ConsoleOptions
from sinks.venues.account_login import KEY, SECRET
from tests.support.paths import ROOT

OURS = "perpflow:"
JOBS = {"migrate", "topics", "strategies", "console-owner"}
TRADING = ("guard", "trader")
ROLE_PASSWORDS = {
    "sink": {"WRITER"},
    "console": {"READER", "CONSOLE"},
    "console-owner": {"CONSOLE"},
    "evolve": {"READER"},
    **{name: {"EXECUTOR"} for name in ("executor", *TRADING)},
    "migrate": {"WRITER", "READER", "EXECUTOR", "CONSOLE"},
}
SECRETS = {"POSTGRES_PASSWORD": "for-this-test", "GRAFANA_PASSWORD": "for-this-test-too"} | {
    f"PERPFLOW_{role}_PASSWORD": f"of-{role.lower()}" for role in ("WRITER", "READER", "EXECUTOR", "CONSOLE")
}
SECRETS |= {"CONSOLE_OWNER_PASSWORD": "for this test only", "CONSOLE_SECRET": "x" * 48}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def ours(services: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in services.items() if service["image"].startswith(OURS)}


def test_the_parts_are_there(services: dict[str, Any]) -> None:
    images = {service["image"].rpartition(":")[0] for service in services.values()}
    assert {"apache/kafka", "timescale/timescaledb", "confluentinc/cp-schema-registry", "prom/prometheus", "grafana/grafana"} <= images
    assert {"producer", "worker", "sink", "executor", "monitor", "maintenance"} | JOBS <= set(ours(services))


def test_every_venue_has_a_producer(services: dict[str, Any]) -> None:
    commands = {tuple(service["command"]): service for name, service in ours(services).items() if name.startswith("producer")}
    # Bybit's spot pairs are left out: nothing reads them that Binance's do not serve.
    assert set(commands) == {("produce", "--venue", name) for name in VENUES if name != "BYBIT_SPOT"}
    for (*_, name), service in commands.items():
        assert ("profiles" in service) is (name not in ("BINANCE", "BINANCE_SPOT", "COINBASE"))


def test_orders_leave_only_when_asked_and_never_for_real_money(compose: dict[str, Any], services: dict[str, Any]) -> None:
    for name in TRADING:
        service = services[name]
        assert service["profiles"] == ["trading"] and service["command"][service["command"].index("--mode") + 1] == "testnet"
        assert set(service["secrets"]) == {name for name, source in compose["secrets"].items() if "file" in source}


def test_the_console_asks_for_a_login_and_is_published_on_this_machine_only(compose: dict[str, Any], services: dict[str, Any]) -> None:
    service, owner = services["console"], services["console-owner"]
    options = dict(itertools.pairwise(service["command"]))
    listening = ConsoleOptions(host=options["--host"], published=options["--published"], prometheus_url=options["--prometheus"])
    check_listening(listening, users=1)
    with pytest.raises(UserError, match="no users"):
        check_listening(listening, users=0)
    (port,) = service["ports"]
    assert port == f"{listening.published}:{listening.port}:{listening.port}"
    assert urlsplit(listening.prometheus_url).hostname in services
    assert "console-owner" in service["depends_on"] and "--missing" in owner["command"], "a second start would be an error"
    assert owner["command"][-1] == "/run/secrets/console_owner_password" and "console_owner_password" in owner["secrets"]
    assert {*service["secrets"], *owner["secrets"]} == {name for name, source in compose["secrets"].items() if "environment" in source}
    assert {source["environment"] for source in compose["secrets"].values() if "environment" in source} <= SECRETS.keys()


def test_auto_evolve_reports_each_day_and_applies_nothing(services: dict[str, Any]) -> None:
    command = services["evolve"]["command"]
    assert command[command.index("--every") + 1] == "86400" and "--apply" not in command
    folder = command[command.index("--out") + 1]
    assert [volume.split(":")[1] for volume in services["evolve"]["volumes"]] == [folder]


def test_images_are_pinned_and_the_broker_is_the_local_stacks(services: dict[str, Any]) -> None:
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+", tag), f"{name}: {service['image']}"
    assert services["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_every_service_restarts_and_is_watched_or_runs_once(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name in JOBS:
            assert service["restart"] == "no" and "healthcheck" not in service, name
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert all(service["healthcheck"][key] for key in ("interval", "timeout", "retries", "start_period")), name


def test_dependencies_exist_and_can_be_waited_for(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, f"{name} depends on {other}"
            expected = "service_completed_successfully" if other in JOBS else "service_healthy"
            assert how["condition"] == expected, f"{name} on {other}"
    done: set[str] = set()
    while len(done) < len(services):
        ready = {name for name, service in services.items() if set(service.get("depends_on", {})) <= done} - done
        assert ready, f"these wait for each other: {set(services) - done}"
        done |= ready


def test_our_environment_is_settings_and_the_local_stacks(services: dict[str, Any]) -> None:
    aliases = {field.alias for field in Settings.model_fields.values()}
    for name, service in ours(services).items():
        keys = {f"{KEY}_FILE", f"{SECRET}_FILE"} if name in TRADING else set()
        if name.startswith("console"):  # its secrets are files
            files = {key: value for key, value in service["environment"].items() if key.endswith("_FILE")}
            assert {value.removeprefix("/run/secrets/") for value in files.values()} <= set(service["secrets"])
            keys = set(files)
        assert keys <= set(service["environment"]) <= aliases | keys, name
        # What `perpflow stack env` exports, and what a container needs besides.
        assert {"KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL", "PERPFLOW_KEEP_HISTORY", "SCHEMA_REGISTRY_URL", "PERPFLOW_HTTP_PORT"} <= set(
            service["environment"]
        )
        values = {key: interpolated(value, SECRETS) for key, value in service["environment"].items()}
        settings = Settings.model_validate(values)
        assert settings.partitions == Settings().partitions
        # Least privilege: the jobs of the database are its owner, who writes has the password of its role, others have none.
        owner = "perpflow:for-this-test@" if name in ("migrate", "maintenance") else ""
        assert settings.database_url == f"postgresql://{owner}timescaledb:5432/perpflow", name
        found = {key.removesuffix("_FILE") for key in values}
        assert {key[9:-9] for key in found if key.endswith("_PASSWORD")} == ROLE_PASSWORDS.get(name, set()), name
    reader = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/datasources.yml").read_text())["datasources"][1]
    assert (reader["user"], reader["secureJsonData"]) == ("perpflow_reader", {"password": "$PERPFLOW_READER_PASSWORD"})
    assert "POSTGRES_PASSWORD" not in services["grafana"]["environment"]


def interpolated(value: str, variables: dict[str, str]) -> str:
    def replace(found: re.Match[str]) -> str:
        name, _, default = found[1].partition(":")
        return variables[name] if default.startswith("?") else variables.get(name, default.removeprefix("-"))

    return re.sub(r"\$\{([^}]*)\}", replace, value)


def test_addresses_lead_to_services_and_ports_that_are_there(services: dict[str, Any]) -> None:
    environment = services["worker"]["environment"]
    listeners = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INTERNAL://{environment['KAFKA_BOOTSTRAP_SERVERS']}" in listeners
    assert "EXTERNAL://localhost:9092" in listeners  # the default of KAFKA_BOOTSTRAP_SERVERS, so a shell needs no setting
    assert Settings.model_fields["kafka_bootstrap_servers"].default == "localhost:9092"
    registry = services["schema-registry"]["environment"]
    assert environment["SCHEMA_REGISTRY_URL"] == "http://schema-registry:8081" and registry["SCHEMA_REGISTRY_LISTENERS"].endswith(":8081")
    assert registry["SCHEMA_REGISTRY_KAFKASTORE_BOOTSTRAP_SERVERS"] == environment["KAFKA_BOOTSTRAP_SERVERS"]
    database_settings = services["timescaledb"]["environment"]
    assert database_settings["POSTGRES_USER"] == database_settings["POSTGRES_DB"] == "perpflow"


def test_the_broker_is_set_as_the_local_one(services: dict[str, Any], tmp_path: Path) -> None:
    """A record or a group that works in one place works in the other."""
    local = broker.Broker(tmp_path / "kafka", tmp_path / "logs")
    local.configure(1, 2)
    properties = dict(line.split("=", 1) for line in local.properties.read_text().splitlines())
    container = services["kafka"]["environment"]
    for key in (
        "message.max.bytes",
        "replica.fetch.max.bytes",
        "auto.create.topics.enable",
        "group.initial.rebalance.delay.ms",
        "offsets.topic.replication.factor",
        "transaction.state.log.min.isr",
        "broker.session.timeout.ms",
    ):
        assert container["KAFKA_" + key.replace(".", "_").upper()] == properties[key], key


def test_commands_exist(services: dict[str, Any]) -> None:
    for name, service in ours(services).items():
        first, *rest = service["command"]
        assert first in cli.COMMANDS, f"{name}: perpflow {first}"
        command = cli.load(first)
        for word in rest:
            if word.startswith("-"):
                assert any(word in parameter.opts for parameter in command.params), f"{name}: {first} has no {word}"
            elif getattr(command, "commands", None):
                assert word in command.commands, f"{name}: perpflow {first} {word}"
                command = command.commands[word]


def test_no_secrets_in_files() -> None:
    files = [
        ROOT / "docker-compose.yml",
        ROOT / "deploy" / "Dockerfile",
        *(path for name in ("grafana", "prometheus") for path in (ROOT / "deploy" / name).rglob("*.*") if path.suffix != ".pyc"),
    ]
    for path in files:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            # The value that follows a telling name, and nothing but a variable may be it.
            found = re.search(r"(?i)^\s*[\"']?\w*(password|secret|api_?key|token)\w*[\"']?\s*[:=]\s*(.+)", line)
            if found and not line.lstrip().startswith("#"):
                value = r"\"\$\{\w+:\?[^}]*\}\"|\$\w+|/run/secrets/\w+|\[[\w, ]+\]|\{ file: \"\$\{\w+_FILE:-\./\w+\}\" \}"
                value += r"|\{ environment: [A-Z_]+ \}"
                assert re.fullmatch(value, found[2].strip()), f"{path.name}:{number}: {line.strip()}"
    for line in (ROOT / "docker-compose.yml").read_text().splitlines():
        assert not re.search(r"://[^:/@\s]+:[^@$\s]+@", line), line
    ignored = (ROOT / ".gitignore").read_text().split()
    assert ".env" in ignored


def test_nothing_listens_beyond_this_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) == 7
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_volumes_and_mounted_files_exist(compose: dict[str, Any], services: dict[str, Any]) -> None:
    named = set()
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
                assert volume.endswith(":ro"), f"{name}: {volume}"
            else:
                named.add(source)
    assert named == set(compose["volumes"])


# --- image -----------------------------------------------------------------------------------------------------------


def copied() -> list[str]:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    return [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]


def test_the_image_gets_what_it_needs(services: dict[str, Any]) -> None:
    build = ours(services)["worker"]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    assert ignore[0] == "*"
    for source in copied():
        assert (ROOT / source).exists(), source
        assert source in allowed, f".dockerignore keeps {source} out"
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and not fnmatch.fnmatch(path.name, ".*") and any(path.glob("*.py"))} - {
        "tests"
    }
    assert rooms <= set(copied())


def test_the_image_runs_as_a_normal_user_and_stops_on_a_signal() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    base = re.search(r"^FROM python:(\d+\.\d+)\.\d+", text, re.MULTILINE)
    assert base and base[1] == "3.11"
    assert re.search(r"^USER (?!root)\w+", text, re.MULTILINE)
    assert 'ENTRYPOINT ["perpflow"]' in text  # not through a shell, which would swallow SIGTERM


def test_docker_compose_reads_it() -> None:
    """The client alone suffices: it needs no engine to resolve a file."""
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no docker compose client")
    command = ["docker", "compose", "-f", str(ROOT / "docker-compose.yml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **SECRETS}, check=False)
    assert done.returncode == 0, done.stderr
    without = {key: value for key, value in os.environ.items() if key not in SECRETS}
    refused = subprocess.run([*command[:-1], "--env-file", os.devnull], capture_output=True, text=True, env=without, check=False)
    assert refused.returncode != 0


# --- Prometheus ------------------------------------------------------------------------------------------------------


def test_prometheus_scrapes_every_service_of_ours(services: dict[str, Any]) -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = {}
    for job in config["scrape_configs"]:
        for discovery in job.get("dns_sd_configs", []):
            for name in discovery["names"]:
                targets[name] = str(discovery["port"])
                assert job["job_name"] == name.partition("-")[0]
    running = {name: service["environment"]["PERPFLOW_HTTP_PORT"] for name, service in ours(services).items() if name not in JOBS}
    assert targets == running
    assert all(f"127.0.0.1:{port}/health" in services[name]["healthcheck"]["test"][-1] for name, port in running.items())
    assert all((ROOT / "deploy/prometheus" / name).exists() for name in config["rule_files"])
