"""``perpflow demo``: the whole pipeline on recorded real data, by one command."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from schemas.errors import UserError


def demo(
    recording: Annotated[
        list[str] | None,
        typer.Option(
            "--recording",
            metavar="FILE=SYMBOL[:spot]",
            help="A recording to play; may be repeated. Default: LTCUSDT and BTCUSDT of the repository.",
        ),
    ] = None,
    speed: Annotated[str, typer.Option(help="max, or a factor of the recorded speed.")] = "max",
    keep: Annotated[bool, typer.Option("--keep", help="Leave broker and database running, to look into them.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write counts, rates, golden checks and hashes to this file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Where the HTML report goes; default: in the demo's folder.")] = None,
    folder: Annotated[Path, typer.Option("--dir", help="Folder of the demo's own stack, logs and report. It is emptied first.")] = Path(
        ".perpflow/demo"
    ),
    with_prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Fetch a Prometheus for the panels of metrics. One on the PATH is used in any case.")
    ] = False,
    pictures: Annotated[
        Path | None, typer.Option(help="Also take pictures of the report and a dashboard; needs playwright and a Chromium.")
    ] = None,
) -> None:
    """Play recorded real market data through the whole pipeline and show what came of it.

    Sets up a broker and a database of its own, starts the simulated venue and every service as a process of its own, plays the recordings, checks
    the result against figures computed from the files, replays the topics in process and writes a report. Ends with 1 when a check fails.
    Ctrl-C stops everything.

    Examples:

        perpflow demo

        perpflow demo --recording trades.csv.gz=ETHUSDT --speed 60 --keep --json demo.json
    """
    from deploy.demo.run import DemoOptions, run_demo
    from producers.simulated.recording.recording import Recording

    stopped: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # SIGTERM leaves nothing behind either
        signal.signal(number, interrupt)
    try:
        recordings = [Recording.parse(text) for text in recording or []]
        if speed != "max" and not float(speed) > 0:
            raise ValueError(f"--speed: must be positive, got {speed}")
    except ValueError as error:
        raise UserError(f"demo: {error}") from error
    console = Console()
    code = 0
    try:
        code = run_demo(DemoOptions(recordings, speed, keep, json_file, report, folder, with_prometheus, pictures), console)
    except KeyboardInterrupt:
        pass  # noted in ``stopped``
    except Exception:
        if not stopped:  # else a library turned the interrupt into an error of its own
            raise
    if stopped:
        console.print("stopped")
        code = 130
    raise typer.Exit(code)
