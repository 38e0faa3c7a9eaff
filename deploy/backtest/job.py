"""The job of a replay: its options, its opened source and its strategies."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from deploy.backtest.files import FileArgument, Files, Progress
from producers.importer.files import ImportFailed
from producers.simulated.recording.events import FormatError
from producers.venues import adapter_of
from schemas.archive.manifest import ArchiveError
from schemas.errors import UserError
from schemas.partition import base_of_instrument, instrument_id
from schemas.settings import Settings
from stream_apps.core.log.engine_settings import SettingsRevision
from stream_apps.core.paper.position import PaperSettings
from stream_apps.core.signals.scoring.registry import MODELS
from stream_apps.core.signals.strategy import StrategyConfig, StrategyError
from stream_apps.core.signals.strategy_rules import check_together, strategy_from_record, validate
from stream_apps.engines import EngineSpec, engine_of
from stream_apps.replay.run import EngineReplay, Result, drive
from stream_apps.replay.sources.archive import Archive
from stream_apps.replay.sources.database import Database, DatabaseError
from stream_apps.replay.sources.source import PIECE, Piece, Source, Topics
from stream_apps.replay.sources.stored import Stored
from stream_apps.replay.sources.topics import TopicsError, TopicSource
from stream_apps.strategy_files import default_files, load_strategy_files, recorded_files

TOPICS = "topics"
FILE = "file:"
ARCHIVE = "archive:"
DATABASE = "db:"
UNREADABLE = (ArchiveError, DatabaseError, TopicsError)
EXPECTED = "topics, archive:DIR, db: or file:PATH"
# The longest window is 24 h. ATR is ranked against 288 bars of 5 minutes after the first 14.
WARM_UP_MS = 26 * 3_600_000


@dataclass(frozen=True)
class Job:
    """Options of a replay. Plain values, so that it can be sent to other processes.

    Attributes:
        sources: ``topics``, ``archive:DIR``, ``db:[URL]`` or ``file:PATH[=SYMBOL][@VENUE]``.
        symbols: Venue symbols or instrument ids. For files: the symbol of files that do not name one.
        venue: Venue of sources and symbols that do not name one.
        strategies: Files, ids of shipped strategies, or scoring models. Empty: the strategies of the topics.
        assigned: Field -> value for all strategies.
        varied: Field -> values. Every strategy runs with each combination, which becomes part of its name.
        rebind: Run strategies of other instruments on those of the source.
        since, until: The period, ms UTC. None: unlimited.
        marks: The period as first and last offset in the progress log of the symbols' partition. Topics only.
        warm_up_ms: Length of the warm-up before ``since``.
        contract_values: Symbol -> contract size in base units.
        engine: Name of the engine.
        revisions: Settings of the engine instead of those of the log, oldest first. None: settings of the log; for files the defaults.
    """

    sources: tuple[str, ...]
    symbols: tuple[str, ...] = ()
    venue: str = "BINANCE"
    strategies: tuple[str, ...] = ()
    assigned: dict[str, Any] = field(default_factory=dict)
    varied: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    rebind: bool = False
    since: int | None = None
    until: int | None = None
    marks: tuple[int, int] | None = None
    warm_up_ms: int = WARM_UP_MS
    contract_values: dict[str, str] = field(default_factory=dict)
    engine: str = "signals"
    revisions: tuple[SettingsRevision, ...] | None = None
    paper: PaperSettings = field(default_factory=PaperSettings)

    def __post_init__(self) -> None:
        """Raise UserError, naming the option, for an invalid combination."""
        topics = [source for source in self.sources if is_log(source)]
        unknown = [source for source in self.sources if not is_log(source) and not (source.startswith(FILE) and len(source) > len(FILE))]
        if unknown or not self.sources:
            raise UserError(f"--source: expected {EXPECTED}, got {unknown[0]!r}" if unknown else f"--source: name {EXPECTED}")
        if topics and len(self.sources) > 1:
            raise UserError("--source: topics, archives and databases cannot be combined with other sources")
        if self.since is not None and self.until is not None and self.until <= self.since:
            raise UserError("--to: must be after --from")
        if self.marks is not None and (self.sources != (TOPICS,) or self.since is not None or self.until is not None or not self.symbols):
            raise UserError("--marks: needs --source topics and --symbol, without --from and --to")
        if self.marks is not None and not 0 <= self.marks[0] < self.marks[1]:
            raise UserError(f"--marks: expected FIRST:LAST with FIRST below LAST, got {self.marks[0]}:{self.marks[1]}")
        self.spec  # noqa: B018 - raises when there is no such engine
        if not topics and not self.strategies and self.spec.paper:
            raise UserError(
                "--strategy: missing; files contain no strategies, so name a strategy file, a shipped strategy or a scoring model"
            )
        if topics and self.strategies and not self.symbols:
            raise UserError("--symbol: missing; name the instruments on which the strategies run")

    @property
    def spec(self) -> EngineSpec:
        """The registered engine. Raises UserError for an unknown name."""
        try:
            return engine_of(self.engine)
        except ValueError as error:
            raise UserError(f"--engine: {error}") from error


def is_log(source: str) -> bool:
    """Return whether a source is the topics or a copy of them. Such a source has strategies and many instruments."""
    return source == TOPICS or source.startswith(DATABASE) or (source.startswith(ARCHIVE) and len(source) > len(ARCHIVE))


def stored(source: str, settings: Settings) -> Stored:
    """Open an ``archive:DIR`` or a ``db:[URL]``. Without a URL it is the database of the environment. Raises UserError if missing."""
    if source.startswith(ARCHIVE):
        return Archive.of(Path(source.removeprefix(ARCHIVE)), settings)
    url = source.removeprefix(DATABASE) or settings.database_url
    if not url:
        raise UserError("--source: db: set DATABASE_URL or add a URL after db:")
    return Database.of(url, settings)


@dataclass
class Opened:
    """The opened source of a job. It can run any number of times.

    Attributes:
        instruments: Instruments to report. None: all of the topics.
        strategies: Strategies to run. None: those of the log.
        files: The files, if the source is files. total: Number of records or events, for a progress bar.
    """

    job: Job
    settings: Settings
    source: Source
    partitions: tuple[int, ...]
    instruments: tuple[str, ...] | None
    strategies: list[StrategyConfig] | None
    files: Files | None
    total: int

    @property
    def config(self) -> Any:
        """The engine's settings, from the environment."""
        return self.job.spec.config(self.settings)

    def part(self, partition: int, strategies: tuple[str, ...] | None) -> Opened:
        """Return one partition, with the strategies of these ids. None: all strategies."""
        source = self.source
        if isinstance(source, Files):
            source = copy(source)
            source.narrow(partition)
        else:
            assert isinstance(source, Topics | Stored)
            source = replace(source, partitions=(partition,))
        chosen = self.strategies
        if chosen is not None and strategies is not None:
            chosen = [one for one in chosen if one.strategy_id in strategies]
        return replace(self, source=source, partitions=(partition,), strategies=chosen)

    def run(
        self, take: Callable[[int, Result], None], on_piece: Callable[[Piece], None] = lambda piece: None, source: Source | None = None
    ) -> dict[int, EngineReplay]:
        """Run the source, or ``source`` instead. Raises UserError if it becomes unreadable."""
        by_partition: dict[int, list[StrategyConfig]] | None = None
        if self.strategies is not None:
            by_partition = {}
            for config in self.strategies:
                place = self.settings.partition_of(base_of_instrument(config.instrument))
                by_partition.setdefault(place, []).append(config)
        chosen, codec = source or self.source, self.settings.codec
        try:
            return drive(
                chosen, self.config, codec, take,
                engine=self.job.spec, paper=self.job.paper, strategies=by_partition, revisions=self.job.revisions, on_piece=on_piece,
            )  # fmt: skip
        except UNREADABLE as error:
            raise UserError(f"--source: {error}") from error


