"""The records of the market topics, as all mappings write them (pure). Times are ms UTC; ``instrument`` None leaves that field out."""

from __future__ import annotations

from typing import Any

from producers.venue.adapter.base import Level
from schemas.codec.avro import Record
from schemas.partition import base_asset, instrument_id


def _stamp(instrument: str | None, time: int, received: int) -> Record:
    stamp: Record = {"event_time": time, "receive_time": received}
    return stamp if instrument is None else {"instrument": instrument, **stamp}


def trade(
    instrument: str, time: int, received: int, *, price: float, quantity: float, maker: bool, backfilled: bool, number: int = 0,
    first: int | None = None, last: int | None = None, venue_id: str | None = None,
) -> Record:  # fmt: skip
    """Return an ``agg_trades`` record.

    Args:
        instrument, time, received: Instrument id, venue time, our clock.
        price, quantity: In quote and base units.
        maker: The buyer was the maker.
        backfilled: It came over REST.
        number: The consecutive id; 0: the producer assigns one.
        first, last: Ids of its fills; None: ``number``.
        venue_id: The venue's id where ids are not consecutive.
    """
    record = {
        "instrument": instrument,
        "event_time": time,
        "receive_time": received,
        "agg_id": number,
        "first_trade_id": number if first is None else first,
        "last_trade_id": number if last is None else last,
        "price": price,
        "quantity": quantity,
        "buyer_is_maker": maker,
        "backfilled": backfilled,
    }
    if venue_id is not None:
        record["venue_trade_id"] = venue_id
    return record


def quote(instrument: str, time: int, received: int, update: int, bid: Level, ask: Level) -> Record:
    """Return a ``quotes`` record of the best bid and ask (price, quantity)."""
    return {
        "instrument": instrument,
        "event_time": time,
        "receive_time": received,
        "update_id": update,
        "bid_price": bid[0],
        "bid_quantity": bid[1],
        "ask_price": ask[0],
        "ask_quantity": ask[1],
    }


def liquidation(
    instrument: str, time: int, received: int, *, long: bool, price: float, quantity: float, average_price: float | None = None,
    filled: float | None = None, cap_ms: int | None = None,
) -> Record:  # fmt: skip
    """Return a ``liquidations`` record. ``long``: a long was liquidated. ``cap_ms``: the venue sends one of a symbol in this time."""
    return {
        **_stamp(instrument, time, received),
        "side": "LONG" if long else "SHORT",
        "price": price,
        "average_price": average_price,
        "quantity": quantity,
        "filled_quantity": filled,
        "sampling_cap_ms": cap_ms,
    }


def funding(
    time: int, received: int, instrument: str | None = None, *, mark: float | None = None, index: float | None = None,
    settle: float | None = None, estimated: float | None = None, settled: float | None = None, next_time: int | None = None,
    hours: int | None = None,
) -> Record:  # fmt: skip
    """Return a ``funding`` record.

    Args:
        time, received, instrument: Venue time, our clock, instrument id.
        mark, index, settle: Prices; ``settle`` is the estimated settlement price.
        estimated, settled: Rate of the running interval; rate that was charged at ``time``. Fractions of an interval.
        next_time: Next settlement.
        hours: Funding interval.
    """
    return {
        **_stamp(instrument, time, received),
        "mark_price": mark,
        "index_price": index,
        "estimated_settle_price": settle,
        "estimated_rate": estimated,
        "settled_rate": settled,
        "next_funding_time": next_time,
        "interval_hours": hours,
    }


def indicator(name: str, value: float, time: int, received: int, instrument: str | None = None) -> Record:
    """Return a ``market_indicators`` record."""
    return {**_stamp(instrument, time, received), "indicator": name, "value": value}


def contract(
    venue: str, symbol: str, kind: str, author: str, entry: dict[str, Any], *, base: str, quote: str, trading: bool, tick: tuple[float, int],
    lot: tuple[float, int], min_notional: float | None, hours: int | None = None,
) -> Record:  # fmt: skip
    """Return an ``instruments`` record without its times.

    Args:
        venue, symbol, kind: Of the instrument id.
        author: Producer whose progress marks cover it.
        entry: The venue's row; recordings set ``recorded`` in it.
        base, quote: Assets, in the venue's spelling.
        trading: Else its status is ``closed``.
        tick, lot: Step of prices and of quantities, each with its number of decimals.
        min_notional: Smallest order value; None: unknown.
        hours: Funding interval; None: unknown, or spot.
    """
    return {
        "instrument": instrument_id(venue, symbol, kind),
        "author": author,
        "venue": venue,
        "symbol": symbol,
        "base_asset": base_asset(base, venue),
        "quote_asset": quote,
        "kind": kind,
        "status": "trading" if trading else "closed",
        "tick_size": tick[0],
        "step_size": lot[0],
        "min_notional": min_notional,
        "price_decimals": tick[1],
        "quantity_decimals": lot[1],
        "funding_interval_hours": hours,
        "recorded": entry.get("recorded") is True,
    }
