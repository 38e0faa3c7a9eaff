"""``perpflow bench``: benchmark perpflow and comparable frameworks. The benchmarks are in tests/bench; this starts them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import UserError

app = typer.Typer(help="Benchmark perpflow and comparable frameworks on this machine.")

SCRIPT = Path(__file__).resolve().parents[3] / "tests" / "bench" / "run.py"


@app.command(epilog="Example: perpflow bench --quick --only worker,replay --json bench.json")
def bench(
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Run the short form of every benchmark except costs, scaling and sizes: about four minutes."),
    ] = False,
    only: Annotated[str, typer.Option(metavar="NAME,...", help="Run only these benchmarks.", show_default="all")] = "",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results to this file and a plot next to it.")
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Only install the other frameworks. Without it the first run installs them.")
    ] = False,
) -> None:
    """Benchmark worker, replay, producer, sink and other parts beside other stream processors on the same data. Print the ratios.

    Starts its own broker and database, or uses KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL when both are set. The first run installs
    the other stream processors into an environment of their own. Exit code 1: a benchmark of perpflow failed. Needs a source checkout.
    """
    if not SCRIPT.is_file():
        raise UserError("bench: the benchmarks are in tests/bench of a source checkout; install from one with `pip install -e .`")
    command = [sys.executable, str(SCRIPT), "--only", only, *(["--quick"] if quick else []), *(["--install"] if install else [])]
    if json_file is not None:
        command += ["--json", str(json_file.resolve())]
    sys.stdout.flush()
    os.execv(command[0], command)  # the benchmark process receives the signals and stops the processes that it started
