"""The short form of the stopwatch of the producer: every record is followed from its socket to Kafka. No speed is asserted: machines differ."""

from __future__ import annotations

from collections import defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.settings import Settings
from tests.bench import bench_producer
from tests.bench.machine import Cores
from tests.bench.measured_producer import REFUSED, followed
from tests.bench.running import Run

_PLACES = st.integers(0, 3)


@given(
    st.lists(st.tuples(_PLACES, st.booleans()), max_size=40), st.lists(st.tuples(_PLACES, st.integers(1, 4), st.booleans()), max_size=20)
)
def test_records_are_paired_with_the_batches_they_were_acknowledged_in(
    written: list[tuple[int, bool]], batches: list[tuple[int, int, bool]]
) -> None:
    records = [(place, 1_000 + n, 2_000_000_000 + n if came else 0, 3_000_000_000 + n) for n, (place, came) in enumerate(written)]
    # One at a time: from the front of its place's queue. What no batch acknowledges is not told of, nor what a batch was refused with.
    queues = defaultdict(deque)
    for place, *times in records:
        queues[place].append(times)
    told, acknowledged = [], []
    for n, (place, count, refused) in enumerate(batches):
        count, end = min(count, len(queues[place])), REFUSED if refused else 4_000_000_000 + n
        acknowledged.append((place, count, end))
        for said, read, sent in [queues[place].popleft() for _ in range(count)]:
            if read and not refused:
                told.append([said * 1_000_000, read, sent, end])
    columns = [np.array(rows, dtype=np.int64).reshape(len(rows), width).T for rows, width in ((records, 4), (acknowledged, 3))]
    found = followed(*columns[0], *columns[1]).tolist()
    assert sorted(found) == sorted(told)
    assert [row[3] for row in found] == sorted(row[3] for row in told)


@pytest.mark.stack
def test_every_record_is_followed_to_its_acknowledgement(environment: Settings, tmp_path: Path) -> None:
    found = bench_producer.mix(Run(True, tmp_path, Cores(), environment), 4, 400, 4)
    assert found["records_measured"] > 400
    quantiles = [found[f"received_to_acknowledged_{name}"] for name in ("p50_ms", "p99_ms", "max_ms")]
    assert 0 < quantiles[0] <= quantiles[1] <= quantiles[2]
    assert (
        quantiles[1] <= found["said_to_acknowledged_p99_ms"] + 1
        and found["said_to_received_p99_ms"] <= found["said_to_acknowledged_max_ms"]
    )
    assert found["of_which_in_the_producer_p99_ms"] <= quantiles[2] and found["of_which_at_the_broker_p99_ms"] <= quantiles[2]
