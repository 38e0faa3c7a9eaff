"""The Kubernetes manifests, checked as far as that goes without a cluster: against Kubernetes' own schemas, and against docker-compose.yml."""

from __future__ import annotations

import itertools
from pathlib import PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.cli.services import worker
from schemas.catalogue import ENGINE_INPUTS
from schemas.errors import UserError
from schemas.settings import Settings
from sinks.console.http.listening import check_listening
from sinks.console.options import ConsoleOptions
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.33"
WORKLOADS = {"Deployment", "StatefulSet", "Job"}
# Of compose's services: those that a desk brings itself, and those that trade or send, which nobody should start by applying a folder.
NOT_HERE = {"guard", "trader", "notifier"}
PASSWORDS = {f"PERPFLOW_{role}_PASSWORD": f"{role.lower()}-password" for role in ("WRITER", "READER", "EXECUTOR", "CONSOLE")}


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    """All that ``kubectl apply -k`` applies; every file of the folder is among them."""
    (kustomization,) = read("kustomization.yaml")
    assert {path.name for path in FOLDER.glob("*.yaml")} == {"kustomization.yaml", *kustomization["resources"]}
    return [manifest for name in kustomization["resources"] for manifest in read(name)]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return {name: service for name, service in services.items() if service["image"].startswith("perpflow:")}


def named(manifests: list[dict[str, Any]], *kinds: str) -> dict[str, dict[str, Any]]:
    return {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] in kinds}


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (one,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(one)


def test_kubernetes_takes_them(manifests: list[dict[str, Any]]) -> None:
    checked = 0
    for manifest in manifests:
        if "keda.sh" not in manifest["apiVersion"]:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
            checked += 1
    assert checked == len(manifests) - 1  # KEDA's own resource is held to its documentation below
    with pytest.raises(kubernetes_validate.ValidationError):  # the check is able to fail
        kubernetes_validate.validate({**manifests[0], "dota": {}}, VERSION, strict=True)


def test_they_run_what_compose_runs(manifests: list[dict[str, Any]], compose: dict[str, Any]) -> None:
    workloads = named(manifests, *WORKLOADS)
    assert set(workloads) == set(compose) - NOT_HERE
    for name, workload in workloads.items():
        one, service = container(workload), compose[name]
        assert one["image"] == service["image"], name
        if name == "console":  # what stands in front of it is another: the rest of its arguments is below
            assert one["args"][:3] == service["command"][:3]
        else:
            assert one["args"] == service["command"], name
        assert ("restart" in service and service["restart"] == "no") == (workload["kind"] == "Job"), name


def test_they_are_told_what_compose_tells(manifests: list[dict[str, Any]], compose: dict[str, Any]) -> None:
    shared = named(manifests, "ConfigMap")["perpflow"]["data"]
    known = {field.alias for field in Settings.model_fields.values()}
    assert set(shared) <= known
    assert set(shared) == {*compose["worker"]["environment"], "PERPFLOW_REPLICATION_FACTOR"}
    owners = {"migrate", "maintenance"}
    for name, workload in named(manifests, *WORKLOADS).items():
        one = container(workload)
        assert one["envFrom"] == [{"configMapRef": {"name": "perpflow"}}], name
        own = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in one.get("env", [])}  # a secret is a reference, never a value
        told = compose[name]["environment"]
        wanted = {variable for variable in PASSWORDS if told.keys() & {variable, f"{variable}_FILE"}} | ({"DATABASE_URL"} & own.keys())
        if name == "console":
            assert own.pop("PERPFLOW_CONSOLE_SECRET") == {"name": "perpflow-console", "key": "secret"}
        assert set(own) == wanted and ("DATABASE_URL" in own) == (name in owners), name
        for variable, reference in own.items():
            assert reference == {"name": "perpflow-database", "key": PASSWORDS.get(variable, "owner-url")}, name
    assert not named(manifests, "Secret")
    assert "@" not in shared["DATABASE_URL"]


