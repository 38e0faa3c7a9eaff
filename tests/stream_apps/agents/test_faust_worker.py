"""The worker against a real broker, with a toy engine whose result names every record it saw: nothing lost, nothing twice, whatever happens."""

from __future__ import annotations

import json
import random
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.settings import Settings
from tests.stream_apps.agents.faust_lab import Lab

pytestmark = pytest.mark.stack


@pytest.fixture
def lab(environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]], tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(environment, environment_variables(), tmp_path)
    yield lab
    lab.close()
    admin = AdminClient({"bootstrap.servers": environment.kafka_bootstrap_servers})
    for future in admin.delete_topics([f"{environment.topic_prefix}toy-state-changelog"]).values():
        future.result(30)


def until(condition: Callable[[], bool], lab: Lab, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "\n".join(lab.log(i)[-4000:] for i in range(len(lab.workers)))
        time.sleep(0.1)


def recovered(lab: Lab, worker: int) -> list[list[int]]:
    """Return the partitions of each recovery that a worker logged."""
    events = [json.loads(line) for line in lab.log(worker).splitlines() if '"event": "recovered"' in line]
    return [event["partitions"] for event in events]


def ask(lab: Lab, worker: int, path: str) -> str:
    port = re.search(r'"http_port": (\d+)', lab.log(worker))
    assert port, lab.log(worker)
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def test_every_record_arrives_once_and_in_order_and_a_restart_goes_on(lab: Lab) -> None:
    lab.produce(40)
    worker = lab.worker()
    lab.wait()
    lab.produce(20)
    lab.wait()
    health = json.loads(ask(lab, 0, "/health"))
    assert health["ok"] and health["partitions"] == list(range(lab.settings.partitions)) and health["event_time"] is not None
    applied = re.search(r'perpflow_records_applied_total\{topic="agg_trades"\} (\S+)', ask(lab, 0, "/metrics"))
    assert applied and float(applied[1]) == sum(len(values) for values in lab.written.values())
    assert lab.stop(worker) == 0
    assert not re.search("too long|in time|hangs", lab.log(0)), "a stop runs into none of its own limits"
    assert lab.check() == 0
    lab.produce(20)
    again = lab.worker()
    lab.wait()
    assert lab.stop(again) == 0
    assert lab.check() == 0, "a clean stop must leave nothing to repeat"


# In CI test_system_kills kills a worker of the whole pipeline.
@pytest.mark.long
def test_kill_9_at_random_moments(lab: Lab) -> None:
    moments = random.Random(3)
    worker = lab.worker()
    for _ in range(3):
        for _ in range(10):
            lab.produce(4)
            time.sleep(moments.random() * 0.3)
        time.sleep(moments.random() * 1.5)
        worker.kill()
        worker.wait(10)
        worker = lab.worker("toy", "session=6")
    lab.produce(5)
    lab.wait(90)
    assert lab.stop(worker) == 0
    lab.check()


def test_a_killed_worker_with_an_instance_id_takes_its_place_again_at_once(lab: Lab) -> None:
    lab.produce(10)
    options = ("toy", "session=60", "instance=one")
    worker = lab.worker(*options)
    lab.wait()
    for number in (1, 2):
        worker.kill()
        worker.wait(10)
        lab.produce(5)
        worker = lab.worker(*options)
        until(lambda number=number: bool(recovered(lab, number)), lab, 40)  # type: ignore[misc]
    lab.wait()
    assert lab.stop(worker) == 0
    lab.check()


def test_two_workers_join_and_leave(lab: Lab) -> None:
    everything = set(range(lab.settings.partitions))
    lab.produce(20)
    first = lab.worker("toy", "session=6")
    until(lambda: bool(recovered(lab, 0)), lab)
    second = lab.worker("toy", "session=6")
    until(lambda: bool(recovered(lab, 1)), lab)
    until(lambda: len(recovered(lab, 0)) > 1, lab)
    # The assignor gives the same partition of every input and of the changelog to one member: open() refuses anything else.
    halves = [set(recovered(lab, 0)[-1]), set(recovered(lab, 1)[-1])]
    assert halves[0] | halves[1] == everything and not halves[0] & halves[1]
    assert halves[0] and halves[1]
    lab.produce(20)
    assert lab.stop(first) == 0
    until(lambda: set(recovered(lab, 1)[-1]) == everything, lab)
    lab.produce(20)
    third = lab.worker("toy", "session=6")
    until(lambda: bool(recovered(lab, 2)), lab)
    lab.produce(10)
    third.kill()
    third.wait(10)
    lab.produce(10)
    lab.wait(60)
    assert lab.stop(second) == 0
    lab.check()


# In CI test_system_outages freezes a worker of the whole pipeline.
@pytest.mark.long
def test_a_worker_frozen_past_its_session_does_not_harm_its_successor(lab: Lab) -> None:
    everything = set(range(lab.settings.partitions))
    frozen = lab.worker("toy", "session=6")
    until(lambda: bool(recovered(lab, 0)), lab)
    for _ in range(10):
        lab.produce(3)
    frozen.send_signal(signal.SIGSTOP)
    successor = lab.worker("toy", "session=6")
    until(lambda: bool(recovered(lab, 1)) and set(recovered(lab, 1)[-1]) == everything, lab)
    lab.produce(10)
    lab.wait()
    before = len(recovered(lab, 0))
    frozen.send_signal(signal.SIGCONT)
    until(lambda: len(recovered(lab, 0)) > before, lab)
    for _ in range(10):
        lab.produce(3)
        time.sleep(0.1)
    lab.wait()
    assert frozen.poll() is None and successor.poll() is None
    assert set(recovered(lab, 0)[-1]) | set(recovered(lab, 1)[-1]) == everything
    successor.kill()
    successor.wait(10)
    lab.produce(5)
    lab.wait(60)
    assert lab.stop(frozen) == 0
    lab.check()


def test_late_records_of_a_former_owner_are_found_ignored_and_covered_up_again(lab: Lab) -> None:
    lab.produce(20)
    worker = lab.worker()
    lab.wait()
    time.sleep(0.6)  # a checkpoint
    late = Producer({"bootstrap.servers": lab.settings.kafka_bootstrap_servers})
    changelog = f"{lab.settings.topic_prefix}toy-state-changelog"
    from stream_apps.agents.changelog import Ownership

    for key, value in ((b"pane-19", b"[19, 0, 0]"), (b"head", b"[0, 0, 0, 0]")):
        late.produce(changelog, value, key, 0, headers=Ownership(1, b"z" * 16).headers())
    late.produce(changelog, b"[9, 9, 9, 9]", b"head", 1)  # by someone who says no ownership at all
    late.flush(10)
    lab.produce(20)
    until(lambda: "another worker wrote to the changelog" in lab.log(0) and len(recovered(lab, 0)) > 1, lab)
    lab.wait()
    worker.kill()
    worker.wait(10)
    lab.produce(5)
    again = lab.worker()
    lab.wait()
    assert '"late": 3' in lab.log(0) or '"late": 3' in lab.log(1)
    assert lab.stop(again) == 0
    lab.check()


def test_composites_lost_in_delivery_are_read_again(lab: Lab) -> None:
    worker = lab.worker("toy", "lose=7")
    for _ in range(15):
        lab.produce(4)
    lab.wait()
    healed = re.findall(r'perpflow_continuity_healed_total\{topic="\w+"\} (\S+)', ask(lab, 0, "/metrics"))
    assert sum(map(float, healed)) > 0
    assert lab.stop(worker) == 0
    lab.check()


def test_records_that_retention_took_are_passed_over(lab: Lab) -> None:
    lab.produce(10, partitions=[0])
    first = lab.worker()
    lab.wait()
    assert lab.stop(first) == 0
    lab.produce(10, partitions=[0])
    admin = AdminClient({"bootstrap.servers": lab.settings.kafka_bootstrap_servers})
    gone = len(lab.written[0])
    topic = lab.settings.topic("agg_trades")
    for future in admin.delete_records([TopicPartition(topic, 0, gone)]).values():
        future.result(10)
    second = lab.worker()
    until(lambda: lab.written_marks()[0] == 20, lab)
    lab.produce(5, partitions=[0])
    until(lambda: lab.written_marks()[0] == 25, lab)
    assert "retention deleted records" in lab.log(1)
    assert lab.stop(second) == 0


def test_a_topic_far_ahead_of_the_marks_is_paused(lab: Lab) -> None:
    for number in range(30_000):
        value = b"trade %d" % number
        lab.written[0].append(value)
        lab._send("agg_trades", 0, value, number)
    lab.producer.flush(30)
    worker = lab.worker("toy", "backlog=2000")
    until(lambda: bool(recovered(lab, 0)), lab)
    until(lambda: json.loads(ask(lab, 0, "/health"))["paused"] == ["agg_trades"], lab)
    for number in range(30_000, 60_000):
        value = b"trade %d" % number
        lab.written[0].append(value)
        lab._send("agg_trades", 0, value, number)
    for cut in range(500, 60_001, 500):
        lab.cuts[0].append(cut)
        lab._send("progress", 0, str(cut).encode(), cut)
    lab.producer.flush(30)
    lab.wait()
    assert json.loads(ask(lab, 0, "/health"))["paused"] == []
    assert lab.stop(worker) == 0
    lab.check()


@pytest.mark.private_stack
def test_a_broker_restart_is_survived(lab: Lab, private_stack: Any) -> None:
    worker = lab.worker("toy", "session=6")
    lab.produce(20)
    lab.wait()
    private_stack.local.restart_broker(kill=True)
    lab.produce(20)
    lab.wait(90)
    assert worker.poll() is None
    assert lab.stop(worker) == 0
    lab.check()


def test_what_is_missing_is_said(lab: Lab) -> None:
    admin = AdminClient({"bootstrap.servers": lab.settings.kafka_bootstrap_servers})
    admin.delete_topics([lab.settings.topic("progress")])[lab.settings.topic("progress")].result(30)
    time.sleep(0.5)
    worker = lab.worker()
    assert worker.wait(30) != 0
    assert "topics are missing" in lab.log() and "progress" in lab.log()
    lab.variables["PERPFLOW_PARTITIONS"] = "5"
    assert lab.worker().wait(30) != 0
    lab.produce(0)
    lab.variables["PERPFLOW_PARTITIONS"] = str(lab.settings.partitions)
    from deploy.stack.topics import create_topics

    create_topics(lab.settings)
    assert lab.stop(_ready(lab)) == 0


def _ready(lab: Lab) -> Any:
    worker = lab.worker()
    until(lambda: '"recovered"' in lab.log(), lab)
    return worker
