"""One laboratory for all system tests, and one undisturbed run of the recordings that the disturbed ones are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stream_apps.replay.verify import read_results
from tests.system.system_lab import BTC, LTC, Lab, Reference, contents, sound


@pytest.fixture(scope="session")
def lab(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Environments on the broker and the database of this test run."""
    return Lab(stack.kafka, stack.database_url, tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="session")
def reference(lab: Lab) -> Iterator[Reference]:
    """Both recordings through the whole pipeline, as fast as it reads, one worker, nothing disturbed."""
    with lab.pipeline([BTC, LTC]) as pipeline:
        pipeline.start()
        pipeline.run_to_the_end(300)
        pipeline.stop()
        yield Reference(pipeline.settings, contents(pipeline.settings), sound(read_results(pipeline.settings)))