def test_a_service_is_watched_bounded_and_unprivileged(manifests: list[dict[str, Any]]) -> None:
    for name, workload in named(manifests, *WORKLOADS).items():
        pod, one = workload["spec"]["template"]["spec"], container(workload)
        assert pod["securityContext"]["runAsNonRoot"] and one["securityContext"]["readOnlyRootFilesystem"], name
        assert one["resources"]["requests"].keys() == {"cpu", "memory"} and "memory" in one["resources"]["limits"], name
        if workload["kind"] == "Job":
            continue
        port = named(manifests, "ConfigMap")["perpflow"]["data"]["PERPFLOW_HTTP_PORT"]
        assert one["ports"][0] == {"name": "http", "containerPort": int(port)} and len(one["ports"]) == 1 + (name == "console"), name
        assert one["startupProbe"]["httpGet"]["path"] == one["readinessProbe"]["httpGet"]["path"] == "/health", name
        # /health is 503 while Kafka or a venue is away, and a restart mends neither: alive is who answers at all.
        assert one["livenessProbe"]["httpGet"]["path"] == "/metrics", name
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items(), name
    singles = {name for name, one in named(manifests, "Deployment").items() if one["spec"]["strategy"]["type"] == "Recreate"}
    assert {name for name in named(manifests, "Deployment") if name.startswith("producer")} <= singles, (
        "two producers would write each trade twice"
    )
    assert set(named(manifests, "PodDisruptionBudget")) == {"worker", "sink"} == set(named(manifests, "Deployment")) - singles


def test_the_autoscaler_follows_the_workers_group(manifests: list[dict[str, Any]]) -> None:
    spec = named(manifests, "ScaledObject")["worker"]["spec"]
    shared = named(manifests, "ConfigMap")["perpflow"]["data"]
    assert spec["scaleTargetRef"] == {"name": "worker"}
    assert "replicas" not in named(manifests, "Deployment")["worker"]["spec"], "two would set the number of workers"
    assert 2 <= spec["minReplicaCount"] <= spec["maxReplicaCount"] == int(shared["PERPFLOW_PARTITIONS"])
    ((trigger),) = spec["triggers"]
    of = trigger["metadata"]
    assert trigger["type"] == "kafka" and of["bootstrapServers"] == shared["KAFKA_BOOTSTRAP_SERVERS"]
    assert of["consumerGroup"] == shared["PERPFLOW_TOPIC_PREFIX"] + worker.default_app_id("signals")
    assert of["topic"] in ENGINE_INPUTS
    assert all(isinstance(value, str) for value in of.values()), "KEDA takes text only"
    ours = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert ours["scaleDown"]["stabilizationWindowSeconds"] > ours["scaleUp"]["stabilizationWindowSeconds"]


def test_the_console_is_reached_through_its_front_only(manifests: list[dict[str, Any]]) -> None:
    one = container(named(manifests, "Deployment")["console"])
    options = dict(itertools.pairwise(one["args"]))
    listening = ConsoleOptions(host=options["--host"], proxy=options["--proxy"])
    check_listening(listening, users=1)
    with pytest.raises(UserError, match="no users"):
        check_listening(listening, users=0)
    assert listening.secure and not listening.local_names
    pages = next(port for port in one["ports"] if port["name"] == "pages")
    assert pages["containerPort"] == ConsoleOptions().port
    service = named(manifests, "Service")["console"]["spec"]
    assert service["selector"] == {"app.kubernetes.io/name": "console"} and service.get("type", "ClusterIP") == "ClusterIP"
    assert [port["targetPort"] for port in service["ports"]] == ["pages"]
    policy = named(manifests, "NetworkPolicy")["console"]["spec"]
    assert policy["podSelector"]["matchLabels"] == service["selector"] and policy["policyTypes"] == ["Ingress"]
    reachable = {port["port"]: rule.get("from") for rule in policy["ingress"] for port in rule["ports"]}
    assert set(reachable) == {"pages", "http"} and reachable["pages"] and reachable["http"] is None


def test_the_first_user_has_the_password_of_a_mounted_secret(manifests: list[dict[str, Any]]) -> None:
    pod = named(manifests, "Job")["console-owner"]["spec"]["template"]["spec"]
    (one,) = pod["containers"]
    file = PurePosixPath(one["args"][one["args"].index("--password-file") + 1])
    (mount,) = [mount for mount in one["volumeMounts"] if PurePosixPath(mount["mountPath"]) == file.parent]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    assert mount["readOnly"] and [item["path"] for item in volume["secret"]["items"]] == [file.name]
