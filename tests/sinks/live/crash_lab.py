"""Lives of trades whose executor is killed: the processes, the watch over the exchange meanwhile, and the market that leads each life to its end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from stream_apps.core.execution.settings.policy import LivePolicy
from tests.support.trading.live_lab import D, Lab, wait_for

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tests.sinks.live.live_child"])
# What a busy machine may take from taking the account over to the answer of the first order.
START_S = 7.0
QUANTITY = D("0.010")
# Longer than an order without an answer is uncertain after a restart (LivePolicy.not_found_ms, and the pause until the next question): until then the
# stop of the trade is there and its targets are not.
CERTAIN_S = 10.0
# Below the stop of every life: a trade whose target was not there when the market passed it ends here.
BELOW = 49_700
# Share of the points of the long form that must be reached: the number of crossings varies by some from life to life, and the last points may lie behind
# the end of one.
REACHED = 0.8
# What an undisturbed life crosses, whatever it is; the rest is crossed by some lives only, or depends on time.
ALWAYS = frozenset(
    f"{name} {side}"
    for name in (
        "open",
        "lock",
        "take",
        "unpublished",
        "switch",
        "commit",
        "forget",
        "publish",
        "place",
        "open_orders",
        "positions",
    )
    for side in ("before", "after")
) | {"commit written", "event StreamReady", "event OrderReport", "event FillReport"}


@contextmanager
def fork_server() -> Iterator[None]:
    """Start Python's fork server. It imports what it preloads from its own path only, and without a word nothing where that does not lead there: then each
    of the hundreds of executors would import everything anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    yield


