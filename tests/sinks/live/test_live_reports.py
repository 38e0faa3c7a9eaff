"""The reports in the terminal on what a run at the simulated exchange left in the database: executor, broker and sink are the real ones."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.database.migrate import migrate
from tests.sinks.live.test_live_spot import INSTRUMENT, SpotLab
from tests.support.timescale.timescale_helpers import sink_thread
from tests.support.trading.live_lab import D, Lab, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.long]


def test_reports_of_a_run_at_the_simulated_exchange(environment: Any, topics: Any) -> None:
    migrate(environment.database_url)
    names = {"DATABASE_URL": environment.database_url, "PERPFLOW_TOPIC_PREFIX": environment.topic_prefix}

    def show(*arguments: str, width: int = 160) -> str:
        result = CliRunner().invoke(app, list(arguments), env={**os.environ, **names, "COLUMNS": str(width)}, terminal_width=width)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        return result.output

    def told(*arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in show(*arguments, "--json").splitlines()]

    with sink_thread(environment), Lab(environment) as lab, SpotLab(environment) as coins, lab.running():
        for end in (50_400, 49_700, 50_400):
            lab.signal()
            wait_for(lambda: lab.position > 0, 40)
            wait_for(lambda: len(lab.truth()["open_orders"]) == 2 and len(lab.stops()) == 1, 40)
            lab.price(end)
            wait_for(lambda: lab.position == 0 and not lab.stops(), 40)
            wait_for(lambda: lab.query("SELECT count(*) FROM live_trades WHERE over_at IS NULL") == [(0,)], 40)
            lab.price(50_000)
        lab.signal(risk_multiple=1.5)
        wait_for(lambda: lab.position > 0 and len(lab.truth()["open_orders"]) == 2, 40)
        with coins.running():
            coins.signal(instrument=INSTRUMENT)
            wait_for(lambda: len(coins.resting) == 2, 40)
            lab.price(50_050)
            wait_for(lambda: len(told("trades")) == 3 and all(row["measured"] for row in told("trades")), 60, "the sink has them")
            time.sleep(1)
            for width in (100, 160):
                for arguments in (["positions"], ["orders"], ["orders", "--all", "--limit", "12"], ["trades"], ["report", "execution"]):
                    shown = show(*arguments, width=width)
                    print(shown)
                    assert max(map(len, shown.splitlines())) <= width and "…" not in shown
            found = {row["account"]: row for row in told("positions")}
            assert found["BINANCE-simulated"]["protection"] == "venue" and found["BINANCE_SPOT-simulated"]["protection"] == "venue pair"
            position = found["BINANCE-simulated"]
            assert position["open_quantity"] == float(lab.position) and position["price"] == pytest.approx(50_050)
            assert position["unrealised"] == pytest.approx(float(lab.position) * (50_050 - position["entry_price"]))
            # What the reports add up to is what the exchange's wallet says.
            net = sum(row["net_pnl"] for row in told("trades")) + position["realised"]
            assert net == pytest.approx(float(D(lab.truth()["wallet"]) - 10_000), abs=1e-6)
