"""A Quix Streams job with hand-written panes: the open pane is a local, a closed one goes to the state store (RocksDB with a changelog) and to a topic."""

from __future__ import annotations

import os
from typing import Any

from panes import RING, Clock, Panes, job, trade_of
from quixstreams import Application


def main() -> None:
    asked = job()
    app = Application(
        broker_address=asked["bootstrap"],
        consumer_group=asked["group"],
        auto_offset_reset="earliest",
        commit_interval=1.0,
        state_dir=asked["folder"],
        auto_create_topics=True,  # its changelog
        loglevel="WARNING",
        consumer_extra_config={"max.partition.fetch.bytes": 4 << 20, "fetch.max.bytes": 64 << 20},
        producer_extra_config={"linger.ms": 5},
    )
    source = app.topic(asked["input"], key_deserializer="str", value_deserializer="bytes")
    out = app.topic(asked["output"], key_serializer="str", value_serializer="json")
    open_panes: dict[str, Panes] = {}
    clock, schema = Clock(asked["trades"]), asked["schema"]

    def features(value: bytes, state: Any) -> dict[str, Any] | None:
        if clock.tick():
            app.stop()  # after this message; `count` of run() counts outputs
        instrument, when, price, lots = trade_of(schema, value)
        panes = open_panes.get(instrument)
        if panes is None:
            panes = open_panes[instrument] = Panes()
        closed = panes.add(when, price, lots)
        if closed is not None:
            state.set(str(closed["pane"] % RING), panes.total)
        return closed

    frame = app.dataframe(source)
    frame = frame.apply(features, stateful=True)
    frame = frame.filter(lambda value: value is not None)
    frame.to_topic(out)
    app.run()  # commits before it returns
    clock.report()
    os._exit(0)


if __name__ == "__main__":
    main()
