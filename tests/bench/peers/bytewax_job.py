"""A Bytewax dataflow in process: the topic's values are read into memory beforehand, decoded, keyed, and go through hand-written panes (``stateful_batch``).

Nothing of it is durable: no recovery store is asked for, and results stay in memory until the clock has stopped; only then are they written to the topic
from which they are checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink, TestingSource, run_main
from confluent_kafka import Consumer, Producer, TopicPartition
from panes import Clock, Panes, job, trade_of


class Logic(StatefulBatchLogic):
    """The panes of one instrument."""

    def __init__(self, panes: Panes) -> None:
        self.panes = panes

    def on_batch(self, values: list[tuple[int, float, int]]) -> tuple[Iterable[dict[str, Any]], bool]:
        add = self.panes.add
        return [closed for when, price, lots in values if (closed := add(when, price, lots)) is not None], False

    def snapshot(self) -> Any:
        return self.panes


def values(asked: dict[str, Any]) -> list[bytes]:
    """Return so many values of the topic."""
    consumer = Consumer({"bootstrap.servers": asked["bootstrap"], "group.id": asked["group"], "enable.auto.commit": False})
    consumer.assign([TopicPartition(asked["input"], partition, 0) for partition in range(asked["partitions"])])
    found: list[bytes] = []
    while len(found) < asked["trades"]:
        found += [message.value() for message in consumer.consume(min(10_000, asked["trades"] - len(found)), 5.0)]
    consumer.close()
    return found[: asked["trades"]]


def main() -> None:
    asked = job()
    clock, schema, results = Clock(asked["trades"]), asked["schema"], list[tuple[str, dict[str, Any]]]()

    def keyed(value: bytes) -> tuple[str, tuple[int, float, int]]:
        clock.tick()
        instrument, *trade = trade_of(schema, value)
        return instrument, tuple(trade)  # type: ignore[return-value]

    flow = Dataflow("panes")
    stream = op.input("in", flow, TestingSource(values(asked), batch_size=10_000))
    stream = op.map("decode", stream, keyed)
    stream = op.stateful_batch("panes", stream, lambda resumed: Logic(resumed or Panes()))
    op.output("out", stream, TestingSink(results))
    run_main(flow)
    clock.report()
    producer = Producer({"bootstrap.servers": asked["bootstrap"], "queue.buffering.max.messages": 1_000_000})
    for instrument, closed in results:
        producer.produce(asked["output"], json.dumps(closed).encode(), instrument.encode())
    producer.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
