"""``perpflow demo``: start the stack, play recordings through the whole pipeline, and show the results."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.demo.collect import collect
from deploy.demo.golden import golden_checks, golden_of_recording
from deploy.demo.outcome import as_json
from deploy.demo.panels import panel_checks
from deploy.demo.pictures import Picture, console_pictures, take_pictures
from deploy.demo.pipeline.first_look import FirstLook
from deploy.demo.pipeline.generated_market import GeneratedMarket
from deploy.demo.pipeline.pipeline import Pipeline
from deploy.demo.pipeline.process import PipelineError
from deploy.demo.report import write_report
from deploy.demo.summary import print_summary
from deploy.grafana.preview.pages import Rendered
from deploy.grafana.preview.render import render
from deploy.stack import Stack, prometheus
from producers.binance.warmup import compile_frames
from producers.simulated.recording.recording import Recording
from schemas.codec.avro import Codec
from schemas.errors import UserError
from schemas.partition import instrument_id
from sinks.venues.account_login import SIMULATED
from stream_apps.core.paper.warmup import compile_decisions, compile_kernels
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.replay.verify import ReplayReport, replay_topics
from stream_apps.strategy_files import default_files, generated_files, load_strategy_files, recorded_files

DATA = Path(__file__).parent / "data"
# The recordings of the demo: real captures, their sources and licences are in deploy/demo/data/PROVENANCE.md.
RECORDINGS = (
    Recording(DATA / "ltcusdt_spot_trades", "LTCUSDT", "spot"),
    Recording(DATA / "binance_usdm_raw" / "btcusdt_20240808.gz", "BTCUSDT"),
)
# Long enough for a one-day capture on a slow machine. A demo that hangs ends with an error.
TIMEOUT_S = 1800.0
# Period that the dashboards of the generated market show, including its history.
MADE_UP_SHOWN = timedelta(minutes=40)
# Threads for work beside Kafka, database and services: compiling kernels and drawing the dashboards of several markets.
HELPERS = 2
# The recordings are shorter than the 24 h of trades that an instrument needs to be warm, or not much longer.
ENVIRONMENT = {"PERPFLOW_ENGINE_SETTINGS": "quantile_history_ms=0"}
GENERATED = "generated"
SHOWN = ("agg_trades", "quotes", "depth", "progress", "features", "scores", "signals", "fills", "trades_closed", "dead_letters", "gaps")


@dataclass(frozen=True)
class DemoOptions:
    """Options of the command.

    Attributes:
        recordings: Recordings to play. Empty: the shipped recordings.
        speed: ``max`` or a factor of the recorded speed.
        keep: Leave broker and database running at the end.
        json_file: Where to write counts, rates, checks and hashes.
        report: Where to write the HTML report.
        folder: Folder of the stack, the logs and the report. It is emptied at the start.
        prometheus: Download Prometheus for the metric panels if it is not installed.
        pictures: Folder for pictures of the console, the report and a dashboard; None: take none.
    """

    recordings: Sequence[Recording] = ()
    speed: str = "max"
    keep: bool = False
    json_file: Path | None = None
    report: Path | None = None
    folder: Path = Path(".perpflow/demo")
    prometheus: bool = False
    pictures: Path | None = None


def strategies_for(recordings: Sequence[Recording]) -> list[StrategyConfig]:
    """Return the shipped strategies of the played instruments: those for recordings, otherwise those of the default set."""
    played = {instrument_id("BINANCE", recording.symbol, recording.kind) for recording in recordings}
    made_for = [config for config in load_strategy_files(recorded_files()) if config.instrument in played]
    covered = {config.instrument for config in made_for}
    return made_for + [config for config in load_strategy_files(default_files()) if config.instrument in played - covered]


def run_demo(options: DemoOptions, console: Console) -> int:
    """Run the demo. Returns the exit code: 0 if every check passed.

    Raises:
        UserError: a part could not run. The message names the part and the reason.
    """
    recordings = list(options.recordings) or list(RECORDINGS)
    for recording in recordings:
        if isinstance(recording.path, Path) and not recording.path.exists():
            raise UserError(f"demo: recording {recording.path} does not exist")
    folder = options.folder.resolve()
    stack = Stack(folder / "stack")
    began = time.monotonic()
    pipeline: Pipeline | None = None
    look: FirstLook | None = None
    # They give way to what a person waits for: the console and the market.
    helpers = ProcessPoolExecutor(HELPERS, multiprocessing.get_context("spawn"), os.nice, (10,))
    try:
        with console.status("starting the broker, the database and the console") as status:
            stack.reset()
            measured = options.prometheus or prometheus.at_hand() is not None
            stack.plan(prometheus=measured)
            generated = None if options.recordings else GeneratedMarket()
            strategies = strategies_for(recordings) + (load_strategy_files(generated_files()) if generated is not None else [])
            environment = {**stack.env(), **ENVIRONMENT}
            pipeline = Pipeline(environment, folder / "logs", recordings, options.speed, strategies, monitored=True, generated=generated)
            pipeline.start_venues()
            # The kernels of the producers first: the market waits for them.
            compiling = [helpers.submit(kernels, Codec()) for kernels in (compile_frames, compile_kernels, compile_decisions)]
            stack.up(lambda message: status.update(f"setting up: {message}"), prometheus=measured, console=True, environment=ENVIRONMENT)
            assert stack.console_url is not None
            console.print(f"[bold]Console:[/bold] {stack.console_url}  (web pages and API of this demo, read-only)", soft_wrap=True)
            look = FirstLook(stack.console_url, pipeline.instruments, began, console)
            look.start()
            status.update("creating topics, tables and strategies")
            pipeline.prepare()
            # Several processes that compile the same would take longer than one.
            status.update("compiling the kernels (takes longer the first time)")
            compiling[0].result()
            status.update("starting the market")
            playing = time.monotonic()
            pipeline.start_market()
            status.update("compiling the kernels (takes longer the first time)")
            for kernels in compiling:
                kernels.result()
            status.update("starting the services")
            pipeline.start_readers()
        _watch(pipeline, console)
        seconds = time.monotonic() - playing
        with console.status("drawing the dashboards"):
            pages = _dashboards(pipeline, folder / "dashboards", helpers)
        pipeline.stop()
        with console.status("replaying the topics and checking the results"):
            replayed = replay_topics(pipeline.settings)
            status_code = _conclude(pipeline, replayed, options, console, seconds, folder, pages, look)
        console.print(f"[bold]{time.monotonic() - began:.0f} s in total.[/bold]")
        if options.keep:
            _point_at(stack, options, console)
        return status_code
    finally:
        if look is not None:
            look.stop()
        helpers.shutdown(cancel_futures=True)
        if pipeline is not None:
            pipeline.stop()
        if not options.keep:
            stack.down()


def _watch(pipeline: Pipeline, console: Console) -> None:
    """Show the progress until everything is done."""
    bars = Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[at]}"),
        TimeElapsedColumn(),
        console=console,
    )
    tasks = {
        played.author: bars.add_task(
            f"{played.recording.symbol} ({played.recording.kind})", total=max(played.last - played.first, 1), at=""
        )
        for played in pipeline.played
    }
    deadline = time.monotonic() + TIMEOUT_S
    counts, at = pipeline.progress.counts(), time.monotonic()
    stage = "playing"
    with Live(Group(_counters(counts, counts, 1.0, stage), bars), console=console, refresh_per_second=4, transient=True) as live:
        while stage != "done":
            if time.monotonic() > deadline:
                raise PipelineError(f"demo: still {stage} after {TIMEOUT_S:.0f} s; the logs are in {pipeline.folder}")
            time.sleep(0.5)
            for name in pipeline.supervise():
                console.print(f"{name} was restarted")
            newest, now = pipeline.progress.counts(), time.monotonic()
            for played in pipeline.played:
                time_ms = pipeline.progress.newest_mark(played.author, played.recording.symbol)
                if time_ms is not None:
                    text = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_ms / 1000))
                    bars.update(tasks[played.author], completed=min(time_ms, played.last) - played.first, at=f"{text} UTC (recorded)")
            live.update(Group(_counters(newest, counts, now - at, stage), bars))
            counts, at = newest, now
            stage = pipeline.stage()


def _counters(counts: dict[str, int], before: dict[str, int], seconds: float, stage: str) -> Table:
    table = Table(title=f"perpflow demo: {stage}", show_edge=False)
    for name in SHOWN:
        table.add_column(name, justify="right")
    table.add_row(*(f"{counts[name]:,}" for name in SHOWN))
    table.add_row(*(f"{(counts[name] - before[name]) / max(seconds, 1e-3):,.0f}/s" for name in SHOWN), style="dim")
    return table


def _dashboards(pipeline: Pipeline, folder: Path, helpers: Executor) -> dict[str, Rendered]:
    """Draw the dashboards of each market while the services still run. Return heading -> result of a page.

    Raises:
        PipelineError: a panel's query failed.
    """
    pages = {}
    markets = [
        (f"{recording.symbol} {recording.kind}", instrument_id("BINANCE", recording.symbol, recording.kind), played.author)
        for played in pipeline.played
        if (recording := played.recording)
    ]
    if pipeline.generated is not None:
        markets.append((f"{pipeline.generated.symbols[0]} generated", pipeline.generated.instruments[0], GENERATED))
    now = datetime.now(UTC)
    drawing = []
    for heading, instrument, author in markets:
        generated = author == GENERATED
        given = {"instrument": [instrument], **({"mode": [SIMULATED]} if generated else {})}
        # Indicators of the generated market arrive every five minutes, and its account closes after the last evaluation.
        since, until = (now - MADE_UP_SHOWN, now) if generated else (None, None)
        place = folder / author.removeprefix("recorded-")
        arguments = (place, pipeline.settings.database_url, pipeline.environment.get("PROMETHEUS_URL"), since, until, given)
        drawing.append((heading, helpers.submit(render, *arguments)))
    for heading, drawn in drawing:
        for one in drawn.result():
            if one.errors:
                raise PipelineError(f"dashboard {one.path.stem}: {one.errors}")
            pages[f"{heading}: {one.title}"] = one
    return pages


def _conclude(
    pipeline: Pipeline,
    replayed: ReplayReport,
    options: DemoOptions,
    console: Console,
    seconds: float,
    folder: Path,
    pages: Mapping[str, Rendered],
    look: FirstLook,
) -> int:
    database_url = pipeline.settings.database_url
    facts = collect(database_url)
    goldens = [golden_of_recording(recording.path, recording.symbol, recording.kind) for recording in pipeline.recordings]
    checks = golden_checks(facts, goldens)
    if pipeline.generated is not None:
        checks += panel_checks(list(pages.values()))
    counts = pipeline.progress.counts()
    rates = {topic: count / seconds for topic, count in counts.items() if count}
    assert replayed.written is not None  # replay_topics compares by default
    # The generated market runs by the wall clock. Its records are compared with its replay too, but differ in every run.
    aside = () if pipeline.generated is None else pipeline.generated.instruments
    recorded = replayed.written.without(aside)
    hashes = {"written": recorded.hashes(), "replayed": replayed.results.without(aside).hashes()}
    identical = not replayed.differences and not replayed.written.conflicts
    report = options.report or folder / "report.html"
    title = "perpflow demo: " + ", ".join(f"{recording.symbol} {recording.kind}" for recording in pipeline.recordings)
    write_report(
        report,
        database_url,
        facts,
        checks,
        title,
        goldens=goldens,
        rates=rates,
        hashes=hashes["written"],
        pages={f"{name} ({one.filled} of {one.filled + len(one.empty)} panels have data)": one.path for name, one in pages.items()},
    )
    print_summary(console, facts, checks, rates)
    table = Table("topic", "records", "sha256 of the services' records", "replay", title="Replay is byte-identical")
    for topic, count in recorded.counts().items():
        same = hashes["written"][topic] == hashes["replayed"][topic]
        table.add_row(topic, f"{count:,}", hashes["written"][topic][:32], "[green]identical[/green]" if same else "[red]different[/red]")
    console.print(table)
    for difference in replayed.differences[:5]:
        console.print(str(difference), markup=False, style="red")
    console.print(f"Report:     {report}\nDashboards: {folder / 'dashboards'}\nLogs:       {pipeline.folder}")
    if options.pictures is not None:
        first = pipeline.played[0]
        instrument = instrument_id("BINANCE", first.recording.symbol, first.recording.kind)
        section = next(number for number, one in enumerate(facts.instruments, 1) if one.instrument == instrument)
        page = folder / "dashboards" / first.author.removeprefix("recorded-") / "market.html"
        pictures = [
            *console_pictures(look.url, instrument),
            Picture(report.resolve().as_uri(), "report", f"#i{section}", ".main-svg"),
            Picture(page.resolve().as_uri(), "dashboard", "body", ".main-svg"),
        ]
        console.print(f"Pictures:   {', '.join(map(str, take_pictures(pictures, options.pictures)))}")
    if options.json_file is not None:
        result: dict[str, Any] = {
            "seconds": seconds,
            "counts": counts,
            "rates": rates,
            "checks": [as_json(check) for check in checks],
            "hashes": hashes["written"],
            "replay": {
                "identical": identical,
                "hashes": hashes["replayed"],
                "seconds": replayed.seconds,
                "differences": [str(d) for d in replayed.differences],
            },
            "console": {"address": look.url, "market_seen_after_s": look.seen},
            "facts": as_json(facts),
            "dashboards": {name: {"filled": one.filled, "empty": one.empty} for name, one in pages.items()},
            "recordings": [f"{recording.path}={recording.symbol}:{recording.kind}" for recording in pipeline.recordings],
        }
        options.json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if identical and all(check.ok for check in checks) else 1


def _point_at(stack: Stack, options: DemoOptions, console: Console) -> None:
    console.print("\nBroker, database and console keep running. Inspect them with:", style="bold")
    stack_folder = options.folder / "stack"
    for line in (
        f"{stack.console_url}  # the console: market, strategies, signals, trades",
        f'eval "$(perpflow stack env --dir {stack_folder})"',
        *(f"export {name}={value}  # the demo's setting, which a replay of its topics needs" for name, value in ENVIRONMENT.items()),
        "perpflow topics tail trades_closed --from beginning --count 5",
        "perpflow topics lag",
        'psql "$DATABASE_URL"',
        f"perpflow stack down --dir {stack_folder}",
    ):
        console.print(f"  {line}", markup=False, highlight=False)
