"""``perpflow demo``: run the whole pipeline on recorded market data with one command."""

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
            help="A recording to play. Repeatable. Default: the shipped recordings of LTCUSDT and BTCUSDT.",
        ),
    ] = None,
    speed: Annotated[str, typer.Option(help="Playback speed: a multiple of the recorded speed, or max.")] = "max",
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep broker, database and console running afterwards, so that you can inspect them.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write counts, rates, golden checks and hashes to this file.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML report to write. Default: report.html in the demo's folder.")] = None,
    folder: Annotated[Path, typer.Option("--dir", help="Folder for the demo's stack, logs and report. The demo empties it first.")] = Path(
        ".perpflow/demo"
    ),
    with_prometheus: Annotated[
        bool,
        typer.Option(
            "--prometheus", help="Download Prometheus for the metric panels. A Prometheus on the PATH is used without this option."
        ),
    ] = False,
    pictures: Annotated[
        Path | None, typer.Option(help="Also save pictures of the console, the report and a dashboard here. Needs playwright and Chromium.")
    ] = None,
) -> None:
    """Play recorded market data through the whole pipeline and report the result.

    The demo starts a broker, a database, the console, a simulated exchange and every service. It prints the address of the console.
    It plays the recordings and compares the results with figures computed directly from the files. Then it replays the topics,
    compares again and writes a report.
    Exit code 1: a check failed. Ctrl-C stops everything.

    Examples:

        perpflow demo

        perpflow demo --recording trades.csv.gz=ETHUSDT --speed 60 --keep --json demo.json
    """
    stopped: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # SIGTERM also stops every process of the demo
        signal.signal(number, interrupt)
    console = Console()
    code = 0
    try:
        # The imports take seconds of a busy machine; an interrupt counts in them, too.
        from deploy.demo.run import DemoOptions, run_demo
        from producers.simulated.recording.recording import Recording

        try:
            recordings = [Recording.parse(text) for text in recording or []]
            if speed != "max" and not float(speed) > 0:
                raise ValueError(f"--speed: must be positive, got {speed}")
        except ValueError as error:
            raise UserError(f"demo: {error}") from error
        code = run_demo(DemoOptions(recordings, speed, keep, json_file, report, folder, with_prometheus, pictures), console)
    except KeyboardInterrupt:
        pass  # noted in ``stopped``
    except Exception:
        if not stopped:  # otherwise a library turned the interrupt into its own error
            raise
    if stopped:
        console.print("stopped")
        code = 130
    raise typer.Exit(code)
