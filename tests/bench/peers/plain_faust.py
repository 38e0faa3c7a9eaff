"""A plain Faust worker: what one writes after reading Faust's documentation, in its favourable form.

One agent, one event a message, Avro by fastavro; the open pane of an instrument is a local, a closed one is a write to a table with a changelog
and a send.
"""

from __future__ import annotations

import asyncio
import os

import faust
from panes import Clock, Panes, job, trade_of

RING = 5760


def main() -> None:
    asked = job()
    app = faust.App(
        asked["group"],
        broker=f"kafka://{asked['bootstrap']}",
        datadir=asked["folder"],
        web_enabled=False,
        autodiscover=False,
        store="memory://",
        topic_partitions=asked["partitions"],
        topic_replication_factor=1,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        producer_acks=-1,
        producer_linger=0.005,
    )
    trades = app.topic(asked["input"], value_type=bytes, value_serializer="raw", key_type=bytes)
    out = app.topic(asked["output"], value_serializer="json", key_type=bytes)
    table = app.Table("panes", default=int, partitions=asked["partitions"])
    open_panes: dict[str, Panes] = {}
    clock, schema = Clock(asked["trades"]), asked["schema"]
    done = asyncio.Event()

    @app.agent(trades)
    async def agent(stream):  # type: ignore[no-untyped-def]
        async for value in stream:
            instrument, when, price, lots = trade_of(schema, value)
            panes = open_panes.get(instrument)
            if panes is None:
                panes = open_panes[instrument] = Panes()
            closed = panes.add(when, price, lots)
            if closed is not None:
                table[f"{instrument}|{closed['pane'] % RING}"] = panes.total
                await out.send(key=instrument.encode(), value=closed)
            if clock.tick():
                done.set()
                await asyncio.sleep(3600)  # what follows is not asked for

    async def run() -> None:
        await app.start()
        await asyncio.wait_for(done.wait(), 600)
        await app.producer.flush()
        clock.report()
        os._exit(0)  # Faust's own stop takes seconds and is not what is measured

    asyncio.run(run())


if __name__ == "__main__":
    main()