def open_job(job: Job, settings: Settings, progress: Progress = lambda phase, done, total: None, piece: int = PIECE) -> Opened:
    """Open a job's source and strategies.

    Args:
        job: Options of the replay.
        settings: Settings of the environment. Only topics need a broker.
        progress: Called with the progress.
        piece: Number of records per piece. Results do not depend on it.

    Raises:
        UserError: an invalid source or strategy. The message names it and the reason.
    """
    if job.marks is not None:
        job = _timed(job, settings)
    start = None if job.since is None else job.since - job.warm_up_ms
    if is_log(job.sources[0]):
        names = tuple(_instrument(symbol, job.venue) for symbol in job.symbols)
        places = {settings.partition_of(base_of_instrument(name)) for name in names}
        partitions = tuple(sorted(places)) if names else tuple(range(settings.partitions))
        inputs = job.spec.kind().inputs()
        log: Topics | Stored = Topics(partial(TopicSource, settings), partitions, start, job.until, not job.strategies, inputs)
        if job.sources != (TOPICS,):
            wanted = partitions if names else None
            log = replace(
                stored(job.sources[0], settings),
                partitions=wanted,
                since=start,
                until=job.until,
                strategies=not job.strategies,
                reads=inputs,
            )
        strategies = _strategies(job, settings, names) if job.strategies else None
        try:
            total = log.total()
        except UNREADABLE as error:
            raise UserError(f"--source: {error}") from error
        return Opened(job, settings, log, partitions, names or None, strategies, None, total)
    symbol = job.symbols[0] if len(job.symbols) == 1 else None
    try:
        arguments = [FileArgument.parse(source.removeprefix(FILE), symbol, job.venue) for source in job.sources]
        files = Files(
            arguments, settings, since=start, until=job.until, contract_values=job.contract_values, progress=progress, piece=piece
        )
    except (ImportFailed, FormatError, FileNotFoundError, ValueError) as error:
        raise UserError(f"replay: {error}") from error
    strategies = _strategies(job, settings, files.instruments) if job.spec.paper else None
    return Opened(job, settings, files, files.partitions, files.instruments, strategies, files, files.total)


