"""Files as the source of a replay: public dump files of venues and recordings of the simulator, merged by venue time.

The records equal those of an import of the files, or of a producer at the recording's simulated venue. The progress log is
synthesised (``stream_apps.replay.sources.source``). Every file is read twice: once to find contracts and gaps, once to replay it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from producers.binance import mapping
from producers.importer.files import ImportFailed, lines, source_of
from producers.importer.importer import Importer, Plan
from producers.importer.layouts import LAYOUTS
from producers.importer.merge import UNKNOWN_DECIMALS, contract_facts, merged
from producers.importer.report import FileReport
from producers.importer.rows import Decimals, Event
from producers.simulated.recording import events as recorded
from producers.simulated.recording.formats import recording_files
from producers.simulated.recording.recording import Recording
from producers.venue.adapter.base import Adapter, MappingError
from producers.venue.state.order_book import OrderBook, Outcome, Top
from producers.venues import adapter_of
from schemas.codec.avro import Record
from schemas.codec.recordset import RecordSet
from schemas.partition import base_of_instrument, instrument_id
from schemas.process.dead_letters import dead_letter
from schemas.settings import Settings
from stream_apps.core.log.engine import PartitionEngine
from stream_apps.replay.sources.source import AUTHOR, PIECE, Entry, Piece, SynthesisedLog

Progress = Callable[[str, int, int], None]
"""Called with the phase (``reading`` or ``replaying``), the number of events done, and the total (0: unknown)."""

_CAPTURE = re.compile(r"^\d{13,19} \{|^TimestampOfReceive")
_PROGRESS_EVERY = 20_000


def _no_progress(phase: str, done: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class FileArgument:
    """One ``file:PATH[=SYMBOL][@VENUE]``.

    Attributes:
        path: File, folder, glob or comma-separated list. symbol: None: taken from the file names. venue: As in ``producers.venues``.
    """

    path: str
    symbol: str | None
    venue: str

    @classmethod
    def parse(cls, text: str, symbol: str | None, venue: str) -> FileArgument:
        """Parse the text after ``file:``. ``symbol`` and ``venue`` are the defaults."""
        rest, sep, named = text.rpartition("@")
        if sep and "/" not in named and "." not in named:
            text, venue = rest, named
        rest, sep, given = text.rpartition("=")
        if sep and "/" not in given and "." not in given:
            text, symbol = rest, given
        return cls(text, symbol, venue)


@dataclass
class Flow:
    """One stream of events of one instrument.

    Attributes:
        events: Returns a new iterator of the events. decimals, first, last: Found by the first reading. priced: Whether rows have prices and quantities.
    """

    adapter: Adapter
    symbol: str
    instrument: str
    partition: int
    events: Callable[[], Iterator[Event]]
    decimals: Decimals = field(default_factory=Decimals)
    first: int | None = None
    last: int | None = None
    priced: bool = True


class Files:
    """Dump files and recordings as a ``Source``.

    Args:
        arguments: Files to read.
        settings: Grid, lateness, partitions and codec. No broker is used.
        since, until: Period to replay, ms UTC, both inclusive. None: unlimited.
        contract_values: Symbol -> contract size in base units, if files count contracts.
        progress: Called with the progress.
        piece: Number of records per piece.

    Attributes:
        flows: Streams of events found in the files.
        reports: Validation reports of the dump files.
        counts: Topic -> number of events.

    Raises:
        ImportFailed, FormatError, FileNotFoundError: a file is missing or unreadable.
        ValueError: no such venue.
    """

    def __init__(
        self,
        arguments: Sequence[FileArgument],
        settings: Settings,
        *,
        since: int | None = None,
        until: int | None = None,
        contract_values: dict[str, str] | None = None,
        progress: Progress = _no_progress,
        piece: int = PIECE,
    ) -> None:
        self.settings = settings
        self._piece = piece
        self.flows: list[Flow] = []
        self.reports: list[FileReport] = []
        self.counts: Counter[str] = Counter()
        self._since = -(2**62) if since is None else since
        self._until = 2**62 if until is None else until
        self._progress = progress
        self._only: int | None = None
        dumps: dict[str, list[tuple[str, str | None]]] = {}
        for argument in arguments:
            for path in recording_files(argument.path):
                if _is_capture(path):
                    self._record(Recording(path, _symbol(argument, path), "perp"), argument.venue)
                else:
                    dumps.setdefault(argument.venue, []).append((str(path), argument.symbol))
        for venue, files in dumps.items():
            self._import(adapter_of(venue), files, contract_values or {})

    def narrow(self, partition: int) -> None:
        """Replay one partition only."""
        self._only = partition

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, without the progress callback."""
        return {**vars(self), "_progress": _no_progress}

    @property
    def partitions(self) -> tuple[int, ...]:
        """Partitions of the instruments."""
        return tuple(sorted({flow.partition for flow in self._replayed()}))

    @property
    def instruments(self) -> tuple[str, ...]:
        """Instruments of the files."""
        return tuple(sorted({flow.instrument for flow in self.flows}))

    @property
    def total(self) -> int:
        """Number of events in the files, including those outside the period."""
        return sum(self.counts.values())

    @property
    def span(self) -> tuple[int, int]:
        """First and last time of the files, ms UTC."""
        firsts = [flow.first for flow in self.flows if flow.first is not None]
        lasts = [flow.last for flow in self.flows if flow.last is not None]
        return min(firsts), max(lasts)

    # --- first reading -------------------------------------------------------------------------------------------------------

    def _import(self, adapter: Adapter, files: list[tuple[str, str | None]], contract_values: dict[str, str]) -> None:
        hyphened = adapter.venue in LAYOUTS and adapter.venue == "OKX"
        sources = [source_of(path if symbol is None else f"{path}={symbol}", None, hyphened) for path, symbol in files]
        importer = Importer(Plan(adapter, sources, author=AUTHOR, contract_values=contract_values), self.settings, self._progress)
        report = importer.read()
        self.reports += report.files
        self.counts.update(report.records)
        for stream in importer.streams:
            events = partial(stream.events, report=False)
            flow = Flow(adapter, stream.symbol, stream.instrument, stream.partition, events, stream.decimals)
            times = [time for file in stream.files for time in (file.report.first, file.report.last) if time is not None]
            flow.first, flow.last = min(times), max(times)
            flow.priced = any(file.layout.kind == "trades" for file in stream.files)
            self.flows.append(flow)

    def _record(self, recording: Recording, venue: str) -> None:
        adapter = adapter_of(venue)
        if adapter.venue != "BINANCE":
            raise ImportFailed(f"replay: {recording.path}: recordings are from Binance, not from {adapter.venue}")
        name = instrument_id(adapter.venue, recording.symbol, adapter.kind)
        partition = self.settings.partition_of(base_of_instrument(name))
        flow = Flow(adapter, recording.symbol, name, partition, partial(_recorded, recording, name))
        for event in _recorded(recording, name, flow.decimals):
            self.counts[event.topic] += 1
            flow.first = event.time if flow.first is None else min(flow.first, event.time)
            flow.last = event.time if flow.last is None else max(flow.last, event.time)
        if flow.first is None:
            raise ImportFailed(f"replay: {recording.path}: the recording has no messages of {recording.symbol}")
        self.flows.append(flow)

    def _replayed(self) -> list[Flow]:
        return [flow for flow in self.flows if self._only in (None, flow.partition)]

    # --- replaying -----------------------------------------------------------------------------------------------------

    def pieces(self, engine_of: Callable[[int], PartitionEngine]) -> Iterator[Piece]:
        """Yield the synthesised log."""
        venue = "+".join(sorted({flow.adapter.venue for flow in self.flows}))
        log = SynthesisedLog(self.settings.codec, venue, self.partitions, self._piece)
        yield from log.step(None, self._contracts())
        done = reported = 0
        flows = self._replayed()
        # Every partition gets marks from the first to the last time of all files.
        ends = iter([Event(time, "", {}) for time in self.span])
        for step in merged([*(flow.events() for flow in flows), ends], self.settings.grid_ms, self.settings.allowed_lateness_ms):
            entries, letters = [], []
            for place, event in step.items:
                if not event.topic:
                    continue
                done += 1
                if not self._since <= event.time <= self._until:
                    continue
                flow = flows[place]
                if event.topic == "dead_letters":
                    letters.append(self._letter(flow, event))
                else:
                    entries.append(Entry(flow.partition, event.topic, {**event.record, "instrument": flow.instrument}))
            if letters:
                yield Piece(-1, "dead_letters", RecordSet.from_messages(letters))
            grid, lateness = self.settings.grid_ms, self.settings.allowed_lateness_ms
            within = step.time is not None and self._since <= step.time and step.time <= self._until + grid + lateness
            yield from log.step(step.time if within else None, entries)
            if done - reported >= _PROGRESS_EVERY:
                reported = done
                self._progress("replaying", done, self.total)
        yield from log.flush()
        self._progress("replaying", done, self.total)

    def _contracts(self) -> Iterator[Entry]:
        by_name: dict[str, list[Flow]] = {}
        for flow in self._replayed():
            by_name.setdefault(flow.instrument, []).append(flow)
        for name, flows in sorted(by_name.items()):
            price = max(flow.decimals.price for flow in flows)
            quantity = max(flow.decimals.quantity for flow in flows) if any(flow.priced for flow in flows) else UNKNOWN_DECIMALS
            first = min(flow.first for flow in flows if flow.first is not None)
            record = contract_facts(flows[0].adapter, AUTHOR, flows[0].symbol, name, price, quantity, first)
            yield Entry(flows[0].partition, "instruments", {**record, "instrument": name})

    def _letter(self, flow: Flow, event: Event) -> tuple[int, int, bytes | None, bytes | None]:
        row = event.record
        record = dead_letter(
            "replay", row["where"], row["reason"], event_time=event.time or None, instrument=flow.instrument, field=row["field"],
            value=row["text"].encode(),
        )  # fmt: skip
        return 0, event.time, flow.instrument.encode(), self.settings.codec.encode("dead_letters", record)


