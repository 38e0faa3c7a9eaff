"""The guard of a spot account beside its executor, both real processes: it trips, entries are refused while coins stay protected, it recovers, and closes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.database.migrate import migrate
from schemas import catalogue
from schemas.settings import Settings
from sinks.commands.risk import give
from tests.support.paths import ROOT
from tests.support.trading.live_lab import KEY, SECRET, SYMBOL, D, wait_for
from tests.support.trading.spot_lab import ACCOUNT, SpotLab, assert_coins_equal

pytestmark = pytest.mark.stack

POLICY = """
[entry]
style = "market"
[budget]
max_notional = 100000
max_spot_notional = 100000
"""


class FedLab(SpotLab):
    """The lab without its own guard: in place of its word it writes what a guard hears of market data."""

    def say(self, **more: Any) -> None:
        now = self.venue.desk.clock()
        neutral = {"string": "", "long": 0, "int": 0, "double": 0.0, "float": 0.0, "boolean": False}
        record: dict[str, Any] = {}
        for field in catalogue.schema("features")["fields"]:
            kind = field["type"]["type"] if isinstance(field["type"], dict) else field["type"]
            record[field["name"]] = None if isinstance(kind, list) else [] if kind == "array" else neutral[kind]
        self._write("features", {**record, "instrument": self.instrument, "event_time": now, "receive_time": now}, self.instrument)

    def word(self) -> dict[str, Any]:
        """Newest word of the guard."""
        words = self.written("risk_state")
        return words[-1] if words else {"state": "none", "reasons": []}

    def rules(self) -> set[str]:
        """Rules that hold."""
        return {one["rule"] for one in self.word()["reasons"]}

    def refusals(self, signal_id: str) -> list[str]:
        """Why an entry was refused."""
        return [one["reason"] for one in self.written("orders") if (one["signal_id"], one["status"]) == (signal_id, "rejected")]


@contextmanager
def process(lab: SpotLab, variables: dict[str, str], log: Path, *command: str) -> Iterator[None]:
    """Run a command of the account until SIGTERM; it must end well and tell no secret."""
    arguments = [*command, "--mode", "simulated", "--venue", "BINANCE_SPOT", "--base-url", lab.venue.rest_url]
    environment = {**os.environ, **variables, "PERPFLOW_API_KEY": KEY, "PERPFLOW_API_SECRET": SECRET}
    with log.open("w") as lines:
        running = subprocess.Popen([sys.executable, "-m", "deploy.cli", *arguments], cwd=ROOT, env=environment, stderr=lines)
        try:
            yield
        finally:
            running.send_signal(signal.SIGTERM)
            code = running.wait(120)
    text = log.read_text()
    assert code == 0 and SECRET not in text, text[-3000:]


def test_it_trips_blocks_recovers_and_closes(
    environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    migrate(environment.database_url)
    (tmp_path / "policy.toml").write_text(POLICY)
    with (
        FedLab(environment) as lab,
        process(lab, environment_variables(), tmp_path / "guard", "risk", "guard"),
        process(lab, environment_variables(), tmp_path / "live", "execute", "--policy", str(tmp_path / "policy.toml")),
    ):
        wait_for(lambda: lab.word()["state"] == "normal", 60, "the guard allows")
        wait_for(lambda: lab.written("reconciliations"), 60, "compared with the venue")
        lab.signal()
        wait_for(lambda: lab.resting == ["LIMIT_MAKER", "STOP_LOSS"], 40, "a pair rests")
        # Nearly all money leaves the account: the rule looks at what the venue says of the quote asset.
        money = D(lab.truth()["balances"]["USDT"]) - 1
        lab.on_exchange(lambda: lab.venue.control.deposit("lab", -money))
        wait_for(lambda: lab.rules() == {"balance"}, 40, "tripped")
        assert lab.word()["block_entries"] and not lab.word()["close_all"]
        refused = lab.signal(strategy_id="s2")
        wait_for(lambda: lab.refusals(refused), 20, "refused")
        assert lab.refusals(refused) == ["guard: balance"]
        assert lab.resting == ["LIMIT_MAKER", "STOP_LOSS"], "what is open stays protected"
        lab.on_exchange(lambda: lab.venue.control.deposit("lab", money))
        wait_for(lambda: lab.word()["state"] == "normal", 40, "recovered")
        # The pair's target is reached, and the next signal is taken again.
        lab.price(50_400)
        wait_for(lambda: lab.position == 0 and not lab.resting, 40, "sold")
        # The venue knows first. Until the executor has closed its trade, it rightly refuses a second one of the strategy.
        wait_for(lambda: len(lab.written("trades_closed")) == 1, 40, "the executor closed its trade")
        again = lab.signal()
        wait_for(lambda: lab.resting == ["LIMIT_MAKER", "STOP_LOSS"] or lab.refusals(again), 40, "entered again")
        assert lab.refusals(again) == []
        # Closed by command: the pair that locks the coins is cancelled, and they are sold.
        assert give(environment, ACCOUNT.name, "close_all", "a test").arrived
        wait_for(lambda: lab.position == 0 and not lab.resting, 40, "closed")
        assert give(environment, ACCOUNT.name, "resume", "a test").arrived
        wait_for(lambda: lab.word()["state"] == "normal", 40, "resumed")
        wait_for(lambda: len(lab.written("trades_closed")) == 2, 40, "told")
        assert [one["exit_reason"] for one in lab.written("trades_closed")] == ["tp2", "guard"]
        # Deposits of the test itself cancel out.
        assert_coins_equal(lab)
        assert all(one["instrument"] == f"BINANCE:{SYMBOL}" for one in lab.written("fills"))
