"""kill -9 at every crossing of a boundary in a spot order's life, restart, and coins and money are the exchange's: no order twice, nothing left unprotected.

As ``test_live_crashes`` does it for contracts. The exits of coins are one-cancels-the-other pairs, or a plain stop where the venue takes no pairs; they are
never replaced, and until one stands the process itself guards. So what is held to here is how long coins have no stop at the venue while an executor is
alive: no longer than it takes until an unanswered pair is certain to have been lost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from stream_apps.core.execution.settings.policy import EntryPolicy, LivePolicy
from tests.sinks.live.crash_lab import (
    ALWAYS,
    CERTAIN_S,
    QUANTITY,
    REACHED,
    START_S,
    crossings_of,
    fork_server,
    kill_at_each,
    nothing_twice,
    told_once,
)
from tests.support.trading.live_lab import MARKET, ROOMY, prepare
from tests.support.trading.spot_lab import CONTRACT, SpotLab, assert_coins_equal

pytestmark = pytest.mark.stack

MAKER = LivePolicy(entry=EntryPolicy(style="maker", timeout_ms=700), budget=ROOMY)
# Without pairs at the venue a plain stop rests, and the process takes the target: it cancels the stop first, for that locks the coins.
PLAIN = replace(CONTRACT, lists=False)
# The market stays below the target until the exits rest: a pair whose target is already passed is refused.
LIVES = {
    "target": (MARKET, (50_100, 50_400), CONTRACT),
    "stopped": (MAKER, (50_000, 49_700), CONTRACT),
    "plain": (MARKET, (50_100, 50_400), PLAIN),
}
# The process is killed right behind its first order, and the next one at every crossing of its recovery.
RECOVERY = "recovery"
RECOVERY_POINTS = 40
# Points of the long form at least, of each.
LEAST = {"target": 50, "stopped": 50, "plain": 50, RECOVERY: RECOVERY_POINTS}
# Of the long form, for several processes.
PARTS = 4


@pytest.fixture(scope="module", autouse=True)
def forks():
    with fork_server():
        yield


@pytest.fixture
def lab(environment, topics, request):
    prepare(environment)
    with SpotLab(environment, LIVES.get(request.getfixturevalue("name"), LIVES["target"])[2]) as made:
        yield made


def check(lab, tmp_path, watch, point) -> None:
    log = (tmp_path / "log").read_text()[-6000:]
    assert_coins_equal(lab)
    assert lab.position == 0 and not lab.resting, (point, log)
    assert watch.largest <= QUANTITY, f"point {point}: {watch.largest} open at once\n{log}"
    assert watch.longest <= CERTAIN_S + START_S, f"point {point}: {watch.longest:.1f} s without a stop at the venue\n{log}"
    nothing_twice(lab, point)
    assert told_once(lab) == sum(len(trade.fills) for trade in lab.journal())


@pytest.mark.parametrize("name", ["target", "plain"])
def test_a_kill_at_some_crossings_of_a_spot_life(lab, tmp_path, name):
    policy, ways, contract = LIVES[name]
    names = crossings_of(lab, tmp_path, policy, ways)
    exits = [i for i, one in enumerate(names, 1) if one == ("place_pair before" if contract.lists else "place before")]
    # Before and behind the pair; behind the cancel of the stop that locks the coins.
    points = [exits[0], exits[0] + 1] if contract.lists else [names.index("cancel after") + 1]
    died = kill_at_each(lab, tmp_path, policy, ways, [(point,) for point in points], partial(check, lab, tmp_path))
    assert set(died) == set(map(str, points))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", [*LIVES, RECOVERY])
def test_a_kill_at_every_crossing_of_a_spot_life(lab, tmp_path, name, part):
    policy, ways, contract = LIVES["target" if name == RECOVERY else name]
    names = crossings_of(lab, tmp_path, policy, ways)
    exits = {"place_pair before", "place_pair after"} if contract.lists else {"cancel before", "cancel after"}
    assert set(names) >= ALWAYS | exits, f"what is watched is crossed; not {sorted((ALWAYS | exits) - set(names))}"
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
