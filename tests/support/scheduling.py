"""The order in which the processes of ``pytest -n`` take the test files: the longest first, so that none is left alone at the end.

xdist by itself begins with the files of most tests. The longest have few: one process ran the last of them while the others had nothing to do.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling

# Files that take longer than the rest, longest first. The order is all that it says: a file that is missing here runs after these.
LONGEST = (
    "tests/system/test_system_undisturbed.py",
    "tests/system/test_system_kills.py",
    "tests/system/test_system_venue_faults.py",
    "tests/sinks/archive/test_archive_replay.py",
    "tests/stream_apps/agents/test_faust_worker.py",
    "tests/sinks/archive/test_archive_service.py",
    "tests/system/test_demo_command.py",
    "tests/stream_apps/log/test_second_engine.py",
    "tests/producers/venue/test_venue_dialects.py",
    "tests/sinks/executor/test_executor.py",
    "tests/producers/binance/test_binance_producer.py",
    "tests/sinks/timescale/test_timescale_faults.py",
    "tests/producers/importer/test_importer.py",
    "tests/stream_apps/signals/test_instants.py",
    "tests/deploy/stack/test_stack.py",
    "tests/deploy/backtest/test_replay_jobs.py",
    "tests/deploy/backtest/test_replay_files.py",
    "tests/sinks/timescale/test_timescale_sink.py",
    "tests/sinks/guard/test_guard_service.py",
    "tests/stream_apps/replay/test_replay_memory.py",
    "tests/deploy/backtest/test_replay_cli.py",
    "tests/deploy/prometheus/test_alerts.py",
    "tests/stream_apps/research/test_research_edge.py",
    "tests/deploy/backtest/test_research_cli.py",
)
# Files that compare with the same undisturbed run of the recordings (fixture ``reference``): one process makes it and runs both.
TOGETHER = {"tests/system/test_system_kills.py": "tests/system/test_system_undisturbed.py"}


class LongestFirst(LoadFileScheduling):
    """Gives whole files to processes, in the order of the collection, which ``longest_first`` made."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return TOGETHER.get(file, file)


def longest_first(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first, in place; the others keep their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.split("::", 1)[0], len(places)))
