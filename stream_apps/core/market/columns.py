"""Columns, flags and sizes of the market state's arrays, and the status of rows. All compiled kernels share them."""

from __future__ import annotations

CLOSED, FIRST_PANE, LAST_AGG_ID, N_HOLES, LATE, DUPLICATES, LAST_PRICE, HAS_PRICE, ATR_COUNT = range(9)
N_META = 9
# Status of a row after it was applied or refused.
APPLIED, LATE_ROW, DUPLICATE, NO_INSTRUMENT, BAD_PRICE, BAD_QUANTITY, OFF_PRICE_GRID, OFF_QUANTITY_GRID, TOO_FAR, UNDECODED, BAD_SIDE = (
    range(11)
)
AHEAD = 256  # open panes an instrument may have at once: 64 minutes of the default grid beyond the last fired one
# Columns of sums (cumulative and open panes): taker buys and sells in lots, price x volume in ticks x lots, number of trades.
BUY, SELL, PRICE_VOLUME, COUNT = range(4)
# Flags of a kept trade.
WHALE, LARGE = 1, 2
LIQUIDATIONS_KEPT = 64  # newest liquidations of an instrument, with which a new row is compared
HOLES = 64  # trade-id ranges per instrument that a back-fill may still fill; beyond this number the oldest is dropped
SLOTS = 512  # panes of slow inputs: more than the longest look-back (30 min) plus AHEAD
# Kinds of slow inputs.
QUOTE, OBI, MARK, INDEX, FUNDING, OPEN_INTEREST, LONG_SHORT, TOP_TRADER, PREMIUM = range(9)
N_KINDS = 9
N_BUCKETS = 128 * 40 + 256  # histogram buckets: quantities up to 2^47 lots
# States of an input at an instant.
PRESENT, MISSING, STALE = 0, 1, 2
MINUTE_MS, FIVE_MINUTES_MS, HOUR_MS = 60_000, 300_000, 3_600_000
ATR_LOW_BARS = 12  # an hour of 5m bars
