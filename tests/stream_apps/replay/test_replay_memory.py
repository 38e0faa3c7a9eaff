"""Memory of a replay does not grow with its input: from files, from the archive's columns, over days of the same market."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# One run in a process of its own: peak resident size in kilobytes. Each day holds the same number of trades.
RUN = """
import resource, sys
from pathlib import Path
from deploy.backtest.job import Job, open_job
from deploy.report.series import FEATURES
from schemas.settings import Settings
from stream_apps.replay.collect import Collector
settings = Settings(kafka_bootstrap_servers="127.0.0.1:1")
opened = open_job(Job((f"file:{sys.argv[1]}=LTCUSDT@BINANCE",), strategies=("v53_fast",), assigned={"obi_on_missing": "pass"}), settings)
collected = Collector(settings.codec, None, None, None, FEATURES)
opened.run(collected.take, collected.on_piece)
print(collected.inputs["agg_trades"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def dump(path: Path, trades: int, hours: int) -> Path:
    """Write a dump of aggregate trades: so many over so many hours, the price going up and down."""
    step = hours * 3_600_000 // trades
    with path.open("w") as file:
        file.write("agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n")
        for number in range(trades):
            price = f"{100 + (number * 37 % 401) / 100:.2f}"
            file.write(
                f"{number},{price},{number % 90 / 10 + 0.1:.1f},{number},{number},{1_750_000_000_000 + number * step},{str(number % 3 == 0).lower()}\n"
            )
    return path


def peak(path: Path) -> tuple[int, int]:
    run = subprocess.run([sys.executable, "-c", RUN, str(path)], capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert run.returncode == 0, run.stderr
    trades, kilobytes = map(int, run.stdout.split()[-2:])
    return trades, kilobytes


@pytest.mark.parametrize(
    ("small", "large", "hours"),
    [pytest.param(40_000, 160_000, 4, id="short"), pytest.param(250_000, 2_000_000, 24, marks=pytest.mark.long, id="long")],
)
def test_four_times_the_trades_take_no_more_memory(tmp_path: Path, small: int, large: int, hours: int) -> None:
    few, before = peak(dump(tmp_path / "LTCUSDT-aggTrades-1.csv", small, hours))
    many, after = peak(dump(tmp_path / "LTCUSDT-aggTrades-2.csv", large, hours))
    assert (few, many) == (small, large)
    # What the results of the same hours take is in both; the trades themselves would be 40 bytes each as columns, 150 as bytes.
    assert after - before < 12_000, f"{before:,} kB for {small:,} trades, {after:,} kB for {large:,}"
