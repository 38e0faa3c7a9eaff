"""``perpflow bench``: measure this machine, ours beside its peers. The benchmarks are tests: this only starts them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import UserError

app = typer.Typer(help="Measure this machine, ours beside its peers.")

SCRIPT = Path(__file__).resolve().parents[3] / "tests" / "bench" / "run.py"


@app.command(epilog="Example: perpflow bench --quick --only worker,replay --json bench.json")
def bench(
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Short forms, of all but costs, scaling and sizes: four minutes together."),
    ] = False,
    only: Annotated[str, typer.Option(metavar="NAME,...", help="Only these.", show_default="all")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the rows there, and a plot beside it.")] = None,
    install: Annotated[bool, typer.Option("--install", help="Only fetch the peers, which the first run does else.")] = False,
) -> None:
    """Measure worker, replay, producer, sink and more in one run, ours beside its peers on the same data, and print ratios.

    Starts a broker and a database of its own, or uses KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL when both are set. The first run fetches the peers (other
    stream processors) into an environment and a folder of their own. Exit code 1: one of ours could not be measured. Needs a source checkout.
    """
    if not SCRIPT.is_file():
        raise UserError("bench: the benchmarks are in tests/bench of a source checkout; install from one with `pip install -e .`")
    command = [sys.executable, str(SCRIPT), "--only", only, *(["--quick"] if quick else []), *(["--install"] if install else [])]
    if json_file is not None:
        command += ["--json", str(json_file.resolve())]
    sys.stdout.flush()
    os.execv(command[0], command)  # signals go to the run itself, which removes what it has started