def _is_capture(path: Path) -> bool:
    """Return whether a file is a recording: raw websocket lines or a depth-and-trade capture. Its first line decides."""
    return any(_CAPTURE.match(text) for _, text in _first(path))


def _first(path: Path) -> Iterator[tuple[int, str]]:
    for number, text in lines(path):
        if not text.startswith("#"):
            yield number, text
            return


def _symbol(argument: FileArgument, path: Path) -> str:
    return argument.symbol or source_of(str(path), None, hyphened=False).symbol


# --- recordings --------------------------------------------------------------------------------------------------------


def _recorded(recording: Recording, instrument: str, decimals: Decimals | None = None) -> Iterator[Event]:
    """Yield a recording's messages as events, using the live producer's mapping and book. Times are the venue's event times."""
    book = OrderBook()
    broken: Record | None = None
    for event in recording.events():
        body = event.body
        try:
            if event.kind == recorded.AGG:
                yield _event("agg_trades", mapping.agg_trade(body, instrument, event.clock))
                _see(decimals, body["p"], body["q"])
            elif event.kind == recorded.TICKER:
                yield _event("quotes", mapping.quote(body, instrument, event.clock))
                _see(decimals, body["b"])
                _see(decimals, body["a"])
            elif event.kind == recorded.MARK:
                yield _event("funding", mapping.mark_price(body, instrument, event.clock, None))
            elif event.kind == recorded.LIQUIDATION:
                yield _event("liquidations", mapping.liquidation(body, instrument, recording.symbol, event.clock))
            elif event.kind == recorded.SNAPSHOT:
                if not book.live:
                    tops, _ = book.load(mapping.depth_snapshot(body))
                    for top in tops:
                        yield _top(book, top)
                    if broken is not None and book.live:
                        yield _event("gaps", {**broken, "event_time": event.clock, "to_time": event.clock, "repaired": True})
                        broken = None
            elif event.kind == recorded.DEPTH:
                before = book.last_time
                outcome = book.diff(mapping.depth_diff(body))
                if outcome is Outcome.APPLIED:
                    yield _top(book, book.top())
                elif outcome is Outcome.GAP:
                    at = body["T"]
                    yield _event("depth", {
                        "event_time": at, "epoch": book.epoch, "state": "invalid", "last_update_id": book.last_update_id,
                        "bid_prices": [], "bid_quantities": [], "ask_prices": [], "ask_quantities": [],
                    })  # fmt: skip
                    first, last = book.gap or (None, None)
                    broken = {
                        "event_time": at, "stream": "depth", "kind": "sequence_gap", "certain": True, "from_id": first, "to_id": last,
                        "from_time": before, "to_time": at, "repaired": False, "detail": "book invalid until the recording's next snapshot",
                    }  # fmt: skip
                    yield _event("gaps", broken)
        except MappingError as error:
            text = event.data.decode("utf-8", "replace")
            letter = {"where": f"{Path(recording.path).name} {event.stream}", "field": error.field, "reason": str(error), "text": text}
            yield Event(event.clock, "dead_letters", letter)


def _event(topic: str, record: dict[str, Any]) -> Event:
    return Event(record["event_time"], topic, {name: value for name, value in record.items() if name not in ("instrument", "receive_time")})


def _top(book: OrderBook, top: Top) -> Event:
    return _event("depth", {
        "event_time": top.time, "epoch": book.epoch, "state": "live", "last_update_id": top.last_update_id, "bid_prices": top.bid_prices,
        "bid_quantities": top.bid_quantities, "ask_prices": top.ask_prices, "ask_quantities": top.ask_quantities,
    })  # fmt: skip


def _see(decimals: Decimals | None, price: str, quantity: str | None = None) -> None:
    if decimals is not None:
        decimals.see((price,), quantity)
