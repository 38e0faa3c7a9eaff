"""The common parts of every long-running process: structured log lines, clean stop on SIGTERM, /health and /metrics."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from schemas import metrics

HealthCheck = Callable[[], dict[str, Any]]
# Every process announces its /metrics in this folder, in the form of Prometheus' file_sd_configs. The local stack's Prometheus reads it.
TARGETS_VARIABLE = "PERPFLOW_TARGETS_DIR"


def configure_logging(level: str = "info") -> None:
    """Write structured log lines to standard error: one JSON object per line, or readable text on a terminal."""
    # Plain tracebacks, also on a terminal: the long form shows local variables, and they may hold secrets.
    readable = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = readable if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name])
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


class Service:
    """One process of perpflow: its name, stop flag, health and HTTP endpoint.

    Use as a context manager around the work; ``stopping`` is set on SIGTERM and SIGINT.

    Args:
        name: Service name, the ``service`` label of its metrics.
        http_port: Port of /health and /metrics; 0 takes any free one (see ``http_port`` afterwards).
        health: Returns details. An entry ``ok: False`` makes /health answer 503.
    """

    def __init__(self, name: str, http_port: int = 0, health: HealthCheck | None = None) -> None:
        self.name = name
        self.http_port = http_port
        self.stopping = threading.Event()
        self.log = structlog.get_logger().bind(service=name)
        self._health: HealthCheck = health or (lambda: {})
        self._on_stop: list[Callable[[], None]] = []
        self._server: ThreadingHTTPServer | None = None
        self._previous: dict[int, Any] = {}
        self._target: Path | None = None

    @property
    def job(self) -> str:
        """Return the name by which Prometheus knows processes of this kind: the service name, and one name for all producers."""
        return "producer" if self.name.startswith("produce-") else self.name

    def set_health(self, health: HealthCheck) -> None:
        """Replace the health check."""
        self._health = health

    def on_stop(self, call: Callable[[], None]) -> None:
        """Run ``call`` (in the signal handler's thread) at a stop request, e.g. ``loop.call_soon_threadsafe``."""
        self._on_stop.append(call)

    def health(self) -> dict[str, Any]:
        """Return the health report. ``ok`` is False if the check says so or fails."""
        try:
            report = {"service": self.name, "ok": True, **self._health()}
        except Exception as error:  # a failing check means an unhealthy service; the endpoint still answers
            report = {"service": self.name, "ok": False, "error": f"{type(error).__name__}: {error}"}
        metrics.UP.labels(self.name).set(1 if report["ok"] else 0)
        return report

    def _measure(self) -> None:
        """Update the values that belong to the moment of a scrape: health, clock, disk."""
        self.health()
        disk = shutil.disk_usage(Path.cwd())
        metrics.DISK_FREE.labels(self.name).set(disk.free)
        metrics.DISK_SIZE.labels(self.name).set(disk.total)
        metrics.WALL_TIME.labels(self.name).set_to_current_time()

    def _announce(self) -> None:
        """Announce /metrics if the folder is set.

        The file of a killed process stays until another of its kind starts, so that its absence is noticed.
        """
        folder = os.environ.get(TARGETS_VARIABLE)
        if not folder:
            return
        self._target = Path(folder) / f"{self.job}-{os.getpid()}.json"
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            for other in self._target.parent.glob(f"{self.job}-*.json"):
                if not _lives(int(other.stem.rpartition("-")[2])):
                    other.unlink(missing_ok=True)
            new = self._target.with_suffix(".new")
            new.write_text(json.dumps([{"targets": [f"127.0.0.1:{self.http_port}"], "labels": {"job": self.job}}]), encoding="utf-8")
            new.replace(self._target)
        except OSError as error:
            self.log.warning("not announced to Prometheus", folder=folder, error=str(error))

    def stop(self) -> None:
        """Ask the service to stop."""
        if not self.stopping.is_set():
            self.stopping.set()
            for call in self._on_stop:
                call()

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop()

    def __enter__(self) -> Service:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/health"):
                    report = service.health()
                    self._answer(200 if report["ok"] else 503, "application/json", json.dumps(report, default=str).encode())
                elif self.path.startswith("/metrics"):
                    service._measure()
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
                else:
                    self._answer(404, "text/plain", b"/health or /metrics\n")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Do not log requests of the monitoring."""

        try:
            self._server = ThreadingHTTPServer(("0.0.0.0", self.http_port), Handler)
        except OSError as error:
            raise SystemExit(f"{self.name}: port {self.http_port} (PERPFLOW_HTTP_PORT) cannot be used: {error}") from error
        self.http_port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="ops-http", daemon=True).start()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle_signal)
        self._announce()
        self.log.info("started", http_port=self.http_port)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._target is not None:
            with contextlib.suppress(OSError):
                self._target.unlink()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self.log.info("stopped")


def _lives(pid: int) -> bool:
    """Return whether a process with this id exists."""
    with contextlib.suppress(PermissionError):  # a process of another user
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True


def summed(counter: Any, **labels: str) -> float:
    """Return the sum of a counter's or gauge's samples whose labels match (for reports and tests)."""
    total = 0.0
    for family in counter.collect():
        samples: Iterable[Any] = family.samples
        for sample in samples:
            if not sample.name.endswith("_created") and all(sample.labels.get(key) == value for key, value in labels.items()):
                total += sample.value
    return total
