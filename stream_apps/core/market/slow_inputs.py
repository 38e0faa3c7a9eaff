"""Records of the slow topics as inputs of the market state: quotes, order-book imbalance, mark price, funding, indicators."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.codec.columnar import Columns
from stream_apps.core.log.inbox import Chunk
from stream_apps.core.market import columns as col
from stream_apps.core.market.config import ATR_TIMEFRAME, TIMEFRAME_MS

_INDICATORS = {
    "open_interest": col.OPEN_INTEREST,
    "long_short_ratio": col.LONG_SHORT,
    "top_trader_long_share": col.TOP_TRADER,
    "coinbase_premium": col.PREMIUM,
}
_SIDES = np.array([1, -1, 0])  # LONG, SHORT, and neither

# Kind, first and second value of each row, and the rows that have it.
Input = tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]


def slow_inputs(topic: str, chunk: Chunk, columns: Columns, obi_levels: int) -> list[Input]:
    """Return the inputs that the records of a chunk hold: kind, first and second value, and the rows that have it."""
    if chunk.derived is None:
        chunk.derived = _derive(topic, columns, obi_levels)
    inputs: list[Input] = chunk.derived
    return inputs


def _derive(topic: str, columns: Columns, obi_levels: int) -> list[Input]:
    good = columns.good
    if topic == "quotes":
        return [(col.QUOTE, columns.double("bid_price"), columns.double("ask_price"), good)]
    if topic == "depth":
        imbalance = _imbalance(columns, obi_levels)
        bid, ask = columns.doubles("bid_prices")[:, 0], columns.doubles("ask_prices")[:, 0]
        # The weighted mid (analytics/measures/microprice) equals the mid plus imbalance times half the spread.
        return [(col.OBI, imbalance, (bid + ask) / 2.0 + imbalance * (ask - bid) / 2.0, good)]
    if topic == "funding":
        pairs = ((col.MARK, "mark_price"), (col.INDEX, "index_price"), (col.FUNDING, "estimated_rate"))
        # A null field holds no value. It never hides a known one.
        return [(kind, values, values, good & ~np.isnan(values)) for kind, values in ((k, columns.double(name)) for k, name in pairs)]
    if topic == "market_indicators":
        values = columns.double("value")
        names = columns.choices("indicator", tuple(_INDICATORS))
        return [(kind, values, values, names == i) for i, kind in enumerate(_INDICATORS.values())]
    return []  # liquidations are events that add up, not values that hold


def klines(
    chunk: Chunk, columns: Columns
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return which rows are bars of the ATR's length that end on its grid, and the high, low and close of each row."""
    if chunk.derived is None:
        on_grid = columns.long("event_time") % TIMEFRAME_MS[ATR_TIMEFRAME] == 0
        chunk.derived = (columns.choices("timeframe", (ATR_TIMEFRAME,)) == 0) & on_grid
    return chunk.derived, columns.double("high"), columns.double("low"), columns.double("close")


def liquidations(chunk: Chunk, columns: Columns) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return side (1 LONG, -1 SHORT, 0 neither), price and quantity per row: of the fill where the venue reports it, else of the order."""
    if chunk.derived is None:
        side = _SIDES[columns.choices("side", ("LONG", "SHORT"))]
        average, filled = columns.double("average_price"), columns.double("filled_quantity")
        # Venues write a zero average or fill for "not yet". It is not a value.
        price = np.where(average > 0.0, average, columns.double("price"))
        chunk.derived = side, price, np.where(filled > 0.0, filled, columns.double("quantity"))
    found: tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]] = chunk.derived
    return found


def _imbalance(columns: Columns, levels: int) -> npt.NDArray[np.float64]:
    """Return (bids - asks)/(bids + asks) over the top levels per row (D7). NaN while the book is invalid or a side is empty."""
    bids = np.nan_to_num(columns.doubles("bid_quantities")[:, :levels]).sum(axis=1)
    asks = np.nan_to_num(columns.doubles("ask_quantities")[:, :levels]).sum(axis=1)
    live = columns.choices("state", ("live",)) == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(live & (bids > 0) & (asks > 0), (bids - asks) / (bids + asks), np.nan)
