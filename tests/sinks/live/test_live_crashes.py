"""kill -9 at every crossing of a boundary in an order's life, restart, and the books are the exchange's: no order twice, nothing unprotected.

The life is led by the market of the simulated exchange, whatever the executor does. The long form kills at every crossing of every life (more than 200);
CI at a few of each. A second form kills the process that recovers, too.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from stream_apps.core.execution.settings.policy import EntryPolicy, LivePolicy
from tests.sinks.live.crash_lab import ALWAYS, QUANTITY, REACHED, START_S, crossings_of, fork_server, kill_at_each, nothing_twice, told_once
from tests.support.trading.live_lab import MARKET, ROOMY, Lab, assert_books_equal, prepare

pytestmark = pytest.mark.stack

WINDOW_S = 3.0
MAKER = LivePolicy(entry=EntryPolicy(style="maker", timeout_ms=700), budget=ROOMY)


@pytest.fixture(scope="module", autouse=True)
def forks():
    with fork_server():
        yield


@pytest.fixture
def lab(environment, topics):
    prepare(environment)
    with Lab(environment) as made:
        yield made


LIVES = {"targets": (MARKET, (50_200, 50_400)), "stopped": (MAKER, (50_000, 49_700)), "break_even": (MARKET, (50_200, 50_040))}
# The process is killed right behind its first order, and the next one at every crossing of its recovery: account, questions, comparison, first stop.
RECOVERY = "recovery"
RECOVERY_POINTS = 40
# Points of the long form at least, of each: more than the 200 kills that are promised.
LEAST = {"targets": 70, "stopped": 70, "break_even": 70, RECOVERY: RECOVERY_POINTS}
# Of the long form, for several processes.
PARTS = 6


def check(lab, tmp_path, watch, point) -> None:
    log = (tmp_path / "log").read_text()[-6000:]
    assert_books_equal(lab)
    assert lab.position == 0 and not lab.stops() and not lab.truth()["open_orders"], (point, log)
    assert watch.largest <= QUANTITY, f"point {point}: {watch.largest} open at once\n{log}"
    assert watch.longest <= WINDOW_S + START_S, f"point {point}: {watch.longest:.1f} s unprotected\n{log}"
    nothing_twice(lab, point)
    assert told_once(lab) == len(lab.truth()["fills"])


@pytest.mark.parametrize("name", LIVES)
def test_a_kill_at_some_crossings_of_each_life(lab, tmp_path, name):
    policy, ways = LIVES[name]
    names = crossings_of(lab, tmp_path, policy, ways)
    placed = [i for i, one in enumerate(names, 1) if one == "place before"]
    first, last = placed[0], placed[-1]
    # The last order that is placed in the life that ends at the break-even price is the stop there.
    points = {"targets": [first, first + 1, first + 4], "stopped": [first - 1, first + 2], "break_even": [last]}[name]
    died = kill_at_each(lab, tmp_path, policy, ways, [(point,) for point in points], partial(check, lab, tmp_path))
    assert set(died) == set(map(str, points))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", [*LIVES, RECOVERY])
def test_a_kill_at_every_crossing(lab, tmp_path, name, part):
    policy, ways = LIVES["targets" if name == RECOVERY else name]
    names = crossings_of(lab, tmp_path, policy, ways)
    assert set(names) >= ALWAYS, f"what is watched is crossed; not {sorted(ALWAYS - set(names))}"
    if name == RECOVERY:
        first = names.index("place after") + 1
        points = [(first, point) for point in range(1, RECOVERY_POINTS + 1)]
    else:
        points = [(point,) for point in range(1, len(names) + 1)]
    assert len(points) >= LEAST[name], f"only {len(points)} crossings"
    died = kill_at_each(lab, tmp_path, policy, ways, points[part::PARTS], partial(check, lab, tmp_path))
    kinds = Counter(died.values())
    print((tmp_path / "points").read_text())
    print(f"{name}: {len(names)} crossings undisturbed; part {part + 1} of {PARTS}: {len(points[part::PARTS])} points, {len(died)} kills")
    print(", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())), flush=True)
    assert len(died) >= REACHED * len(points[part::PARTS]), "points that were not reached prove nothing"
