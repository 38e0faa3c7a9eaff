"""The whole pipeline as separate processes over a running broker and database: simulated venues, producers, workers, executor, sink and monitor.

With a made-up market also a live executor and its guard, at the exchange of that market.

The demo runs it once and undisturbed; the tests run it while they kill, freeze and restart its parts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import OffsetSpec

from deploy.database.migrate import migrate
from deploy.grafana.build import MADE_UP
from deploy.stack.processes import free_port
from deploy.stack.topics import create_topics
from producers.binance.adapter import BinanceUsdm
from producers.simulated.market.recording import Recording, survey
from schemas.catalogue import TOPICS
from schemas.cluster import admin
from schemas.errors import UserError
from schemas.partition import base_asset, instrument_id, partition_of, split_symbol
from schemas.settings import Settings
from sinks.commands.risk import give
from sinks.commands.strategies.revisions import publish
from sinks.venues.account_login import SIMULATED, account_id
from stream_apps.core.signals.strategy import StrategyConfig

# Service starts that fail within this many seconds count towards giving up; a service killed after working is simply started again.
QUICK_DEATH_S = 20.0
GIVE_UP_AFTER = 5
# The longest that the account at the made-up market takes to be ready, seconds; it needs a few on an idle machine.
READY_S = 120.0


class PipelineError(UserError):
    """A part of the pipeline cannot run; the message names its log."""


@dataclass
class Process:
    """One service as a process of its own, its standard error in a log file."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    folder: Path
    restart: bool = True
    process: subprocess.Popen[bytes] | None = None
    http_port: int = 0
    started: float = 0.0
    quick_deaths: int = 0
    starts: int = 0

    @property
    def log(self) -> Path:
        """The file with its standard error."""
        return self.folder / f"{self.name}.log"

    @property
    def output(self) -> Path:
        """The file with its standard output."""
        return self.folder / f"{self.name}.out"

    def start(self) -> None:
        """Start it on a free HTTP port, in a session of its own, so that Ctrl-C reaches the demo alone, which then stops it in order."""
        self.http_port = self.http_port or free_port()
        environment = {**os.environ, **self.environment, "PERPFLOW_HTTP_PORT": str(self.http_port)}
        with self.log.open("ab") as log, self.output.open("wb" if self.starts == 0 else "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.cli", *self.arguments],
                env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.started = time.monotonic()
        self.starts += 1

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def finished(self) -> bool:
        """Whether it left on its own with status 0."""
        return self.process is not None and self.process.poll() == 0

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        if self.process is not None and self.running:
            self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)

    def stop(self, timeout: float = 20.0) -> None:
        """SIGTERM; SIGKILL if it has not left in time."""
        self.send(signal.SIGTERM)
        if self.process is None:
            return
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_words(self, lines: int = 12) -> str:
        """Return the end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])


@dataclass
class Played:
    """A recording in the pipeline: what it is, its venue and its producer."""

    recording: Recording
    author: str
    first: int
    last: int
    streams: list[str]
    venue: Process
    producer: Process | None = None


@dataclass(frozen=True)
class MadeUp:
    """A market that nobody traded, for what no recording holds: open interest, long/short ratios, funding, liquidations, and orders at an exchange.

    Its venue is an exchange too. A live executor with its guard trades an account there by the signals of the market's strategies, until the market
    ends and the guard is told to close everything.

    Attributes:
        symbols: Its contracts, as the simulated venue names them.
        rate: Messages a second of all together. messages: After how many it ends.
        past_trades: Trades before it, one a second: more than the half hour that the strategies' slower window takes.
        seed: Of its walk: one in which takers lean the same way over five minutes and over thirty nearly all the time, so that there are signals.
        faults, trading_faults: Of its venue (see ``perpflow simulate --help``): one order is refused, as orders now and then are.
    """

    symbols: tuple[str, ...] = ("SIM001USDT", "SIM002USDT")
    rate: int = 100
    messages: int = 6_000
    past_trades: int = 2_100
    seed: int = 4
    faults: tuple[str, ...] = ("garbage:stream=aggTrade,at=200,n=3",)
    trading_faults: tuple[str, ...] = ("reject:on=order.place,at=1",)

    @property
    def instruments(self) -> list[str]:
        """Instrument ids."""
        return [instrument_id("BINANCE", symbol, "perp") for symbol in self.symbols]


# The account of the made-up market's exchange. Its key opens nothing else.
ACCOUNT = account_id("BINANCE", SIMULATED)
ACCOUNT_KEY = {"PERPFLOW_API_KEY": "demo", "PERPFLOW_API_SECRET": "of-the-demo-only"}
ACCOUNTS = f"""[[accounts]]
name = "demo"
deposit = "10000"
keys = [{{key = "{ACCOUNT_KEY["PERPFLOW_API_KEY"]}", secret = "{ACCOUNT_KEY["PERPFLOW_API_SECRET"]}"}}]
"""
POLICY = """[entry]
style = "market"
[budget]
max_notional = 100000
max_margin = 10000
"""
# What trades that account; they end when it is closed.
DESK = ("guard", "live")


@dataclass
class Pipeline:
    """Everything between the recordings and the tables.

    Attributes:
        environment: KAFKA_BOOTSTRAP_SERVERS, DATABASE_URL, PERPFLOW_TOPIC_PREFIX ... of all processes.
        folder: Logs.
        recordings: What is played, each by a simulated venue and a producer of its own.
        speed: ``max`` or a factor of the recorded speed.
        strategies: Written to the strategies topic before anything is played.
        workers: Number of worker processes.
        faults: Faults of the venues (see ``perpflow simulate --help``).
        speeds: Symbol -> speed, where it is not ``speed``: recordings of minutes and of days can so end together.
        monitored: A quality monitor runs too.
        made_up: A generated market beside the recordings, at a venue and through a producer of its own; None: none.
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
    made_up: MadeUp | None = None
    services: dict[str, Process] = field(default_factory=dict)
    played: list[Played] = field(default_factory=list)
    opened_from: int | None = None
    told_to_close: bool = False
    desk_leaves: bool = False

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        known = {alias: name for name, info in Settings.model_fields.items() if (alias := info.alias)}
        self.settings = Settings(**{known[name]: value for name, value in self.environment.items() if name in known})  # type: ignore[arg-type]

    # --- starting and stopping ----------------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Create topics and tables, and write the strategies."""
        create_topics(self.settings)
        migrate(self.settings.database_url, settings=self.settings)
        if self.strategies:
            publish(self.settings, list(self.strategies), time.time_ns() // 1_000_000)

    def start(self) -> None:
        """Start the services, then the venues, then the producers."""
        self.start_services()
        if self.made_up is not None:
            self._start_made_up(self.made_up)
        for recording in self.recordings:
            self.add_venue(recording, self.faults)
        for played in self.played:
            self.start_producer(played)
        if self.made_up is not None:
            self._start_made_up_producer(self.made_up)

    def start_services(self) -> None:
        """Start sink, executor, monitor and workers: everything that waits for data."""
        self._add("sink", ["sink", "--instance", "sink-1"]).start()
        self._add("executor", ["execute"]).start()
        if self.monitored:
            self._add("monitor", ["monitor", "--from-beginning"]).start()
        for number in range(1, self.workers + 1):
            self._add(f"worker-{number}", ["worker", "--instance-id", f"worker-{number}"]).start()

    def _add(self, name: str, arguments: list[str], restart: bool = True) -> Process:
        process = self.services[name] = Process(name, arguments, dict(self.environment), self.folder, restart)
        return process

    def add_venue(self, recording: Recording, faults: Sequence[str] = ()) -> Played:
        """Start a simulated venue that will play a recording, with these faults; it waits for its producer (``start_producer``)."""
        facts = survey(recording)
        recorded: set[str] = {stream.partition("@")[0] for stream in facts.counts}
        streams = [channel.topic for channel in BinanceUsdm.channels if channel.name in recorded]
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
        played = Played(recording, f"recorded-{slug}", facts.first, facts.last, streams, venue)
        self.played.append(played)
        return played

    def start_producer(self, played: Played) -> None:
        """Start the producer of a venue, once that is ready. Raises PipelineError when it does not come up."""
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

    def _start_made_up(self, market: MadeUp) -> None:
        """Start a venue that makes a market up, and who trades there."""
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
            "--expect-streams",  # who trades is there before who listens
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
        # Signals come of the past that the producer fetches, too, and an account at a simulated venue takes any as of when it comes.
        self._tell("block_new", "the made-up market's past is being read")

    def _start_made_up_producer(self, market: MadeUp) -> None:
        """Start the made-up market, by its producer's subscriptions, once the account there is ready to be traded."""
        self._wait_until_trading(self.services["live"])
        urls = self._urls(self.services["venue-generated"])
        # What REST tells is asked for often: the market lasts a minute. It goes by the wall clock, so REST tells of the market's own time.
        environment = {"PERPFLOW_POLL_SCALE": "0.05", "PERPFLOW_HISTORY_HOURS": "1", "PERPFLOW_POLL_RECORDED": "true"}
        producer = self._add(
            "producer-generated",
            [
                "produce", "--venue", "BINANCE", "--symbols", ",".join(market.symbols), "--author", f"{MADE_UP}perpetuals",
                "--ws-url", urls["ws_url"], "--rest-url", urls["rest_url"], "--exit-at-end",
            ],
        )  # fmt: skip
        producer.environment |= environment
        producer.start()
        self.opened_from = time.time_ns() // 1_000_000

    def _tell(self, command: str, reason: str) -> bool:
        """Tell the guard of the made-up market's account something; return whether it has heard."""
        return give(self.settings, ACCOUNT, command, reason, by="demo").arrived

    def open_desk(self) -> None:
        """Let the account open positions as soon as an instant of the market itself, not of its past, was evaluated."""
        if self.made_up is None or self.opened_from is None:
            return
        with psycopg.connect(self.settings.database_url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM scores WHERE instrument = ANY(%s) AND event_time > to_timestamp(%s / 1000.0)",
                [self.made_up.instruments, self.opened_from],
            ).fetchone()
        if row != (0,) and self._tell("resume", "the made-up market is live"):
            self.opened_from = None

    def _wait_until_trading(self, live: Process) -> None:
        """Wait until the live executor may open positions: it has compared the account, and the guard has spoken."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            self.supervise()
            try:
                health = httpx.get(f"http://127.0.0.1:{live.http_port}/health", timeout=2.0, trust_env=False).json()
                blocked = str(health.get("entries_blocked") or "")
                # What the guard itself says by then is that there is no market yet.
                if health.get("phase") == "trading" and (not blocked or blocked.startswith("guard:")):
                    return
            except (httpx.HTTPError, ValueError):
                pass  # not listening yet
            time.sleep(0.2)
        raise PipelineError(f"{live.name} does not come to trade; its log {live.log} ends with:\n{live.last_words()}")

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
        raise PipelineError(f"{venue.name} did not come up; its log {venue.log} ends with:\n{venue.last_words()}")

    def supervise(self) -> list[str]:
        """Start again what died, as a process manager does; returns the names of those. Raises PipelineError when one dies at once again and again."""
        again = []
        for process in self.services.values():
            if process.running or process.finished or process.process is None:
                continue
            if not process.restart:
                raise PipelineError(f"{process.name} ended; its log {process.log} ends with:\n{process.last_words()}")
            process.quick_deaths = process.quick_deaths + 1 if time.monotonic() - process.started < QUICK_DEATH_S else 0
            if process.quick_deaths >= GIVE_UP_AFTER:
                raise PipelineError(f"{process.name} does not stay up; its log {process.log} ends with:\n{process.last_words()}")
            process.start()
            again.append(process.name)
        return again

    def stop(self) -> None:
        """Stop everything, the sources first, so that what is under way is finished."""
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
        """Whether everything at the made-up market's exchange is closed and told; tells the guard to close it first, and ends both afterwards."""
        if self.made_up is None:
            return True
        if not self.told_to_close:
            self.told_to_close = self._tell("close_all", "the made-up market has ended")
            return False
        with psycopg.connect(self.settings.database_url) as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM live_trades WHERE over_at IS NULL) + (SELECT count(*) FROM live_outbox),"
                " EXISTS (SELECT FROM risk_state WHERE account = %s AND close_all)",
                [ACCOUNT],
            ).fetchone()
        if row != (0, True):
            return False
        if not self.desk_leaves:
            self.desk_leaves = True
            for name in DESK:
                self.services[name].send(signal.SIGTERM)
        return all(self.services[name].finished for name in DESK)

    # --- how far it is ------------------------------------------------------------------------------------------------
    def ends(self, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        """Return (topic, partition) -> next offset, for partitions that hold something."""
        asked = {}
        for topic in topics:
            for partition in range(TOPICS[topic].partition_count(self.settings.partitions)):
                asked[TopicPartition(self.settings.topic(topic), partition)] = OffsetSpec.latest()
        plain = {self.settings.topic(topic): topic for topic in topics}
        client = admin(self.settings)  # held until the answers are there: they come on its thread
        answers = client.list_offsets(asked)
        return {(plain[place.topic], place.partition): end for place, answer in answers.items() if (end := answer.result(20).offset) > 0}

    def counts(self) -> dict[str, int]:
        """Return topic -> records written."""
        totals = dict.fromkeys(TOPICS, 0)
        for (topic, _), end in self.ends(list(TOPICS)).items():
            totals[topic] += end
        return totals

    def newest_mark(self, played: Played) -> int | None:
        """Return the time of the newest mark of a recording's producer, ms UTC; None before its first."""
        partition = partition_of(base_asset(split_symbol(played.recording.symbol)[0]), self.settings.partitions)
        end = self.ends(["progress"]).get(("progress", partition))
        marks = self._tail("progress", partition, end) if end else []
        return max((record["event_time"] for record in marks if record["author"] == played.author), default=None)

    def produced(self) -> bool:
        """Whether every producer has come to the end of its recording."""
        producers = [played.producer for played in self.played] + (
            [self.services["producer-generated"]] if self.made_up is not None else []
        )
        return bool(producers) and all(producer is not None and producer.finished for producer in producers)

    def evaluated(self) -> bool:
        """Whether the workers have decided every instant that the marks make due."""
        newest: dict[tuple[int, str], int] = {}
        decided: dict[tuple[int, str], int] = {}
        for (_, partition), end in self.ends(["progress"]).items():
            for record in self._tail("progress", partition, end):
                if record["venue"]:
                    due = (record["event_time"] - self.settings.allowed_lateness_ms) // self.settings.grid_ms * self.settings.grid_ms
                    newest[partition, record["author"]] = max(due, newest.get((partition, record["author"]), 0))
        for (_, partition), end in self.ends(["worker_progress"]).items():
            for record in self._tail("worker_progress", partition, end):
                decided[partition, record["author"]] = max(record["event_time"], decided.get((partition, record["author"]), 0))
        return bool(newest) and all(decided.get(place, 0) >= time for place, time in newest.items())

    def _tail(self, topic: str, partition: int, end: int, records: int = 50) -> list[dict[str, Any]]:
        consumer = Consumer(
            {"bootstrap.servers": self.settings.kafka_bootstrap_servers, "group.id": "perpflow-demo", "enable.auto.commit": False}
        )
        found = []
        try:
            consumer.assign([TopicPartition(self.settings.topic(topic), partition, max(end - records, 0))])
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                for message in consumer.consume(records, timeout=0.5):
                    if not message.error():
                        found.append(self.settings.codec.decode(topic, message.value()))
                if consumer.position([TopicPartition(self.settings.topic(topic), partition)])[0].offset >= end:
                    break
        finally:
            consumer.close()
        return found

    def checked(self) -> bool:
        """Whether the monitor, if there is one, has passed every mark and said what it found."""
        if not self.monitored:
            return True
        marks = {TopicPartition(self.settings.topic(topic), partition): end for (topic, partition), end in self.ends(["progress"]).items()}
        asked = ConsumerGroupTopicPartitions(self.settings.group("monitor"), list(marks))
        client = admin(self.settings)  # held, as above
        answer = next(iter(client.list_consumer_group_offsets([asked]).values())).result(20)
        passed = {(one.topic, one.partition): one.offset for one in answer.topic_partitions or []}
        return all(passed.get((place.topic, place.partition), -1) >= end for place, end in marks.items())

    def executed(self) -> bool:
        """Whether the executor has taken every step and published what came of it."""
        steps = {partition: end for (_, partition), end in self.ends(["worker_progress"]).items()}
        with psycopg.connect(self.settings.database_url) as connection:
            taken: dict[int, int] = dict(connection.execute("SELECT partition, progress_offset FROM executor_state").fetchall())
            row = connection.execute("SELECT count(*) FROM executor_outbox").fetchone()
        return all(taken.get(partition, 0) >= end for partition, end in steps.items()) and row is not None and row[0] == 0

    def written(self) -> bool:
        """Whether every record of every topic is in the database."""
        with psycopg.connect(self.settings.database_url) as connection:
            rows = connection.execute("SELECT topic, partition, next_offset FROM sink_offsets").fetchall()
        there = {(topic.removeprefix(self.settings.topic_prefix), partition): offset for topic, partition, offset in rows}
        return all(there.get(place, 0) >= end for place, end in self.ends(list(TOPICS)).items())

    def stage(self) -> str:
        """Return what is still under way: playing, evaluating, executing, closing, checking, writing or done."""
        self.open_desk()
        for name, done in (
            ("playing", self.produced),
            ("evaluating", self.evaluated),
            ("executing", self.executed),
            ("closing", self.closed),
            ("checking", self.checked),
            ("writing", self.written),
        ):
            if not done():
                return name
        return "done"

    def run_to_the_end(self, timeout: float = 600.0) -> None:
        """Supervise until everything is done. Raises PipelineError when that takes longer than ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while (stage := self.stage()) != "done":
            if time.monotonic() > deadline:
                raise PipelineError(f"still {stage} after {timeout:.0f} s; the logs are in {self.folder}")
            self.supervise()
            time.sleep(0.5)


def _absolute(path: str | Path) -> str:
    """Return a recording's path so that it holds in the services' folder too; lists and globs part by part."""
    return ",".join(str(Path(part).absolute()) for part in str(path).split(","))
