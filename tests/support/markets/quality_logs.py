"""Recorded market data as topics, mapped here by hand (not by our producers), and what the quality monitor says of it."""

from __future__ import annotations

import gzip
import heapq
import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

from stream_apps.core.quality.monitor import PartitionMonitor, QualityRecord
from stream_apps.core.quality.rules import SCORE, QualityRules
from tests.support.markets.logs import CODEC, Log, pieces
from tests.support.paths import RECORDINGS

BTC = "BINANCE:BTCUSDT-PERP"
Row = tuple[str, dict[str, Any]]


@cache
def btc_rows(name: str, first: int | None = None) -> tuple[Row, ...]:
    """(topic, record) of a raw recording in recorded order, all or the first ones; receive times are the recorder's."""
    rows: list[Row] = []
    bids: dict[float, float] = {}
    asks: dict[float, float] = {}
    last = None
    with gzip.open(RECORDINGS / "binance_usdm_raw" / f"{name}.gz", "rt") as file:
        for line in file:
            if len(rows) == first:
                break
            stamp, _, text = line.partition(" ")
            received = int(stamp) // (1_000_000 if len(stamp) >= 19 else 1_000)
            message = json.loads(text)
            message = message.get("data", message)
            kind = message.get("e")
            if kind is None:
                bids = {float(p): float(q) for p, q in message["bids"]}
                asks = {float(p): float(q) for p, q in message["asks"]}
                last = message["lastUpdateId"]
                continue
            time = message["E"] if kind == "markPriceUpdate" else message["T"]
            head = {"instrument": BTC, "event_time": time, "receive_time": received}
            if kind == "trade":
                rows.append(("agg_trades", head | {
                    "agg_id": message["t"], "first_trade_id": message["t"], "last_trade_id": message["t"], "price": float(message["p"]),
                    "quantity": float(message["q"]), "buyer_is_maker": message["m"], "backfilled": False}))  # fmt: skip
            elif kind == "bookTicker":
                rows.append(("quotes", head | {
                    "update_id": message["u"], "bid_price": float(message["b"]), "bid_quantity": float(message["B"]),
                    "ask_price": float(message["a"]), "ask_quantity": float(message["A"])}))  # fmt: skip
            elif kind == "markPriceUpdate":
                rows.append(
                    (
                        "funding",
                        head
                        | {"mark_price": float(message["p"]), "index_price": float(message["i"]), "estimated_rate": float(message["r"])},
                    )
                )
            elif kind == "depthUpdate" and last is not None and message["u"] >= last:
                for side, changes in ((bids, message["b"]), (asks, message["a"])):
                    for price, quantity in changes:
                        if float(quantity):
                            side[float(price)] = float(quantity)
                        else:
                            side.pop(float(price), None)
                best_bids, best_asks = heapq.nlargest(20, bids), heapq.nsmallest(20, asks)
                rows.append(("depth", head | {
                    "epoch": 1, "state": "live", "last_update_id": message["u"], "bid_prices": best_bids, "bid_quantities": [bids[p] for p in best_bids],
                    "ask_prices": best_asks, "ask_quantities": [asks[p] for p in best_asks]}))  # fmt: skip
    return tuple(rows)


def as_log(rows: Iterator[Row] | tuple[Row, ...] | list[Row], recorded: bool = True, tail_ms: int = 15_000) -> Log:
    """Append rows in their order with a mark every 250 ms of event time, and marks for ``tail_ms`` after the last."""
    log = Log()
    log.instrument(BTC, price_decimals=1, quantity_decimals=3)
    if not recorded:
        facts = CODEC.decode("instruments", log.topics["instruments"][0][3]) | {"recorded": False}
        log.append("instruments", facts)
    clock = step = 0
    for topic, record in rows:
        time = record["event_time"]
        if not step:
            step = time // 250 + 1
        # A record whose time jumps is a fault, not a clock.
        clock = max(clock, time) if not clock or time < clock + 60_000 else clock
        while clock >= step * 250:
            log.mark(step * 250)
            step += 1
        log.append(topic, record)
    for later in range(step, step + tail_ms // 250):
        log.mark(later * 250)
    return log


def watch(log: Log, rules: QualityRules | None = None, size: int = 50_000) -> list[QualityRecord]:
    """Feed a log to a monitor, topic after topic; return what it writes."""
    monitor = PartitionMonitor(rules or QualityRules(), CODEC)
    for topic, messages in log.topics.items():
        for records in pieces(messages, None, size):
            monitor.feed(topic, records)
    return monitor.advance()


def findings(outputs: list[QualityRecord]) -> list[dict[str, Any]]:
    """The findings, in order, without scores."""
    return [output.record for output in outputs if output.record["kind"] != SCORE]


def kinds(outputs: list[QualityRecord]) -> Counter[tuple[str, str]]:
    """(stream, kind) -> number of findings."""
    return Counter((record["stream"], record["kind"]) for record in findings(outputs))
