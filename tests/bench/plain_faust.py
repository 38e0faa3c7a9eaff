"""The plain Faust worker of the benchmark: what one writes after reading Faust's documentation, in its favourable form.

One agent, one event a message, Avro by fastavro; the open pane of an instrument is a local, a closed one is a write to a table with a changelog
and a send. ``python plain_faust.py APP TRADES DATADIR`` reads the topic ``$PERPFLOW_TOPIC_PREFIX`` + agg_trades until it has seen so many trades, closes
the open panes, waits for every acknowledgement, and prints a line of JSON: seconds, CPU seconds, {instrument: {pane: CVD in lots}}.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import time

import fastavro
import faust

from schemas.codec import SINGLE_OBJECT_HEADER, parsed
from schemas.settings import Settings

QUANTITY = 1000  # lots a unit: both tapes have three decimals


def main(app_id: str, wanted: int, datadir: str) -> None:
    settings = Settings()
    schema, grid = parsed("agg_trades"), settings.grid_ms
    app = faust.App(
        app_id,
        broker=f"kafka://{settings.kafka_bootstrap_servers}",
        datadir=datadir,
        web_enabled=False,
        autodiscover=False,
        store="memory://",
        topic_partitions=settings.partitions,
        topic_replication_factor=1,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        producer_acks=-1,
        producer_linger=0.005,
    )
    trades = app.topic(settings.topic("agg_trades"), value_type=bytes, value_serializer="raw", key_type=bytes)
    panes_out = app.topic(
        settings.topic("plain_panes"), value_serializer="json", key_type=bytes, internal=True, partitions=settings.partitions
    )
    table = app.Table("panes", default=int, partitions=settings.partitions)
    open_panes: dict[str, tuple[int, int]] = {}
    closed: dict[str, dict[int, int]] = {}
    began = cpu = 0.0
    seen = 0
    done = asyncio.Event()

    async def close(instrument: str, pane: int, cvd: int) -> None:
        table[f"{instrument}|{pane % 240}"] = cvd
        closed.setdefault(instrument, {})[pane] = cvd
        await panes_out.send(key=instrument.encode(), value={"pane": pane, "cvd": cvd / QUANTITY})

    @app.agent(trades)
    async def agent(stream):  # type: ignore[no-untyped-def]
        await panes_out.maybe_declare()
        nonlocal began, cpu, seen
        async for value in stream:
            if not seen:
                began, cpu = time.perf_counter(), time.process_time()
            trade = fastavro.schemaless_reader(io.BytesIO(value[SINGLE_OBJECT_HEADER:]), schema)
            instrument, pane = trade["instrument"], -(-trade["event_time"] // grid)
            lots = round(trade["quantity"] * QUANTITY)
            signed = -lots if trade["buyer_is_maker"] else lots
            known, cvd = open_panes.get(instrument, (pane, 0))
            if pane != known:
                await close(instrument, known, cvd)
                cvd = 0
            open_panes[instrument] = (pane, cvd + signed)
            seen += 1
            if seen == wanted:
                for name, (last, total) in open_panes.items():
                    await close(name, last, total)
                done.set()

    async def run() -> None:
        await app.start()
        await asyncio.wait_for(done.wait(), 600)
        await app.producer.flush()
        result = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu, "panes": closed}
        print(json.dumps(result), flush=True)
        os._exit(0)  # Faust's own stop takes seconds and is not what is measured

    asyncio.run(run())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
