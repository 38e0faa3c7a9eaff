"""``perpflow demo`` as a user runs it: to its end on a recording, and stopped by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

DATA = Path(__file__).parents[1] / "data"
RECORDING = DATA / "ltcusdt_spot_trades" / "LTCUSDT_2025-06-21_09h_trades.csv.gz"


def demo(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "deploy.cli", "demo", "--dir", str(folder), "--recording", f"{RECORDING}=LTCUSDT:spot", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERPFLOW_")}
    return subprocess.Popen(
        command, cwd=Path(__file__).parents[2], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        # Tests that run in the background are deaf to Ctrl-C, and so would be what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that run in the folder or name it."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if str(folder) in " ".join(process.info["cmdline"] or []) or str(process.info["cwd"] or "").startswith(str(folder)):
            found.append(process)
    return found


@pytest.mark.stack
def test_the_demo_checks_itself_on_any_recording_and_stops_everything(tmp_path):
    process = demo(tmp_path / "demo", "--json", str(tmp_path / "demo.json"), "--report", str(tmp_path / "report.html"))
    output, _ = process.communicate(timeout=240)
    text = output.decode("utf-8", "replace")
    assert process.returncode == 0, text[-4000:]
    result = json.loads((tmp_path / "demo.json").read_text())
    assert result["replay"]["identical"] and result["hashes"] == result["replay"]["hashes"]
    assert all(check["ok"] for check in result["checks"]) and len(result["checks"]) > 5
    assert result["counts"]["agg_trades"] > 5_000 and result["counts"]["features"] == result["counts"]["scores"] > 700
    assert set(result["hashes"]) == {"features", "scores", "signals", "trades_closed"}
    report = (tmp_path / "report.html").read_text("utf-8")
    assert "LTCUSDT" in report and "<script src=" not in report
    assert processes_of(tmp_path) == []


@pytest.mark.stack
@pytest.mark.parametrize("seconds", [4, 22])
def test_ctrl_c_leaves_nothing_running(tmp_path, seconds):
    process = demo(tmp_path / "demo", "--speed", "60")
    time.sleep(seconds)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=150)  # it waits for what is in flight; the machine may be busy
    assert process.returncode == 130, output.decode(errors="replace")[-3000:]
    deadline = time.monotonic() + 10
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(tmp_path) == []