def _timed(job: Job, settings: Settings) -> Job:
    """Return a job with the period of its marks."""
    assert job.marks is not None
    places = {settings.partition_of(base_of_instrument(_instrument(symbol, job.venue))) for symbol in job.symbols}
    if len(places) > 1:
        raise UserError("--marks: the symbols are in several partitions, and each partition has its own progress log")
    try:
        with TopicSource(settings, ("progress",)) as source:
            times = [_time_at(source, places.copy().pop(), offset) for offset in job.marks]
    except TopicsError as error:
        raise UserError(f"--source: {error}") from error
    return replace(job, marks=None, since=times[0], until=times[1])


def _time_at(source: TopicSource, partition: int, offset: int) -> int:
    """Return the time of the first mark at or after an offset."""
    first, following = source.ends(partition).get("progress", (0, 0))
    if not first <= offset < following:
        raise UserError(f"--marks: the progress log of partition {partition} has offsets {first} to {following - 1}, not {offset}")
    for _, records in source.records(partition, starts={"progress": offset}):
        if len(records):
            return int(records.timestamps[0])
    raise UserError(f"--marks: the progress log of partition {partition} has no marks from offset {offset} on")


def _instrument(symbol: str, venue: str) -> str:
    if ":" in symbol:
        return symbol
    try:
        adapter = adapter_of(venue)
        return instrument_id(adapter.venue, symbol, adapter.kind)
    except ValueError as error:
        raise UserError(f"--symbol: {error}") from error


# --- strategies --------------------------------------------------------------------------------------------------------


def _strategies(job: Job, settings: Settings, instruments: tuple[str, ...]) -> list[StrategyConfig]:
    """Return the strategies of a job, bound to the source's instruments and effective from its ``since``."""
    found: dict[str, StrategyConfig] = {}
    try:
        for name in job.strategies:
            for config in _named(name, instruments):
                for bound in _bound(config, instruments, job.rebind):
                    for values in _combined(job.varied):
                        record = {**bound.to_record(), **job.assigned, **values, "strategy_id": _named_by(bound.strategy_id, values)}
                        made = replace(strategy_from_record(record), effective_time=job.since or 0)
                        validate(made)
                        check_together(made, settings.groups)
                        if made.strategy_id in found:
                            raise UserError(f"--strategy: {made.strategy_id!r} is given twice")
                        found[made.strategy_id] = made
    except StrategyError as error:
        raise UserError(f"--strategy: {error}") from error
    except OSError as error:
        raise UserError(f"--strategy: {error}") from error
    return list(found.values())


def _combined(varied: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]


def _named_by(strategy_id: str, values: dict[str, Any]) -> str:
    return f"{strategy_id}[{','.join(f'{name}={value}' for name, value in values.items())}]" if values else strategy_id


def _named(name: str, instruments: tuple[str, ...]) -> list[StrategyConfig]:
    path = Path(name)
    if path.is_file():
        return load_strategy_files([path])
    shipped = load_strategy_files([*default_files(), *recorded_files()])
    chosen = [
        config
        for config, file in zip(shipped, [*default_files(), *recorded_files()], strict=True)
        if name in (config.strategy_id, file.stem)
    ]
    if chosen:
        return chosen
    if name in MODELS:
        several = len(instruments) > 1
        return [
            strategy_from_record(
                {"strategy_id": f"{name}@{one}" if several else name, "instrument": one, "display_name": name, "model": name}
            )
            for one in instruments
        ]
    known = ", ".join([*(config.strategy_id for config in shipped), *MODELS])
    raise UserError(f"--strategy: {name!r} is not a file, a shipped strategy or a scoring model (known: {known})")


def _bound(config: StrategyConfig, instruments: tuple[str, ...], rebind: bool) -> list[StrategyConfig]:
    if set(config.all_instruments) <= set(instruments):
        return [config]
    if not rebind:
        wanted, there = ", ".join(config.all_instruments), ", ".join(instruments)
        raise UserError(f"--strategy: {config.strategy_id} is for {wanted}, the source has {there}; use --rebind to run it there")
    several = len(instruments) > 1
    return [
        replace(config, instrument=one, instruments=(), strategy_id=f"{config.strategy_id}@{one}" if several else config.strategy_id)
        for one in instruments
    ]
