"""TimescaleDB's jobs: each has a start of its own, and the server's settings suffice for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import yaml
from hypothesis import given
from hypothesis import strategies as st

from deploy.database import jobs, server_settings
from tests.support.paths import ROOT

PERIODS = [timedelta(minutes=1), timedelta(minutes=3), timedelta(minutes=12), timedelta(hours=1), timedelta(hours=12)]


@given(st.dictionaries(st.integers(1000, 9999), st.sampled_from(PERIODS), max_size=60))
def test_jobs_of_one_period_stand_at_equal_distances(schedules: dict[int, timedelta]) -> None:
    found = jobs.places(schedules)
    assert found.keys() == schedules.keys() and all(timedelta(0) < found[job] < every for job, every in schedules.items())
    for every in set(schedules.values()):
        offsets = sorted(found[job] for job in schedules if schedules[job] == every)
        around = [b - a for a, b in pairwise([*offsets, offsets[0] + every])]  # the last one to the first of the next period
        assert max(around) - min(around) <= timedelta(microseconds=2)


def test_today_no_second_starts_more_jobs_than_the_server_has_workers() -> None:
    """The jobs of a database of today: 24 of bars (8 every minute, 4 each of 3, 12, 48 and 60 minutes) and one of each of 30 tables."""
    periods = [*[timedelta(minutes=1)] * 8, *[timedelta(minutes=m) for m in (3, 12, 48, 60) for _ in range(4)], *[timedelta(hours=12)] * 30]
    schedules = dict(enumerate(periods))
    starts: dict[int, int] = {}
    for job, offset in jobs.places(schedules).items():
        first = jobs.next_start(jobs.ORIGIN, schedules[job], offset)
        for n in range(timedelta(hours=12) // schedules[job]):
            second = round((first + n * schedules[job] - jobs.ORIGIN).total_seconds())
            starts[second] = starts.get(second, 0) + 1
    assert sum(starts.values()) > 7000 and max(starts.values()) <= 5


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),
    st.sampled_from(PERIODS),
    st.floats(0, 0.999),
)
def test_the_next_start_is_the_first_one_ahead(now: datetime, every: timedelta, share: float) -> None:
    offset = every * share
    at = jobs.next_start(now, every, offset)
    assert now < at <= now + every and (at - jobs.ORIGIN - offset) % every == timedelta(0)


GOOD = {
    "shared_preload_libraries": "pg_stat_statements, timescaledb",
    "timescaledb.max_background_workers": "16",
    "max_worker_processes": "27",
    "max_parallel_workers": "8",
}


def test_a_server_says_what_it_lacks_and_the_line_that_sets_it() -> None:
    assert server_settings.judge(GOOD) == []
    # PostgreSQL's own defaults beside the extension's.
    (one,) = server_settings.judge({**GOOD, "max_worker_processes": "8"})
    assert str(one) == ("max_worker_processes is 8, needs 27: ALTER SYSTEM SET max_worker_processes = 27;  (then restart the server)")
    # More workers of the extension, or of parallel queries, want more processes.
    assert [one.wanted for one in server_settings.judge({**GOOD, "timescaledb.max_background_workers": "20"})] == ["31"]
    assert [one.wanted for one in server_settings.judge({**GOOD, "max_parallel_workers": "2", "max_worker_processes": "20"})] == ["21"]
    both = server_settings.judge({**GOOD, "timescaledb.max_background_workers": "4", "max_worker_processes": "15"})
    assert [(one.setting, one.wanted) for one in both] == [("timescaledb.max_background_workers", "16"), ("max_worker_processes", "27")]
    (one,) = server_settings.judge({**GOOD, "shared_preload_libraries": "pg_stat_statements"})
    assert one.line == "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements', 'timescaledb';"


def test_what_we_deploy_suffices() -> None:
    command = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["timescaledb"]["command"]
    assert command[0] == "postgres" and set(command[1::2]) == {"-c"}
    compose = dict(word.split("=") for word in command[2::2])
    assert server_settings.judge({"shared_preload_libraries": "timescaledb", **compose}) == []
    # Kubernetes' manifests bring no database: they name the settings of the one that is brought.
    lines = (ROOT / "deploy/kubernetes/environment.yaml").read_text().splitlines()
    named = [line.removeprefix("#").split("=") for line in lines if line.startswith("#   ")]
    assert {key.strip(): value.strip() for key, value in named} == compose
