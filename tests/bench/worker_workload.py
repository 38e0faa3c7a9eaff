"""What the benchmark of the worker feeds: recorded trades, scaled up to many instruments and a day, as an importer of history would write them.

Every second instrument repeats the recorded LTCUSDT trades, the others those of the BTCUSDT capture (deploy/demo/data/PROVENANCE.md): prices, quantities, sides
and the rhythm of the gaps are recorded, ids and times are shifted so that the wanted number of trades covers the wanted span.
"""

from __future__ import annotations

import csv
import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import Producer
from numba import njit

from schemas.codec.avro import Codec
from schemas.settings import Settings
from stream_apps.core.signals.strategy_rules import strategy_from_record
from tests.support.paths import RECORDINGS

I64 = npt.NDArray[np.int64]

START_MS = 1_723_075_200_000  # 2024-08-08 00:00 UTC, where days, bars and panes begin together
AUTHOR = "bench-importer"
# Twenty assets that between them lie in each of 12 partitions.
ASSETS = (
    "BTC", "ETH", "SOL", "XRP", "LTC", "DOGE", "ADA", "AVAX", "LINK", "DOT",
    "BCH", "TRX", "TON", "UNI", "APT", "ICP", "OP", "SUI", "FIL", "ATOM",
)  # fmt: skip


@dataclass(frozen=True)
class Tape:
    """Recorded trades: milliseconds since the one before, ticks, lots, whether the buyer was the maker; and the decimals of both."""

    gaps: I64
    ticks: I64
    lots: I64
    makers: npt.NDArray[np.bool_]
    price_decimals: int
    quantity_decimals: int


def _tape(rows: list[tuple[int, str, str, bool]], price_decimals: int, quantity_decimals: int) -> Tape:
    times = np.array([row[0] for row in rows], dtype=np.int64)
    gaps = np.diff(times, prepend=times[0])
    return Tape(
        np.clip(gaps, 0, 30_000),  # the tapes have holes of hours where the recorder was off
        np.array([round(float(row[1]) * 10**price_decimals) for row in rows], dtype=np.int64),
        np.array([round(float(row[2]) * 10**quantity_decimals) for row in rows], dtype=np.int64),
        np.array([row[3] for row in rows], dtype=np.bool_),
        price_decimals,
        quantity_decimals,
    )


@cache
def tapes() -> tuple[Tape, Tape]:
    """Return the LTCUSDT and the BTCUSDT tape."""
    ltc: list[tuple[int, str, str, bool]] = []
    for path in sorted((RECORDINGS / "ltcusdt_spot_trades").glob("*.csv.gz")):
        with gzip.open(path, "rt") as file:
            ltc += [(int(r["timestamp"]), r["price"], r["quantity"], r["side"] == "sell") for r in csv.DictReader(file)]
    btc: list[tuple[int, str, str, bool]] = []
    with gzip.open(RECORDINGS / "binance_usdm_raw" / "btcusdt_20240808.gz", "rb") as file:
        for line in file:
            if b'"e":"trade"' in line:
                data = json.loads(line.partition(b" ")[2])["data"]
                if float(data["q"]) > 0 and float(data["p"]) > 0:
                    btc.append((data["T"], data["p"], data["q"], data["m"]))
    return _tape(ltc, 2, 3), _tape(btc, 1, 3)


@dataclass(frozen=True)
class Instrument:
    """Trades of one instrument in order of time; the i-th has the id i."""

    name: str
    asset: str
    partition: int
    tape: Tape
    times: I64
    rows: I64  # of the tape

    @property
    def signed_lots(self) -> I64:
        """Lots, negative where the taker sold."""
        lots: I64 = np.where(self.tape.makers[self.rows], -self.tape.lots[self.rows], self.tape.lots[self.rows])
        return lots


