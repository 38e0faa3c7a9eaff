"""Columns of the array ``meta`` (int64 per instrument) and the outcomes of rows, shared by the compiled kernels."""

from __future__ import annotations

CLOSED, FIRST_PANE, LAST_AGG_ID, N_HOLES, LATE, DUPLICATES, LAST_PRICE, HAS_PRICE, ATR_COUNT = range(9)
N_META = 9
# Row status after records were applied.
APPLIED, LATE_ROW, DUPLICATE, NO_INSTRUMENT, BAD_PRICE, BAD_QUANTITY, OFF_PRICE_GRID, OFF_QUANTITY_GRID, TOO_FAR, UNDECODED, BAD_SIDE = (
    range(11)
)
AHEAD = 256  # open panes an instrument may have at once: 64 minutes of the default grid ahead of what has fired