class Watch:
    """Samples the exchange: how much was open at most, and how long an open quantity had no stop while an executor was alive."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.largest, self.longest = lab, D(0), 0.0
        self.alive: Path | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        since = None
        while not self._stop.wait(0.03):
            working = self.alive is not None and self.alive.exists()
            quantity, covered = self.lab.held_and_covered()
            self.largest = max(self.largest, quantity)
            if quantity == 0 or covered >= quantity or not working:
                since = None
                continue
            since = since or time.monotonic()
            self.longest = max(self.longest, time.monotonic() - since)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)


class Runner:
    """Starts executors and starts them again when they are dead."""

    def __init__(self, lab: Lab, watch: Watch, folder: Path, policy: LivePolicy, kills: list[int] | None = None) -> None:
        self.lab, self.watch, self.folder, self.policy = lab, watch, folder, policy
        self.starts, self.process = 0, None
        # Crossings at which the next processes are killed, and where the former ones were.
        self.kills, self.died = list(kills or []), []

    def start(self, kill_at: int = 0) -> None:
        self.starts += 1
        lab = self.lab
        settings = {key: value for key, value in lab.settings.model_dump().items() if key != "codec"}
        arguments = (
            settings,
            lab.account,
            lab.venue.rest_url,
            lab.venue.ws_url,
            self.policy,
            kill_at,
            str(self.crossings),
            str(self.folder / "log"),
        )
        from tests.sinks.live import live_child

        self.process = FORK.Process(target=live_child.main, args=arguments, daemon=True)
        self.watch.alive = self.crossings.with_suffix(".alive")
        self.watch.alive.unlink(missing_ok=True)
        self.process.start()

    @property
    def crossings(self) -> Path:
        return self.folder / "crossings"

    def keep_alive(self) -> None:
        """Start it again when it died."""
        if self.process is not None and not self.process.is_alive():
            assert self.process.exitcode == -signal.SIGKILL, (self.folder / "log").read_text()[-4000:]
            # Written by the dying process itself: without it something else killed it.
            self.died.append(self.crossings.read_text().splitlines()[-1])
            self.crossings.unlink()
            self.start(self.kills.pop(0) if self.kills else 0)

    def stop(self) -> None:
        if self.process is not None and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGTERM)
            self.process.join(20)


def until(runner: Runner, condition: Callable[[], Any], what: str, timeout: float = 120.0) -> None:
    def look() -> bool:
        runner.keep_alive()
        return bool(condition())

    wait_for(look, timeout, what)


def live(lab: Lab, runner: Runner, ways: Sequence[int]) -> None:
    """Lead one trade through its life; whatever dies is started again."""
    lab.price(50_000)
    signal_id = lab.signal()

    def over() -> bool:
        rows = lab.query("SELECT state->>'over_at' FROM live_trades WHERE trade_key LIKE '%%' || '" + signal_id.rpartition("|")[2] + "'")
        return bool(rows) and rows[0][0] is not None

    begun = time.monotonic()
    until(runner, lambda: lab.position != 0 or over() or refused(lab, signal_id), "the position opens or the signal was too late")
    for price in ways:
        lab.price(price)
        before = lab.position
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline and lab.position == before and not over():
            runner.keep_alive()
            time.sleep(0.03)
    deadline = time.monotonic() + CERTAIN_S
    until(runner, lambda: over() or refused(lab, signal_id) or time.monotonic() > deadline, "the trade is over or the market goes on")
    if not over() and lab.mid > BELOW:
        lab.price(BELOW)
    until(runner, lambda: over() or refused(lab, signal_id), "the trade is over")
    until(runner, lambda: lab.query("SELECT count(*) FROM live_outbox") == [(0,)], "everything is published")
    reasons = [one["reason"] for one in lab.written("orders") if one["signal_id"] == signal_id and one["status"] == "rejected"]
    print(f"a life took {time.monotonic() - begun:.1f} s", reasons)


def refused(lab: Lab, signal_id: str) -> bool:
    return any(one["signal_id"] == signal_id and one["status"] == "rejected" and one["leg"] == "entry" for one in lab.written("orders"))


def crossings_of(lab: Lab, tmp_path: Path, policy: LivePolicy, ways: Sequence[int]) -> list[str]:
    """Return the crossings of an undisturbed life."""
    watch = Watch(lab)
    runner = Runner(lab, watch, tmp_path, policy)
    runner.start()
    try:
        until(runner, lambda: lab.written("reconciliations"), "the first comparison")
        live(lab, runner, ways)
    finally:
        runner.stop()
        watch.stop()
    return runner.crossings.read_text().splitlines()


def kill_at_each(
    lab: Lab,
    tmp_path: Path,
    policy: LivePolicy,
    ways: Sequence[int],
    points: Sequence[tuple[int, ...]],
    check: Callable[[Watch, str], None],
) -> dict[str, str]:
    """Lead a life per point, killed there; ``check`` after each. A point is the crossings at which one process after the other is killed.

    Returns:
        Point -> where the last kill was, of the points that were reached.
    """
    watch = Watch(lab)
    died: dict[str, str] = {}
    try:
        for point in points:
            runner = Runner(lab, watch, tmp_path, policy, list(point[1:]))
            runner.crossings.unlink(missing_ok=True)
            reconciled = len(lab.written("reconciliations"))
            try:
                runner.start(point[0])
                until(runner, lambda known=reconciled: len(lab.written("reconciliations")) > known, "compared with the venue")
                live(lab, runner, ways)
            finally:
                # Also behind a failure: it would go on for the rest of the run.
                runner.stop()
            name = " then ".join(map(str, point))
            if runner.starts > len(point):
                died[name] = runner.died[-1]
            check(watch, name)
            with (tmp_path / "points").open("a") as lines:
                lines.write(f"point {name}: {', '.join(runner.died) or 'not reached'}\n")
    finally:
        watch.stop()
    return died


def told_once(lab: Lab) -> int:
    """Check that whatever was written twice says the same; return the number of different executions that were told."""
    told: dict[tuple[str, str], Any] = {}
    for topic, name in (("fills", "fill_id"), ("trades_closed", "trade_id")):
        for record in lab.written(topic):
            kept = {key: value for key, value in record.items() if key != "receive_time"}
            assert told.setdefault((topic, record[name]), kept) == kept, "a repeat says the same"
    return sum(topic == "fills" for topic, _ in told)


def nothing_twice(lab: Lab, point: str) -> None:
    """Check that no order was sent twice and no signal entered more than its quantity. A conditional order and the order that it became have one id."""
    truth = lab.truth()
    for sent in ([one["clientOrderId"] for one in truth["orders"]], [one["clientAlgoId"] for one in truth.get("conditionals", ())]):
        assert len(set(sent)) == len(sent), f"point {point}: an order was sent twice"
    entered: dict[str, Decimal] = {}
    for fill in truth["fills"]:
        _, signal_hash, leg = fill["clientOrderId"].split("-")
        if leg.startswith("en"):
            entered[signal_hash] = entered.get(signal_hash, D(0)) + D(fill["qty"])
    assert entered and all(quantity <= QUANTITY for quantity in entered.values()), f"point {point}: entered twice {entered}"
