"""Compiles the bulk reader before several processes do. The first call of a compiled function on a new machine takes seconds."""

from __future__ import annotations

from producers.binance.adapter import BinanceUsdm
from producers.venue.state.order_book import OrderBook
from schemas.codec.avro import Codec


def compile_frames(codec: Codec) -> None:
    """Compile the venue's scanner and the books in arrays."""
    BinanceUsdm().scanner([], codec)
    OrderBook().compile(codec.header("depth"))
