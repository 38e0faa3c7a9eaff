"""Small logs in memory, in the shape in which producers write them, for tests of the engine and of replay."""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from schemas.codec.avro import Codec
from schemas.codec.recordset import RecordSet
from stream_apps.core.log.outputs import OutputRecord
from stream_apps.core.log.steps import completed
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.signals.engine import SignalsEngine
from tests.support.paths import RECORDINGS

CODEC = Codec()
LTC = "BINANCE:LTCUSDT"

Message = tuple[int, int, bytes | None, bytes | None]


@dataclass
class Log:
    """The topics of one partition: topic -> messages (offset, timestamp ms, key, value)."""

    topics: dict[str, list[Message]] = field(default_factory=dict)
    mark_step: int = 250
    lateness: int = 250
    grid: int = 15_000

    def append(self, topic: str, record: dict[str, Any], key: str | None = None) -> int:
        messages = self.topics.setdefault(topic, [])
        messages.append((len(messages), record["event_time"], (key or record.get("instrument", "")).encode(), CODEC.encode(topic, record)))
        return len(messages) - 1

    def raw(self, topic: str, value: bytes | None, key: str = LTC, time: int = 1) -> None:
        messages = self.topics.setdefault(topic, [])
        messages.append((len(messages), time, key.encode(), value))

    def instrument(self, name: str = LTC, author: str = "test", price_decimals: int = 2, quantity_decimals: int = 3, time: int = 1) -> None:
        symbol = name.split(":")[1].removesuffix("-PERP")
        self.append("instruments", {
            "instrument": name, "event_time": time, "receive_time": time, "author": author, "venue": name.split(":")[0], "symbol": symbol,
            "base_asset": symbol.removesuffix("USDT"), "quote_asset": "USDT", "kind": "perp" if name.endswith("-PERP") else "spot", "status": "trading",
            "tick_size": 10.0**-price_decimals, "step_size": 10.0**-quantity_decimals, "min_notional": None, "price_decimals": price_decimals,
            "quantity_decimals": quantity_decimals, "funding_interval_hours": None, "recorded": True,
        })  # fmt: skip

    def trade(self, time: int, agg_id: int, price: float, quantity: float, maker: bool, name: str = LTC) -> None:
        self.append("agg_trades", {
            "instrument": name, "event_time": time, "receive_time": time + 3, "agg_id": agg_id, "first_trade_id": agg_id, "last_trade_id": agg_id,
            "price": price, "quantity": quantity, "buyer_is_maker": maker, "backfilled": False,
        })  # fmt: skip

    def mark(self, time: int, author: str = "test", venue: str = "BINANCE", cut: dict[str, int] | None = None) -> None:
        full = {topic: len(messages) for topic, messages in self.topics.items() if topic != "progress"}
        record = {"author": author, "venue": venue, "event_time": time, "receive_time": time, "cut": full if cut is None else cut}
        self.append("progress", record, key=author)

    def due_time(self, time: int) -> int:
        """The first mark time at or after ``time`` at which an instant fires."""
        return -(-(time - self.lateness) // self.grid) * self.grid + self.lateness

    def trades(self, rows: Iterable[tuple[int, int, float, float, bool]], name: str = LTC, author: str = "test") -> None:
        """Append trades (time, id, price, quantity, maker) with a mark at every instant that becomes due, as a producer of history does."""
        due: int | None = None
        for time, agg_id, price, quantity, maker in rows:
            if due is None:
                due = self.due_time(time)
            while time > due:
                self.mark(due, author)
                due += self.grid
            self.trade(time, agg_id, price, quantity, maker, name)
        if due is not None:
            self.mark(due, author)
            self.mark(due + self.grid, author)

    def strategy(self, record: dict[str, Any]) -> None:
        offset = self.append("strategies", record, key=record["strategy_id"])
        self.mark(record["event_time"], "strategies", "", {"strategies": offset + 1})


def ltc_trades(limit: int | None = None) -> Iterator[tuple[int, int, float, float, bool]]:
    """The recorded LTCUSDT spot trades (time, id, price, quantity, buyer is maker)."""
    n = 0
    for path in sorted((RECORDINGS / "ltcusdt_spot_trades").glob("*.csv.gz")):
        with gzip.open(path, "rt") as file:
            for row in csv.DictReader(file):
                yield int(row["timestamp"]), int(row["tradeId"]), float(row["price"]), float(row["quantity"]), row["side"] == "sell"
                n += 1
                if limit is not None and n >= limit:
                    return


def pieces(messages: list[Message], random_source: random.Random | None, size: int = 5000) -> Iterator[RecordSet]:
    """Cut messages into record sets, at random places when a source is given."""
    at = 0
    while at < len(messages):
        step = size if random_source is None else random_source.randint(1, size)
        yield RecordSet.from_messages(messages[at : at + step])
        at += step


def run(
    log: Log,
    config: EngineConfig | None = None,
    seed: int | None = None,
    restart_every: int | None = None,
    size: int = 5000,
    kind: type[Any] = SignalsEngine,
) -> tuple[list[OutputRecord], Any]:
    """Drive an engine over a log; ``seed`` cuts and interleaves feeds and rounds at random, ``restart_every`` kills it after so many rounds.

    A kill loses everything but the changelog: the engine is rebuilt from the checkpoint before last and reads again from there.
    """
    config = config or EngineConfig(grid_ms=log.grid, lateness_ms=log.lateness, quantile_history_ms=0)  # logs are shorter than a day
    source = random.Random(seed) if seed is not None else None
    engine = kind(0, config, CODEC)
    changelog: dict[bytes, bytes] = {}
    outputs: list[OutputRecord] = []
    feeds = {topic: list(pieces(messages, source, size)) for topic, messages in log.topics.items()}
    at = dict.fromkeys(feeds, 0)
    rounds = 0
    while any(at[t] < len(feeds[t]) for t in feeds):
        ready = [t for t in feeds if at[t] < len(feeds[t])]
        topic = source.choice(ready) if source else ready[0]
        outputs.extend(engine.feed(topic, feeds[topic][at[topic]]))
        at[topic] += 1
        outputs.extend(engine.advance(source.choice((None, 1, 7)) if source else None))
        rounds += 1
        if restart_every and rounds % restart_every == 0:
            if source is None or source.random() < 0.7:
                changelog.update({key: value for key, value in engine.checkpoint() if value is not None})
                if source is None or source.random() < 0.5:
                    continue  # go on: the next kill loses what comes after this checkpoint
            engine = kind.restore(0, config, CODEC, changelog.items())
            for name in feeds:
                position = engine.positions().get(name, 0)
                at[name] = next((j for j, records in enumerate(feeds[name]) if records.next_offset > position), len(feeds[name]))
    outputs.extend(engine.advance())
    return outputs, engine


def decoded(outputs: Iterable[OutputRecord], topic: str) -> list[dict[str, Any]]:
    """The records of one topic, repeats dropped by (instrument or author, event time, id), in order."""
    from schemas.catalogue import TOPICS

    seen, records = set(), []
    for output in outputs:
        if output.topic != topic:
            continue
        value = completed(output.value, 0) if topic == "worker_progress" else output.value
        record = CODEC.decode(topic, value)
        identity = tuple(record[name] for name in TOPICS[topic].record_id) if TOPICS[topic].record_id else len(records)
        if identity in seen:
            continue
        seen.add(identity)
        records.append(record)
    return records
