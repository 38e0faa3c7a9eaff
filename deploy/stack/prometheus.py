"""Prometheus, an optional part of the local stack: programs, configuration, start and health.

Each service with PERPFLOW_TARGETS_DIR writes a target file to that folder (schemas/service.py). Prometheus watches the folder and scrapes
them. The rules are those of production.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psutil

from deploy.prometheus import RULES
from deploy.stack import processes
from deploy.stack.errors import StackError
from deploy.stack.java import Progress

VARIABLE = "PROMETHEUS"
SCRAPE_S = 2
START_TIMEOUT_S = 30.0
_MISSING = (
    "Prometheus is missing and this machine's package manager does not give it: install it from https://prometheus.io/download"
    f" and put it on the PATH, or name the program in {VARIABLE} (promtool beside it)"
)


def cache() -> Path:
    """Return the folder with the downloaded programs, shared by all stacks."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "perpflow" / "prometheus"


def at_hand() -> Path | None:
    """Return the program ``prometheus`` without a download: from the variable PROMETHEUS, the PATH, or an earlier download."""
    named = os.environ.get(VARIABLE) or shutil.which("prometheus")
    found = Path(named) if named else cache() / "prometheus"
    return found if found.exists() else None


def find(progress: Progress) -> Path:
    """Return the program ``prometheus``. If missing, download the package of Debian or Ubuntu (19 MB) without installing it.

    Raises:
        StackError: it is not available. The message says what to do.
    """
    return at_hand() or _fetch(progress)


def promtool(progress: Progress) -> Path:
    """Return the program ``promtool``, which comes with Prometheus. Raises StackError like ``find``."""
    named = os.environ.get("PROMTOOL") or shutil.which("promtool")
    found = Path(named) if named else find(progress).with_name("promtool")
    if not found.exists():
        raise StackError(f"no promtool in {found.parent}; set PROMTOOL to its path")
    return found


def _fetch(progress: Progress) -> Path:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise StackError(_MISSING)
    progress("downloading Prometheus (19 MB)")
    cache().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache().parent) as scratch:
        folder = Path(scratch)
        download = ["apt-get", "download", "--quiet", "prometheus"]
        done = subprocess.run(download, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0 and os.geteuid() == 0:  # a fresh machine has no package lists
            subprocess.run(["apt-get", "update", "--quiet"], capture_output=True, check=False)
            done = subprocess.run(download, cwd=folder, capture_output=True, text=True, check=False)
        package = next(folder.glob("prometheus_*.deb"), None)
        if package is None:
            raise StackError(f"{_MISSING}\napt-get says: {done.stderr.strip()}")
        subprocess.run(["dpkg-deb", "--extract", package.name, "unpacked"], cwd=folder, check=True)
        with contextlib.suppress(OSError):  # another process was faster
            (folder / "unpacked" / "usr" / "bin").rename(cache())
    return cache() / "prometheus"


class Prometheus:
    """One Prometheus server in a folder.

    Args:
        folder: Folder of its data.
        logs: Folder of the log files.
    """

    program = "prometheus"

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self.targets = folder / "targets"
        self.log = logs / "prometheus.log"

    @property
    def marker(self) -> str:
        """Command-line argument that identifies this server's process."""
        return f"--config.file={self.folder / 'prometheus.json'}"

    def start(self, port: int, progress: Progress) -> psutil.Process:
        """Write its configuration and start it. ``wait`` returns when it answers. Raises StackError if the program is not available."""
        program = find(progress)
        progress("starting Prometheus")
        self.targets.mkdir(parents=True, exist_ok=True)
        config = {
            "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
            "rule_files": [str(path) for path in RULES],
            # Each file names its process's job.
            "scrape_configs": [
                {"job_name": "perpflow", "file_sd_configs": [{"files": [str(self.targets / "*.json")], "refresh_interval": "10s"}]}
            ],
        }
        (self.folder / "prometheus.json").write_text(json.dumps(config, indent=1), encoding="utf-8")  # JSON is YAML
        command = [
            str(program), self.marker, f"--storage.tsdb.path={self.folder / 'data'}", f"--web.listen-address={processes.HOST}:{port}",
        ]  # fmt: skip
        return processes.start_detached(command, self.log, cwd=self.folder)

    def wait(self, process: psutil.Process, port: int) -> None:
        """Wait until the server answers.

        Raises:
            StackError: it exited or did not answer in time. Shows the end of its log.
        """
        processes.wait_for_answer("Prometheus", _ready(port), process, START_TIMEOUT_S, self.log)


def url(port: int) -> str:
    """Return the address of the stack's Prometheus."""
    return f"http://{processes.HOST}:{port}"


def answers(port: int) -> bool:
    """Return whether a Prometheus is ready there."""
    return processes.answers(_ready(port))


def _ready(port: int) -> str:
    return f"{url(port)}/-/ready"
