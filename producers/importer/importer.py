"""The import: reads the files once for the report, and once more to write them in the order of venue time.

Streams of several symbols and kinds are merged into steps of the evaluation grid, one mark each (DESIGN 3: importers of history). The mark
of instant T is at T + allowed lateness, where T fires. The same files make the same log.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from producers.importer.files import ImportFailed, Source
from producers.importer.layouts import LAYOUTS
from producers.importer.merge import UNKNOWN_DECIMALS, contract_facts, merged
from producers.importer.report import Report, utc
from producers.importer.resume import Past, check_retention, read_past
from producers.importer.rows import DumpFile, Event, Stream, look, ordered
from producers.output.kafka_writer import KafkaWriter, Outgoing
from producers.output.sequencer import Step
from producers.venue.adapter.base import Adapter
from schemas.codec.avro import Codec, Record
from schemas.partition import base_of_instrument, instrument_id
from schemas.process.dead_letters import dead_letter
from schemas.settings import Settings

SERVICE = "import"
# Events between two progress reports.
REPORT_EVERY = 20_000
# Longest wait for Kafka at the end.
FLUSH_S = 120.0
PUMP_S = 0.002

Tell = Callable[[str, int, int], None]
"""Called with the phase (``reading`` or ``writing``), events done, and their number if known (0: not)."""


@dataclass
class Plan:
    """The request for an import.

    Attributes:
        adapter: The venue; its name and kind make the instrument ids.
        sources: Files with their symbols.
        kinds: Expected kinds of files; empty: any. author: Of the marks; default: ``import-`` and the venue's author.
        contract_values: Symbol -> base units of a contract, for files that count contracts (OKX).
    """

    adapter: Adapter
    sources: Sequence[Source]
    kinds: Sequence[str] = ()
    author: str = ""
    contract_values: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.author = self.author or f"import-{self.adapter.author}"
        if not self.sources:
            raise ImportFailed("import: no files")
        if self.adapter.venue not in LAYOUTS:
            raise ImportFailed(f"import: venue: no dump files of {self.adapter.venue} are known (known: {', '.join(LAYOUTS)})")


class Importer:
    """One import.

    Args:
        plan: The request. settings: Kafka's address and names. tell: Receives progress reports.

    Attributes:
        streams: A stream for each symbol and kind, once the files are read.
    """

    def __init__(self, plan: Plan, settings: Settings, tell: Tell = lambda phase, done, total: None) -> None:
        self.plan = plan
        self.settings = settings
        self.report = Report(plan.adapter.venue, plan.author)
        self._report_progress = tell
        self._events = 0
        self.streams: list[Stream] = []

    # --- looking and reading -----------------------------------------------------------------------------------------

    def read(self) -> Report:
        """Check all files and read them once. Nothing is written.

        Raises:
            ImportFailed: a file is unknown, broken, of another kind than expected, or does not match its checksum.
        """
        adapter = self.plan.adapter
        by_stream: dict[tuple[str, str], list[DumpFile]] = defaultdict(list)
        for source in self.plan.sources:
            file = look(source, adapter.venue)
            if self.plan.kinds and file.layout.kind not in self.plan.kinds:
                raise ImportFailed(
                    f"import: {source.path.name}: is a file of {file.layout.kind} ({file.layout.name}), but --kind says {', '.join(self.plan.kinds)}"
                )
            by_stream[source.symbol, file.layout.kind].append(file)
        for (symbol, _), files in sorted(by_stream.items()):
            stream = self._stream(symbol, ordered(files))
            self.streams.append(stream)
            self.report.files += [file.report for file in stream.files]
        counts: Counter[str] = Counter()
        for stream in self.streams:
            for event in stream.events(report=True):
                counts[event.topic] += 1
                self._events += 1
                if self._events % REPORT_EVERY == 0:
                    self._report_progress("reading", self._events, 0)
            self.report.fills += stream.fills
            if all(file.report.first is None for file in stream.files):
                raise ImportFailed(f"import: {stream.symbol}: no row of {_names(stream)} can be read: {_first_bad(stream)}")
        self.report.records = {topic: count for topic, count in sorted(counts.items()) if topic != "dead_letters"}
        self._report_progress("reading", self._events, self._events)
        return self.report

    def _stream(self, symbol: str, files: list[DumpFile]) -> Stream:
        adapter = self.plan.adapter
        instrument = instrument_id(adapter.venue, symbol, adapter.kind)
        try:
            asset = base_of_instrument(instrument)
        except ValueError as error:
            raise ImportFailed(f"import: {files[0].source.path.name}: {error}; give FILE=SYMBOL") from error
        value = None
        if any(file.layout.contracts for file in files):
            text = self.plan.contract_values.get(symbol, "1" if adapter.kind == "spot" else "")
            try:
                value = Decimal(text)
            except InvalidOperation:
                value = Decimal(0)
            if not value.is_finite() or value <= 0:
                raise ImportFailed(f"import: {symbol}: the files count contracts: give --contract-value {symbol}=0.01 (base units of one)")
        return Stream(symbol, instrument, self.settings.partition_of(asset), files, value)

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self) -> Report:
        """Write the records of the files, or the rest of them after an interrupted import.

        Raises:
            ImportFailed: the log is another author's, or has later history than the files.
            LogError: no broker, or topics missing.
            DeliveryFailed: Kafka refused a record.
        """
        started = time.monotonic()
        instruments = {stream.instrument: stream.partition for stream in self.streams}
        topics = [
            "instruments",
            "gaps",
            *sorted({topic for stream in self.streams for file in stream.files for topic in file.layout.topics}),
        ]
        first = min(file.report.first for stream in self.streams for file in stream.files if file.report.first is not None)
        past = read_past(self.settings, self.plan.author, instruments, topics)
        check_retention(self.settings, [topic for topic in topics if topic != "instruments"] + ["progress"], first, int(time.time() * 1000))
        self._follow(past)
        writer, done = asyncio.run(self._write(past))
        if not done:
            raise ImportFailed(
                f"import: Kafka did not take everything within {FLUSH_S:.0f} s: run the same import again, it continues from there"
            )
        self.report.written, self.report.already = dict(sorted(writer.written.items())), dict(sorted(writer.already.items()))
        self.report.seconds = round(time.monotonic() - started, 3)
        self._report_progress("writing", self._events, self._events)
        return self.report

    async def _write(self, past: Past) -> tuple[_Writer, bool]:
        """Write all steps. Return the counts, and whether Kafka acknowledged everything."""
        out = KafkaWriter(self.settings, self.plan.author, self.plan.adapter.venue, past.tail.cuts, past.tail.marks)
        await out.start()
        writer = _Writer(self, past, out)
        try:
            writer.preamble()
            for step in self._steps():
                await writer.step(step)
            writer.finish()
        finally:
            done = await out.close(FLUSH_S if writer.ended else 1.0)
        return writer, done

    def _follow(self, past: Past) -> None:
        """Set the streams' start from the log. Refuse files that are older than the log's records."""
        for stream in self.streams:
            known = past.tail.instruments.get(stream.instrument)
            first = min((file.report.first for file in stream.files if file.report.first is not None), default=None)
            if known is None or first is None:
                continue
            for topic in {topic for file in stream.files for topic in file.layout.topics}:
                newest = past.newest(topic, stream.instrument)
                if newest is None:
                    continue
                if first < known["event_time"]:
                    raise ImportFailed(
                        f"import: {stream.instrument}: the files begin at {utc(first)}, before the earlier import of {self.plan.author} (from "
                        f"{utc(known['event_time'])}): earlier history cannot be added; import all of it into a new environment"
                    )
                if topic == "agg_trades":
                    head = next((event for event in stream.events(report=False) if event.topic == topic), None)
                    if head is not None and past.comes_after(head, stream.instrument):
                        # More files after the known ones: ids continue, and so does the numbering of trades without ids.
                        numbered = newest["venue_trade_id"] is None
                        stream.last_id = _last_id(newest, stream) if numbered else None
                        stream.last_number = 0 if numbered else newest["agg_id"]

    def _steps(self) -> Iterator[Step[tuple[Stream, Event]]]:
        """Merge the streams by time into steps of the grid. A step's time is that of its mark."""
        flows = [stream.events(report=False) for stream in self.streams]
        done = reported = 0
        for step in merged(flows, self.settings.grid_ms, self.settings.allowed_lateness_ms):
            yield Step(step.time, [(self.streams[placed.flow], placed.event) for placed in step.items], step.grid)
            done += len(step.items)
            if done - reported >= REPORT_EVERY:
                reported = done
                self._report_progress("writing", done, self._events)


