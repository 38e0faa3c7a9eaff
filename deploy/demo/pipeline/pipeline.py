"""Starts, supervises and stops the services: simulated venues, producers, workers, executor, sink and monitor.

With a generated market also a live executor and its guard, at the exchange of that market.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg

from deploy.database.migrate import migrate
from deploy.demo.pipeline.generated_market import ACCOUNT, ACCOUNT_KEY, ACCOUNTS, DESK, POLICY, GeneratedMarket
from deploy.demo.pipeline.process import PipelineError, Process
from deploy.demo.pipeline.progress import Progress
from deploy.grafana.build import GENERATED_AUTHORS
from deploy.stack.topics import create_topics
from producers.binance.adapter import BinanceUsdm
from producers.simulated.recording.recording import Facts, Recording, survey
from schemas.partition import instrument_id
from schemas.settings import Settings
from sinks.commands.risk import give
from sinks.commands.strategies.revisions import publish
from sinks.venues.account_login import SIMULATED
from stream_apps.core.signals.strategy import StrategyConfig

# Process starts that fail within so many seconds count towards giving up. A process killed after working is simply started again.
QUICK_DEATH_S = 20.0
GIVE_UP_AFTER = 5
# The longest that the account at the generated market takes to be ready, seconds; on an idle machine it takes a few.
READY_S = 120.0


@dataclass
class RecordedFeed:
    """A recording in the pipeline, with its simulated venue, its producer, and its facts, which a thread finds out while the venue starts."""

    recording: Recording
    author: str
    venue: Process
    facts: Future[Facts]
    producer: Process | None = None

    @property
    def first(self) -> int:
        """Event time of its first message, ms."""
        return self.facts.result().first

    @property
    def last(self) -> int:
        """Event time of its last message, ms."""
        return self.facts.result().last

    @property
    def streams(self) -> list[str]:
        """Topics that it has messages for."""
        recorded = {stream.partition("@")[0] for stream in self.facts.result().counts}
        return [channel.topic for channel in BinanceUsdm.channels if channel.name in recorded]


@dataclass
class Pipeline:
    """All services between the recordings and the database.

    Attributes:
        environment: KAFKA_BOOTSTRAP_SERVERS, DATABASE_URL, PERPFLOW_TOPIC_PREFIX ... of all processes.
        folder: Logs.
        recordings: Each is served by a simulated venue and read by a producer of its own.
        speed: ``max`` or a factor of the recorded speed.
        strategies: Written to the strategies topic first.
        workers: Number of worker processes.
        faults: Faults of the venues (see ``perpflow simulate --help``).
        speeds: Symbol -> speed where it differs from ``speed``. So recordings of minutes and of days can end together.
        monitored: Also run the quality monitor.
        generated: A generated market beside the recordings, with a venue and a producer of its own; None: no such market.
    """

    environment: Mapping[str, str]
    folder: Path
    recordings: Sequence[Recording]
    speed: str = "max"
    strategies: Sequence[StrategyConfig] = ()
    workers: int = 1
    faults: Sequence[str] = ()
    speeds: Mapping[str, str] = field(default_factory=dict)
    monitored: bool = False
    generated: GeneratedMarket | None = None
    services: dict[str, Process] = field(default_factory=dict)
    played: list[RecordedFeed] = field(default_factory=list)
    live_since: int | None = None
    close_requested: bool = False
    desk_stopping: bool = False

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        known = {alias: name for name, info in Settings.model_fields.items() if (alias := info.alias)}
        self.settings = Settings(**{known[name]: value for name, value in self.environment.items() if name in known})  # type: ignore[arg-type]
        self.progress = Progress(self.settings)
        self._aside = ThreadPoolExecutor(len(self.recordings) + 1, thread_name_prefix="pipeline")

    @property
    def instruments(self) -> dict[str, str]:
        """Instrument -> what its market is, of the recordings and of the generated market."""
        found = {instrument_id("BINANCE", one.symbol, one.kind): "recorded" for one in self.recordings}
        return found | dict.fromkeys(self.generated.instruments[:1] if self.generated is not None else [], "generated, in real time")

    # --- starting and stopping ----------------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Create topics and tables, and write the strategies."""
        created = self._aside.submit(create_topics, self.settings)
        migrate(self.settings.database_url, settings=self.settings)
        created.result()
        if self.strategies:
            publish(self.settings, list(self.strategies), time.time_ns() // 1_000_000)

    def start(self) -> None:
        """Start everything: the market first, so that a person sees it at once, then who reads it."""
        self.start_venues()
        self.start_market()
        self.start_readers()

    def start_venues(self) -> None:
        """Start the venues of the recordings. They need neither broker nor database."""
        for recording in self.recordings:
            self.add_venue(recording, self.faults)

    def start_market(self) -> None:
        """Start the sink and the producers of the recordings."""
        self._start_sink()
        for played in self.played:
            self.start_producer(played)

    def start_readers(self) -> None:
        """Start executor, monitor and workers, and the generated market with the account that trades there."""
        self._start_engine()
        if self.generated is not None:
            self._start_generated(self.generated)
            self._start_generated_producer(self.generated)

    def start_services(self) -> None:
        """Start the services that wait for data: sink, executor, monitor and workers."""
        self._start_sink()
        self._start_engine()

    def _start_sink(self) -> None:
        self._add("sink", ["sink", "--instance", "sink-1"]).start()

    def _start_engine(self) -> None:
        self._add("executor", ["execute"]).start()
        if self.monitored:
            self._add("monitor", ["monitor", "--from-beginning"]).start()
        for number in range(1, self.workers + 1):
            self._add(f"worker-{number}", ["worker", "--instance-id", f"worker-{number}"]).start()

    def _add(self, name: str, arguments: list[str], restart: bool = True) -> Process:
        process = self.services[name] = Process(name, arguments, dict(self.environment), self.folder, restart)
        return process

    def add_venue(self, recording: Recording, faults: Sequence[str] = ()) -> RecordedFeed:
        """Start a simulated venue for a recording, with these faults. It waits for its producer (``start_producer``)."""
        spot = ":spot" if recording.kind == "spot" else ""
        arguments = [
            "simulate",
            "--recording",
            f"{_absolute(recording.path)}={recording.symbol}{spot}",
            "--speed",
            self.speeds.get(recording.symbol, self.speed),
        ]
        for fault in faults:
            arguments += ["--fault", fault]
        slug = f"{recording.symbol.lower()}-{recording.kind}"
        venue = self._add(f"venue-{slug}", arguments, restart=False)
        venue.start()
        played = RecordedFeed(recording, f"recorded-{slug}", venue, self._aside.submit(survey, recording))
        self.played.append(played)
        return played

    def start_producer(self, played: RecordedFeed) -> None:
        """Start the producer of a venue once the venue is ready. Raises PipelineError when it does not come up."""
        urls = self._urls(played.venue)
        slug = played.author.removeprefix("recorded-")
        played.producer = self._add(
            f"producer-{slug}",
            [
                "produce", "--venue", "BINANCE", "--symbols", played.recording.symbol, "--streams", ",".join(played.streams), "--author", played.author,
                "--ws-url", urls["ws_url"], "--rest-url", urls["rest_url"], "--depth-speed", "0ms", "--exit-at-end",
            ],
        )  # fmt: skip
        played.producer.start()

    def _start_generated(self, market: GeneratedMarket) -> None:
        """Start the venue of the generated market, its guard and its live executor."""
        accounts, policy = self.folder / "accounts.toml", self.folder / "execution.toml"
        accounts.write_text(ACCOUNTS, encoding="utf-8")
        policy.write_text(POLICY, encoding="utf-8")
        arguments = [
            "simulate",
            "--instruments",
            str(len(market.symbols)),
            "--first",
            "12",
            "--rate",
            str(market.rate),
            "--messages",
            str(market.messages),
            "--past-trades",
            str(market.past_trades),
            "--seed",
            str(market.seed),
            "--trading",
            str(accounts),
            "--expect-streams",  # play only when a market-data client has subscribed: the trading services connect first
            "aggTrade",
        ]
        for fault in market.faults:
            arguments += ["--fault", fault]
        for fault in market.trading_faults:
            arguments += ["--trading-fault", fault]
        venue = self._add("venue-generated", arguments, restart=False)
        venue.start()
        account = ["--mode", SIMULATED, "--venue", "BINANCE", "--base-url", self._urls(venue)["rest_url"]]
        chosen = ",".join(config.strategy_id for config in self.strategies if config.instrument in market.instruments)
        self._add("guard", ["risk", "guard", *account])
        self._add("live", ["execute", *account, "--symbols", ",".join(market.symbols), "--strategies", chosen, "--policy", str(policy)])
        for name in DESK:
            self.services[name].environment |= ACCOUNT_KEY
            self.services[name].start()
        # The history that the producer fetches also gives signals. A simulated account does not refuse them for their age, so the guard does.
        self._command_guard("block_new", "the history of the generated market is being read")

    def _start_generated_producer(self, market: GeneratedMarket) -> None:
        """Start the producer once the account can trade. Its subscriptions start the generated market."""
        self._wait_until_trading(self.services["live"])
        urls = self._urls(self.services["venue-generated"])
        # The market lasts a minute, so REST is polled often. It runs by the wall clock, so recorded polls have the market's own time.
        environment = {"PERPFLOW_POLL_SCALE": "0.05", "PERPFLOW_HISTORY_HOURS": "1", "PERPFLOW_POLL_RECORDED": "true"}
        producer = self._add(
            "producer-generated",
            [
                "produce", "--venue", "BINANCE", "--symbols", ",".join(market.symbols), "--author", f"{GENERATED_AUTHORS}perpetuals",
                "--ws-url", urls["ws_url"], "--rest-url", urls["rest_url"], "--exit-at-end",
            ],
        )  # fmt: skip
        producer.environment |= environment
        producer.start()
        self.live_since = time.time_ns() // 1_000_000

    def _command_guard(self, command: str, reason: str) -> bool:
        """Send a command to the guard of the generated market's account; return whether the guard has it."""
        return give(self.settings, ACCOUNT, command, reason, by="demo").arrived

    def open_desk(self) -> None:
        """Let the account open positions as soon as an instant of the live market, not of its history, was evaluated."""
        if self.generated is None or self.live_since is None:
            return
        with psycopg.connect(self.settings.database_url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM scores WHERE instrument = ANY(%s) AND event_time > to_timestamp(%s / 1000.0)",
                [self.generated.instruments, self.live_since],
            ).fetchone()
        if row != (0,) and self._command_guard("resume", "the generated market is live"):
            self.live_since = None

    def _wait_until_trading(self, live: Process) -> None:
        """Wait until the live executor has reconciled the account and has a state of the guard."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            self.supervise()
            try:
                health = httpx.get(f"http://127.0.0.1:{live.http_port}/health", timeout=2.0, trust_env=False).json()
                blocked = str(health.get("entries_blocked") or "")
                # The guard blocks entries at this point, because there is no market yet.
                if health.get("phase") == "trading" and (not blocked or blocked.startswith("guard:")):
                    return
            except (httpx.HTTPError, ValueError):
                pass  # not listening yet
            time.sleep(0.2)
        raise PipelineError(f"{live.name} did not become ready to trade; its log {live.log} ends with:\n{live.log_tail()}")

    def _urls(self, venue: Process) -> dict[str, str]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for line in venue.output.read_text("utf-8").splitlines() if venue.output.exists() else []:
                if line.startswith("{"):
                    found: dict[str, str] = json.loads(line)
                    return found
            if not venue.running:
                break
            time.sleep(0.1)
        raise PipelineError(f"{venue.name} did not come up; its log {venue.log} ends with:\n{venue.log_tail()}")

    def supervise(self) -> list[str]:
        """Restart processes that died, as a process manager does; return their names. Raises PipelineError when one keeps dying at its start."""
        again = []
        for process in self.services.values():
            if process.running or process.finished or process.process is None:
                continue
            if not process.restart:
                raise PipelineError(f"{process.name} ended; its log {process.log} ends with:\n{process.log_tail()}")
            process.quick_deaths = process.quick_deaths + 1 if time.monotonic() - process.started < QUICK_DEATH_S else 0
            if process.quick_deaths >= GIVE_UP_AFTER:
                raise PipelineError(f"{process.name} does not stay up; its log {process.log} ends with:\n{process.log_tail()}")
            process.start()
            again.append(process.name)
        return again

    def stop(self) -> None:
        """Stop all processes, sources first, so that the others can finish their work."""
        self._aside.shutdown(cancel_futures=True)
        order = [played.producer for played in self.played] + [played.venue for played in self.played]
        order += [self.services[name] for name in ("producer-generated", "venue-generated") if name in self.services]
        order += [process for process in self.services.values() if process not in order]
        for process in order:
            if process is not None:
                process.send(signal.SIGCONT)
                process.send(signal.SIGTERM)
        for process in order:
            if process is not None:
                process.stop()

    def closed(self) -> bool:
        """Whether the account at the generated market is flat and all its records are published.

        The first call sends the guard the command to close; the last one stops guard and executor."""
        if self.generated is None:
            return True
        if not self.close_requested:
            self.close_requested = self._command_guard("close_all", "the generated market has ended")
            return False
        with psycopg.connect(self.settings.database_url) as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM live_trades WHERE over_at IS NULL) + (SELECT count(*) FROM live_outbox),"
                " EXISTS (SELECT FROM risk_state WHERE account = %s AND close_all)",
                [ACCOUNT],
            ).fetchone()
        if row != (0, True):
            return False
        if not self.desk_stopping:
            self.desk_stopping = True
            for name in DESK:
                self.services[name].send(signal.SIGTERM)
        return all(self.services[name].finished for name in DESK)

    def produced(self) -> bool:
        """Whether every producer has reached the end of its data."""
        producers = [played.producer for played in self.played] + (
            [self.services["producer-generated"]] if self.generated is not None else []
        )
        return bool(producers) and all(producer is not None and producer.finished for producer in producers)

    def stage(self) -> str:
        """Return the step that is not finished: playing, evaluating, executing, closing, checking, writing; or done."""
        self.open_desk()
        for name, done in (
            ("playing", self.produced),
            ("evaluating", self.progress.evaluated),
            ("executing", self.progress.executed),
            ("closing", self.closed),
            ("checking", lambda: not self.monitored or self.progress.checked()),
            ("writing", self.progress.written),
        ):
            if not done():
                return name
        return "done"

    def run_to_the_end(self, timeout: float = 600.0) -> None:
        """Supervise until all steps are done. Raises PipelineError when that takes longer than ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while (stage := self.stage()) != "done":
            if time.monotonic() > deadline:
                raise PipelineError(f"still {stage} after {timeout:.0f} s; the logs are in {self.folder}")
            self.supervise()
            time.sleep(0.5)


def _absolute(path: str | Path) -> str:
    """Return a recording's path as absolute, because services run in another folder; lists and globs part by part."""
    return ",".join(str(Path(part).absolute()) for part in str(path).split(","))