class Workload:
    """Trades, instruments and marks of all partitions.

    Args:
        trades: Number of trades, in all.
        panes: Number of grid steps that they cover.
        settings: Grid, lateness and partition count.
        instruments: How many; beyond the twenty named assets they are C20, C21, ...
    """

    def __init__(self, trades: int, panes: int, settings: Settings, instruments: int = len(ASSETS)) -> None:
        self.settings = settings
        self.grid, self.lateness = settings.grid_ms, settings.allowed_lateness_ms
        self.panes = panes
        self.first_pane = START_MS // self.grid + 1
        each = trades // instruments
        self.trades = each * instruments
        assets = [*ASSETS, *(f"C{number}" for number in range(len(ASSETS), instruments))][:instruments]
        self.instruments = [self._instrument(number, asset, each) for number, asset in enumerate(assets)]
        self.partitions = sorted({i.partition for i in self.instruments})
        self._encoded: dict[int, tuple[I64, list[tuple[bytes, bytes]]]] = {}
        # The first mark is the one at START: nothing is due of the time before.
        self.mark_times = [(self.first_pane - 1 + k) * self.grid + self.lateness for k in range(panes + 1)]

    def _instrument(self, number: int, asset: str, count: int) -> Instrument:
        tape = tapes()[number % 2]
        rows = (np.arange(count) + 997 * number) % len(tape.gaps)
        clock = np.cumsum(tape.gaps[rows] + 1)
        times = START_MS + 1 + (clock * ((self.panes * self.grid - 1) / clock[-1])).astype(np.int64)
        partition = self.settings.partition_of(asset)
        return Instrument(f"BINANCE:{asset}USDT-PERP", asset, partition, tape, np.minimum(times, START_MS + self.panes * self.grid), rows)

    def panes_of(self, instrument: Instrument) -> I64:
        """Return the CVD of every pane in lots: the truth that every contestant's sums are held to."""
        pane = -(-instrument.times // self.grid) - self.first_pane
        sums = np.zeros(self.panes, dtype=np.int64)
        np.add.at(sums, pane, instrument.signed_lots)
        return sums

    def before(self, pane: int) -> int:
        """Return how many trades lie before the mark that ends the first ``pane`` panes."""
        limit = self.mark_times[pane]
        return int(sum(np.searchsorted(i.times, limit, side="right") for i in self.instruments))

    # --- writing -----------------------------------------------------------------------------------------------------
    def _partition(self, codec: Codec, partition: int) -> tuple[I64, list[tuple[bytes, bytes]]]:
        """Return times and (key, value) of a partition's trades, in order of time."""
        if partition not in self._encoded:
            mine = [i for i in self.instruments if i.partition == partition]
            times = np.concatenate([i.times for i in mine])
            order = np.argsort(times, kind="stable")
            rows: list[tuple[bytes, bytes]] = []
            for instrument in mine:
                key = instrument.name.encode()
                rows += [(key, value) for value in encoded(codec, instrument)]
            self._encoded[partition] = times[order], [rows[row] for row in order.tolist()]
        return self._encoded[partition]

    def write(self, settings: Settings, first: int, last: int, produce: Callable[..., None]) -> None:
        """Write panes [first, last) of every partition, with the facts when ``first`` is 0; ``produce`` as a confluent producer's."""
        codec = settings.codec
        encode_mark, encode_facts = codec.encoder("progress"), codec.encoder("instruments")
        for partition in self.partitions:
            times, rows = self._partition(codec, partition)
            facts = [i for i in self.instruments if i.partition == partition]
            if first == 0:
                for i in facts:
                    produce(settings.topic("instruments"), encode_facts(_facts(i)), i.name.encode(), partition, timestamp=START_MS)
            cuts = np.searchsorted(times, self.mark_times, side="right").tolist()
            start, stop = (cuts[first] if first else 0), cuts[last]
            topic = settings.topic("agg_trades")
            for when, (key, value) in zip(times[start:stop].tolist(), rows[start:stop], strict=True):
                produce(topic, value, key, partition, timestamp=when)
            for k in range(first + 1 if first else 0, last + 1):
                when = self.mark_times[k]
                cut = {"agg_trades": cuts[k], "instruments": len(facts)}
                mark = {"author": AUTHOR, "venue": "BINANCE", "event_time": when, "receive_time": when, "cut": cut}
                produce(settings.topic("progress"), encode_mark(mark), AUTHOR.encode(), partition, timestamp=when)


class Writer:
    """A producer in bulk: large batches, waiting when its queue is full."""

    def __init__(self, settings: Settings) -> None:
        self._producer = Producer({
            "bootstrap.servers": settings.kafka_bootstrap_servers, "linger.ms": 50, "batch.size": 1_000_000, "enable.idempotence": True,
            "queue.buffering.max.messages": 500_000, "queue.buffering.max.kbytes": 1_000_000,
        })  # fmt: skip

    def produce(self, *record: Any, timestamp: int) -> None:
        """Queue a record: topic, value, key, partition."""
        while True:
            try:
                self._producer.produce(*record, timestamp=timestamp)
                return
            except BufferError:
                self._producer.poll(0.05)

    def flush(self) -> None:
        """Wait until everything is acknowledged."""
        assert self._producer.flush(120) == 0, "the broker did not take everything"


def fill(workload: Workload, settings: Settings, first: int, last: int) -> float:
    """Write panes [first, last) and return the seconds it took."""
    began = time.perf_counter()
    writer = Writer(settings)
    workload.write(settings, first, last, writer.produce)
    writer.flush()
    return time.perf_counter() - began


def add_strategies(workload: Workload, settings: Settings, produce: Callable[..., None] | None = None, each: int = 1) -> None:
    """Write ``each`` strategies an instrument; they must stand first in the log, because their mark is the first of its partition.

    Without ``produce`` (as a confluent producer's) they go to the broker of the settings.
    """
    writer = None
    if produce is None:
        writer = Writer(settings)
        produce = writer.produce
    encode, mark = settings.codec.encoder("strategies"), settings.codec.encoder("progress")
    for partition in workload.partitions:
        mine = [one for one in workload.instruments if one.partition == partition]
        for one in mine:
            for n in range(each):
                name = one.asset if each == 1 else f"{one.asset}-{n}"
                config = strategy_from_record({"strategy_id": name, "instrument": one.name, "display_name": name})
                when = {"event_time": START_MS, "receive_time": START_MS}
                value = encode({**config.to_record(), "entry_score": config.entry_score - n % 10, "revision": 1, **when})
                produce(settings.topic("strategies"), value, name.encode(), partition, timestamp=START_MS)
        cut = {"strategies": len(mine) * each}
        value = mark({"author": "strategies", "venue": "", "event_time": START_MS, "receive_time": START_MS, "cut": cut})
        produce(settings.topic("progress"), value, b"strategies", partition, timestamp=START_MS)
    if writer is not None:
        writer.flush()


def _facts(i: Instrument) -> dict[str, Any]:
    price, quantity = i.tape.price_decimals, i.tape.quantity_decimals
    return {
        "instrument": i.name, "event_time": START_MS, "receive_time": START_MS, "author": AUTHOR, "venue": "BINANCE", "symbol": f"{i.asset}USDT",
        "base_asset": i.asset, "quote_asset": "USDT", "kind": "perp", "status": "trading", "tick_size": 10.0**-price, "step_size": 10.0**-quantity,
        "min_notional": None, "price_decimals": price, "quantity_decimals": quantity, "funding_interval_hours": 8, "recorded": True,
    }  # fmt: skip


# --- encoding ------------------------------------------------------------------------------------------------------
@njit(cache=True)
def _long(value: int, out: Any, at: int) -> int:
    rest = np.uint64((value << 1) ^ (value >> 63))
    while rest >= np.uint64(0x80):
        out[at] = np.uint8(rest & np.uint64(0x7F)) | np.uint8(0x80)
        rest >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(rest)
    return at + 1


@njit(cache=True)
def _encode(head: Any, times: Any, prices: Any, quantities: Any, makers: Any, out: Any, ends: Any) -> None:
    at = 0
    for n in range(len(times)):
        for byte in head:
            out[at] = byte
            at += 1
        at = _long(times[n], out, at)
        at = _long(times[n] + 20, out, at)
        for _ in range(3):
            at = _long(n, out, at)
        for b in range(8):
            out[at + b] = prices[n, b]
            out[at + 8 + b] = quantities[n, b]
        at += 16
        out[at] = makers[n]
        out[at + 1] = 0  # backfilled: no
        out[at + 2] = 0  # venue_trade_id: null
        at += 3
        ends[n] = at


def encoded(codec: Codec, instrument: Instrument) -> Iterator[bytes]:
    """Yield the instrument's trades as values of agg_trades. The first and the last are held to the codec."""
    name = instrument.name.encode()
    assert len(name) < 64
    head = codec.header("agg_trades") + bytes([2 * len(name)]) + name
    tape, rows, n = instrument.tape, instrument.rows, len(instrument.rows)
    prices, quantities = tape.ticks[rows] / 10**tape.price_decimals, tape.lots[rows] / 10**tape.quantity_decimals
    out, ends = np.empty(n * (len(head) + 60), dtype=np.uint8), np.empty(n, dtype=np.int64)
    as_bytes = [column.astype("<f8").view(np.uint8).reshape(n, 8) for column in (prices, quantities)]
    _encode(np.frombuffer(head, dtype=np.uint8), instrument.times, *as_bytes, tape.makers[rows], out, ends)
    buffer, start = out[: ends[-1]].tobytes(), 0
    for n, end in enumerate(ends.tolist()):
        value = buffer[start:end]
        if n in (0, len(ends) - 1):
            when = int(instrument.times[n])
            assert value == codec.encode("agg_trades", {
                "instrument": instrument.name, "event_time": when, "receive_time": when + 20, "agg_id": n, "first_trade_id": n, "last_trade_id": n,
                "price": float(prices[n]), "quantity": float(quantities[n]), "buyer_is_maker": bool(tape.makers[rows[n]]), "backfilled": False,
            })  # fmt: skip
        yield value
        start = end
