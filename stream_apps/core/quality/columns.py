"""Columns and sizes of the monitor's arrays, and the numbers of the kinds. All kernels share them."""

from __future__ import annotations

import numpy as np

from stream_apps.core.quality.rules import NUMBER

NONE = np.iinfo(np.int64).min

# Columns of ``L``, then of ``D``.
(
    SEEN, RECORDS, LAST_TIME, PREVIOUS_TIME, LAST_ID, PREVIOUS_ID, FIRST_ID, LAST_OFFSET, GAP_BEFORE, GAP_TIME, GAP_OFFSET, SKIPPED, DELAYS, LEAST_DELAY,
    LATE, SKEWED, SIDE, RUN, RUN_START, RUN_LAST, RUN_REPORTED, PRICES, PENDING, PENDING_SIDE, EPOCH, INVALID, COMPARED, OUTSIDE, IS_STALE, GAPS, QUOTE_TIME,
    LONGS,
) = range(32)  # fmt: skip
MEDIAN, EDGE, QUOTE_BID, QUOTE_ASK, DOUBLES = range(5)

MEMORY = 256  # number of records remembered by id
PRICE_MEMORY = 64
PRICES_LEAST = 20
RENEW = 16
FOLLOWERS = 8
MAX_GAPS = 16

UNDECODABLE, INVALID_VALUE, ID_GAP, GAP_REPAIRED = (NUMBER[name] for name in ("undecodable", "invalid_value", "id_gap", "gap_repaired"))
ALTERED_ID, DUPLICATE, TIME_BACKWARDS = (NUMBER[name] for name in ("altered_id", "duplicate", "time_backwards"))
CROSSED, LOCKED, BOOK_ORDER = (NUMBER[name] for name in ("crossed_book", "locked_book", "book_order"))
OUTLIER, JUMP, ONE_SIDED = (NUMBER[name] for name in ("price_outlier", "price_jump", "one_sided"))
BOOK_INVALID, RESYNC, STALE, SKEW = (NUMBER[name] for name in ("book_invalid", "book_resync", "stale", "clock_skew"))

# Relation of a record to the earlier ones.
NEW, OLD = 0, 1
