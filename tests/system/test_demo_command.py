"""``perpflow demo`` as a user runs it: to its end on a recording, and stopped by Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from deploy import grafana
from deploy.demo.pictures import BROWSERS
from deploy.stack import StackError, prometheus
from tests.support.paths import RECORDINGS, ROOT

RECORDING = RECORDINGS / "ltcusdt_spot_trades" / "LTCUSDT_2025-06-21_09h_trades.csv.gz"


def demo(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "deploy.cli", "demo", "--dir", str(folder), "--recording", f"{RECORDING}=LTCUSDT:spot", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERPFLOW_")}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        # Tests that run in the background are deaf to Ctrl-C, and so would be what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@dataclass
class Live:
    """What the demo's console showed while the demo ran."""

    address: str = ""
    candles: list[float] = field(default_factory=list)
    page: str = ""


def watched(process: subprocess.Popen[bytes], seconds: float) -> tuple[str, Live]:
    """Return the output of the demo, which ends in time, and what its console showed beside it: the first address printed leads to it."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line.decode("utf-8", "replace"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    text, live, deadline = "", Live(), time.monotonic() + seconds
    with httpx.Client(timeout=10, trust_env=False) as client:
        while reader.is_alive() or not lines.empty():
            if time.monotonic() > deadline:
                process.kill()
                raise AssertionError(f"the demo did not end; its output ends with:\n{text[-4000:]}")
            try:
                text += lines.get(timeout=0.5)
            except queue.Empty:
                pass
            found = re.search(r"Console: (http://127\.0\.0\.1:\d+)", text)
            if found and not live.candles and process.poll() is None:
                live.address = found[1]
                with contextlib.suppress(httpx.HTTPError):  # it may be ending
                    look(client, live)
    process.wait(30)
    return text, live


def look(client: httpx.Client, live: Live) -> None:
    """Note the candles of the newest hour, and the page that draws them."""
    api = f"{live.address}/api/v1"
    extent = client.get(f"{api}/market/extent", params={"instrument": "BINANCE:LTCUSDT"})
    if extent.status_code != 200 or (last := extent.json()["last_time_ms"]) is None:
        return
    shown = client.get(f"{api}/candles", params={"instrument": "BINANCE:LTCUSDT", "start": last - 3_600_000, "end": last + 1})
    live.page = client.get(f"{live.address}/market").raise_for_status().text
    live.candles = [price for price in shown.raise_for_status().json()["close"] if price is not None]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that run in the folder or name it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if str(folder) in " ".join(process.info["cmdline"] or []) or str(process.info["cwd"] or "").startswith(str(folder)):
            found.append(process)
    return found


def colours_of(path: Path) -> int:
    """Number of different colours in a picture; an empty page has one or two."""
    from PIL import Image

    with Image.open(path) as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None
    return len(colours)


@pytest.mark.stack
@pytest.mark.timeout(480)
def test_the_demo_checks_itself_on_any_recording_and_stops_everything(tmp_path):
    with_metrics = prometheus_can_be_had()
    with_pictures = any(shutil.which(name) for name in BROWSERS)  # .ci/run installs one
    arguments = [*(["--prometheus"] if with_metrics else []), *(["--pictures", str(tmp_path / "pictures")] if with_pictures else [])]
    process = demo(tmp_path / "demo", "--json", str(tmp_path / "demo.json"), "--report", str(tmp_path / "report.html"), *arguments)
    text, live = watched(process, 420)
    assert process.returncode == 0, text[-4000:]
    assert live.candles and live.page, f"the console showed no market while the demo ran: {live}\n{text[-4000:]}"
    result = json.loads((tmp_path / "demo.json").read_text())
    assert result["console"]["address"] == live.address and result["console"]["market_seen_after_s"].keys() == {"BINANCE:LTCUSDT"}
    assert result["replay"]["identical"] and result["hashes"] == result["replay"]["hashes"]
    assert all(check["ok"] for check in result["checks"]) and len(result["checks"]) > 5
    assert result["counts"]["agg_trades"] > 5_000 and result["counts"]["features"] == result["counts"]["scores"] > 700
    assert set(result["hashes"]) == {"features", "scores", "signals", "labels", "trades_closed"}
    report = (tmp_path / "report.html").read_text("utf-8")
    assert "LTCUSDT" in report and "<script src=" not in report
    assert processes_of(tmp_path) == []
    pages = {name.partition(": ")[2]: one for name, one in result["dashboards"].items()}
    assert set(pages) == {"Market", "Signals", "Strategies", "Execution and costs", "Pipeline health", "System"}
    measured = {
        board["title"]: {panel["title"] for panel in board["panels"] if panel["datasource"]["type"] == "prometheus"}
        for board in (make() for make in grafana.BOARDS.values())
    }
    blank, missing = {}, 0
    for name, one in pages.items():
        page = tmp_path / "demo" / "dashboards" / "ltcusdt-spot" / f"{name.partition(' ')[0].lower()}.html"
        assert page.exists() and f'href="demo/dashboards/ltcusdt-spot/{page.name}"' in report
        blank[name] = set(one["empty"]) - SILENT[name] - measured[name]
        missing += len(set(one["empty"]) & measured[name])
    assert not any(blank.values()), blank
    if with_pictures:
        for name in ("report", "dashboard", "console-market-dark", "console-market-light", "console-desk-phone"):
            assert colours_of(tmp_path / "pictures" / f"{name}.png") > 20, f"{name}: the picture shows no chart"
    # A producer that has played its file between two scrapes has no rates: which panels of metrics are filled, test_dashboards_prometheus.py sees.
    assert not with_metrics or missing < sum(map(len, measured.values())) / 2


# What three hours of a spot market's trades, played by an undisturbed pipeline, cannot show. Every other panel has something.
PERPETUAL = {"Open interest", "Funding: predicted and settled", "Liquidations", "Positioning", "Basis and premium", "Funding of the ten largest", "Breadth",
             "Market pulse"}  # fmt: skip
SILENT = {
    "Market": {*PERPETUAL, "Order-book imbalance", "Depth", "Spread", "Whale flow", "Large trades"},
    "Signals": {"Signal timeline", "Divergences", "Labels by score"},
    "Strategies": {"Sharpe", "Win rate of the last 20 trades", "Profit factor"},
    "Execution and costs": {
        *("Risk guard state", "Rules that hold", "Day's result", "Guard state changes", "Commands to the guard"),
        *("Costs of live trades", "Friction of live trades", "Reconciliations", "Reconciliation findings"),
    },
    "Pipeline health": {
        "Findings",
        "Polls",
        "Streams not live",
        "Connections and gaps",
        "Gaps",
        "Gaps by stream",
        "Dead letters",
    },
    "System": {"REST budget", "Notifications", "Sending", "Archive", "Archive written"},
}


def prometheus_can_be_had() -> bool:
    """In CI it must be."""
    try:
        return prometheus.find(print).exists()
    except StackError:
        if os.environ.get("CI"):
            raise
        return False


@pytest.mark.stack
@pytest.mark.parametrize("seconds", [4, 22])
def test_ctrl_c_leaves_nothing_running(tmp_path, seconds):
    process = demo(tmp_path / "demo", "--speed", "60")
    time.sleep(seconds)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=150)  # it waits for what is in flight; the machine may be busy
    assert process.returncode == 130, output.decode(errors="replace")[-3000:]
    deadline = time.monotonic() + 60
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(tmp_path) == []
