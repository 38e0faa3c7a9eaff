"""Processes and ports of the local stack: start, find, stop and kill processes; choose free ports."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from deploy.stack.errors import StackError, log_tail

HOST = "127.0.0.1"
# Below the range of ports for outgoing connections (Linux from 32768, macOS and BSD from 49152), so that
# no client's connection occupies the port at the next start of the stack.
_PORT_RANGE = (20_000, 32_000)


def port_is_free(port: int) -> bool:
    """Return whether ``port`` of this machine is free."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(taken: Sequence[int] = ()) -> int:
    """Return a free port that is not in ``taken``.

    Raises:
        StackError: none was found in 200 attempts.
    """
    draw = random.SystemRandom()
    for _ in range(200):
        port = draw.randrange(*_PORT_RANGE)
        if port not in taken and port_is_free(port):
            return port
    raise StackError(f"no free port between {_PORT_RANGE[0]} and {_PORT_RANGE[1]} on {HOST}: too many ports are in use")


def port_owner(port: int) -> str:
    """Return the process that listens on a port, as far as this user may see it: ``pid 12 (java)`` or ``another process``."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "another process"


def accepts_connections(port: int) -> bool:
    """Return whether something accepts TCP connections on ``port``."""
    try:
        with socket.create_connection((HOST, port), timeout=0.5):
            return True
    except OSError:
        return False


def start_detached(command: Sequence[str], output: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> psutil.Process:
    """Start a detached process that ignores our terminal's signals. Its output is appended to ``output``."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as log:
        child = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(env or os.environ), cwd=cwd, start_new_session=True
        )
    return psutil.Process(child.pid)


def find_ours(recorded: Mapping[str, float] | None, marker: str, program: str) -> psutil.Process | None:
    """Return the running process of a part of this stack, or None.

    A process id can be reused, so it is not enough. Our process has the recorded creation time, and the marker (a path inside the stack's
    folder) among its arguments. Without a valid record, because the state file was lost or never written, all processes are searched.

    Args:
        recorded: ``{"pid": ..., "created": ...}`` of the state file, or None.
        marker: Command-line argument that identifies this part of this stack.
        program: Part of the program's name (first argument), e.g. ``java``.
    """
    if recorded is not None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(int(recorded["pid"]))
            # The creation time depends on the boot time, which clock corrections shift by fractions of a second.
            if abs(process.create_time() - recorded["created"]) < 2 and _has_marker(process, marker, program):
                return process
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if _has_marker(process, marker, program) and not _has_marker(process.parent(), marker, program):
                return process
    return None


def _has_marker(process: psutil.Process | None, marker: str, program: str) -> bool:
    if process is None or process.status() == psutil.STATUS_ZOMBIE:
        return False
    arguments = process.cmdline()
    return len(arguments) > 1 and program in Path(arguments[0]).name and marker in arguments[1:]


def stop(process: psutil.Process, number: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> bool:
    """Stop a process and wait. Kill it with its children after a timeout. Return whether it stopped without a kill."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
    try:
        process.wait(timeout)
    except psutil.TimeoutExpired:
        kill(process)
        return False
    return True


def kill(process: psutil.Process) -> None:
    """Send SIGKILL to a process and its children, and wait until they exit."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=10)


def answers(url: str) -> bool:
    """Return whether a server of this machine answers a GET with 200."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the environment does not lead to this machine
    try:
        with direct.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_for_answer(name: str, url: str, process: psutil.Process, timeout: float, log: Path) -> None:
    """Wait until a server of this machine answers.

    Args:
        name: Its name, as a sentence begins with it.
        url: What is asked.
        process: Its process. It is killed when it does not answer.
        timeout: Longest wait, s.
        log: Its log.

    Raises:
        StackError: it exited or did not answer in time. Shows the end of its log.
    """
    if not wait_until(lambda: answers(url), process, timeout):
        kill(process)
        raise StackError(f"{name} did not answer within {timeout:.0f} s. The end of {log}:\n{log_tail(log)}")


def wait_until(check: Callable[[], bool], process: psutil.Process, timeout: float) -> bool:
    """Poll ``check`` until it is true. Return False if the process exits or the time runs out first."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        if check():
            return True
        time.sleep(0.1)
    return False
