"""The short form of the stopwatch of the producer: every record is followed from its socket to Kafka. No speed is asserted: machines differ."""

from __future__ import annotations

from pathlib import Path

import bench_producer
import pytest
from machine import Cores
from running import Run

from schemas.settings import Settings

pytestmark = pytest.mark.stack


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