class _Writer:
    """Encodes the steps that are not in the log yet, and offers them to Kafka."""

    def __init__(self, owner: Importer, past: Past, out: KafkaWriter) -> None:
        self.written: Counter[str] = Counter()
        self.already: Counter[str] = Counter()
        self.ended = False
        self._plan = owner.plan
        self._report = owner.report
        self._streams = owner.streams
        self._codec: Codec = owner.settings.codec
        self._past = past
        self._out = out
        self._marks = past.tail.marks
        self._beyond = Counter(past.beyond)
        self._encoders: dict[str, Callable[[Record], bytes]] = {}
        self._received = int(time.time() * 1000)

    def preamble(self) -> None:
        """Write the contract facts that are not in the log yet, before all others."""
        items = []
        facts: dict[str, tuple[Stream, int, int, int | None]] = {}
        for stream in self._streams:
            _, price, quantity, first = facts.get(stream.instrument, (stream, 0, 0, None))
            times = [file.report.first for file in stream.files if file.report.first is not None] + ([] if first is None else [first])
            facts[stream.instrument] = (
                stream, max(price, stream.decimals.price), max(quantity, stream.decimals.quantity), min(times, default=None),
            )  # fmt: skip
        for name, (stream, price, quantity, first) in facts.items():
            known = self._past.tail.instruments.get(name)
            if first is None:
                continue
            seen = any(other.instrument == name and file.layout.kind == "trades" for other in self._streams for file in other.files)
            if known is not None and (not seen or known["price_decimals"] >= price) and known["quantity_decimals"] >= quantity:
                continue
            decimals = quantity if seen else UNKNOWN_DECIMALS
            since = known["event_time"] if known else first
            record = contract_facts(self._plan.adapter, self._plan.author, stream.symbol, name, price, decimals, since)
            items.append(self._encoded("instruments", stream, record))
        if items:
            self._out.offer([Step(None, items)], barrier=True)

    async def step(self, step: Step[tuple[Stream, Event]]) -> None:
        """Offer a step without the records that are in the log."""
        items = []
        for stream, event in step.items:
            if event.topic == "dead_letters":
                self._bad(stream, event, step.time)
            elif self._is_there(stream, event, step.time):
                self.already[event.topic] += 1
            else:
                items.append(self._encoded(event.topic, stream, event.record))
                self.written[event.topic] += 1
        self._out.offer([Step(step.time, items, step.grid)])
        await asyncio.sleep(0)  # meanwhile Kafka's responses are handled
        while self._out.congested:
            await asyncio.sleep(PUMP_S)
            self._out.pump()

    def _is_there(self, stream: Stream, event: Event, mark: int | None) -> bool:
        last = self._marks.get(stream.partition)
        if not self._past.has(event.topic, stream.instrument) and not (
            event.topic == "gaps" and self._past.has("agg_trades", stream.instrument)
        ):
            return False
        if last is not None and mark is not None and mark < last:
            return True
        if last is not None and mark == last:
            # The last marked step may end inside a file that was added since.
            return event.topic == "gaps" or not self._past.comes_after(event, stream.instrument)
        # A broker that died may have stored a batch twice. New records are written whatever the count is.
        if self._beyond[event.topic, stream.partition] > 0 and (
            event.topic == "gaps" or not self._past.comes_after(event, stream.instrument)
        ):
            self._beyond[event.topic, stream.partition] -= 1
            return True
        return False

    def _bad(self, stream: Stream, event: Event, mark: int | None) -> None:
        last = self._marks.get(stream.partition)
        if last is not None and mark is not None and mark <= last:
            return  # an earlier run has written it
        row = event.record
        at = event.time or None
        record = dead_letter(
            SERVICE,
            row["where"],
            row["reason"],
            event_time=at,
            instrument=stream.instrument,
            field=row["field"],
            value=row["text"].encode(),
        )
        self._out.dead_letter(record)

    def _encoded(self, topic: str, stream: Stream, record: Record) -> Outgoing:
        encode = self._encoders.get(topic)
        if encode is None:
            encode = self._encoders[topic] = self._codec.encoder(topic)
        whole = {**record, "instrument": stream.instrument, "receive_time": self._received}
        return (topic, stream.partition, stream.instrument.encode(), encode(whole), record["event_time"], self._received)

    def finish(self) -> None:
        """Record that everything was offered."""
        self.ended = True


def _names(stream: Stream) -> str:
    return ", ".join(file.source.path.name for file in stream.files)


def _first_bad(stream: Stream) -> str:
    bad = [row for file in stream.files for row in file.report.bad_rows[:1]]
    return f"line {bad[0]['line']}: {bad[0]['field']}: {bad[0]['reason']}" if bad else "they have only a header"


def _last_id(newest: Record, stream: Stream) -> int:
    """Return the newest id in the stream's own count: of fills, or of aggregate trades."""
    grouped = all(file.layout.grouped for file in stream.files)
    return int(newest["agg_id"] if grouped else newest["last_trade_id"])
