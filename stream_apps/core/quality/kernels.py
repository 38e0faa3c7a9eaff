"""The compiled checks of every record: one pass over a topic's records in log order, with the state in arrays, one row an instrument.

``L`` (int64) and ``D`` (float64) hold the scalars named in ``columns``. A finding is a row of ``found`` (kind, instrument, offset,
event time) and of ``numbers`` (value, limit). ``counts`` counts every finding of the window. ``found`` holds at most ``most`` of a kind and
instrument.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# fmt: off
from stream_apps.core.quality.columns import (  # isort: skip
    ALTERED_ID, BOOK_INVALID, BOOK_ORDER, CROSSED, DELAYS, DUPLICATE, EDGE, EPOCH, FIRST_ID, FOLLOWERS, GAP_BEFORE, GAP_OFFSET,
    GAP_REPAIRED, GAP_TIME, GAPS, ID_GAP, INVALID, INVALID_VALUE, IS_STALE, JUMP, LAST_ID, LAST_OFFSET, LAST_TIME, LATE, LEAST_DELAY,
    LOCKED, MAX_GAPS, MEDIAN, MEMORY, NEW, NONE, OLD, ONE_SIDED, OUTLIER, PENDING, PENDING_SIDE, PREVIOUS_ID, PREVIOUS_TIME,
    PRICE_MEMORY, PRICES, PRICES_LEAST, RECORDS, RENEW, RESYNC, RUN, RUN_LAST, RUN_START, RUN_REPORTED, SEEN, SIDE, SKEW, SKEWED, SKIPPED,
    STALE, TIME_BACKWARDS, UNDECODABLE,
)
# fmt: on


@njit(cache=True, nogil=True)
def _find(
    kind: int, i: int, offset: int, time: int, value: float, limit: float, counts: Any, most: int, found: Any, numbers: Any, n: int
) -> int:
    """Count a finding. Write it while there are fewer than ``most`` of its kind. Return the new number of findings."""
    counts[i, kind] += 1
    if counts[i, kind] <= most and n < found.shape[0]:
        found[n, 0] = kind
        found[n, 1] = i
        found[n, 2] = offset
        found[n, 3] = time
        numbers[n, 0] = value
        numbers[n, 1] = limit
        return n + 1
    return n


@njit(cache=True, nogil=True)
def _seen(i: int, L: Any, offset: int, time: int, received: int, timed: bool, limits: Any, counts: Any, most: int, found: Any, numbers: Any, n: int,
          skew_ms: int, delay_ms: int) -> int:  # fmt: skip
    """Check time, delay and silence of a new record. ``timed``: it came from the stream itself, not from a back-fill or a playback."""
    last = L[i, LAST_TIME]
    if last == NONE:
        L[i, LAST_TIME] = time
        L[i, PREVIOUS_TIME] = time
    elif time >= last:
        if L[i, IS_STALE]:
            L[i, IS_STALE] = 0
        elif limits[i] > 0 and time - last > limits[i]:
            n = _find(STALE, i, offset, time, float(time - last), float(limits[i]), counts, most, found, numbers, n)
        L[i, PREVIOUS_TIME] = last
        L[i, LAST_TIME] = time
    else:
        n = _find(TIME_BACKWARDS, i, offset, time, float(last - time), 0.0, counts, most, found, numbers, n)
        if time >= L[i, PREVIOUS_TIME]:  # the record before may have jumped ahead; then its successors are not late
            L[i, LAST_TIME] = time
    if timed:
        delay = received - time
        L[i, DELAYS] += 1
        if delay < L[i, LEAST_DELAY]:
            L[i, LEAST_DELAY] = delay
        if delay > delay_ms:
            L[i, LATE] += 1
        if delay < -skew_ms:
            L[i, SKEWED] += 1
            if L[i, SKEWED] == 1:  # a wrong clock affects all records alike: report it once a window
                n = _find(SKEW, i, offset, time, float(delay), float(-skew_ms), counts, most, found, numbers, n)
    return n


@njit(cache=True, nogil=True)
def _remember(i: int, number: int, time: int, a: float, b: float, ids: Any, contents: Any) -> None:
    slot = number % MEMORY
    ids[i, slot, 0] = number
    ids[i, slot, 1] = time
    contents[i, slot, 0] = a
    contents[i, slot, 1] = b


@njit(cache=True, nogil=True)
def _known(i: int, number: int, time: int, a: float, b: float, ids: Any, contents: Any) -> int:
    """Return 0: this id is not remembered; 1: with the same content; 2: with other content."""
    slot = number % MEMORY
    if ids[i, slot, 0] != number:
        return 0
    same = ids[i, slot, 1] == time and contents[i, slot, 0] == a and contents[i, slot, 1] == b
    return 1 if same else 2


@njit(cache=True, nogil=True)
def _add_gap(i: int, first: int, last: int, L: Any, gaps: Any) -> None:
    count = L[i, GAPS]
    if count == MAX_GAPS:  # drop the oldest: it was reported
        for h in range(MAX_GAPS - 1):
            gaps[i, h, 0] = gaps[i, h + 1, 0]
            gaps[i, h, 1] = gaps[i, h + 1, 1]
            gaps[i, h, 2] = gaps[i, h + 1, 2]
        count -= 1
    gaps[i, count, 0] = first
    gaps[i, count, 1] = last
    gaps[i, count, 2] = last - first + 1
    L[i, GAPS] = count + 1


@njit(cache=True, nogil=True)
def _in_gap(i: int, number: int, L: Any, gaps: Any) -> int:
    for h in range(L[i, GAPS]):
        if gaps[i, h, 0] <= number <= gaps[i, h, 1]:
            return h
    return -1


@njit(cache=True, nogil=True)
def _gap_is_real(i: int, L: Any, gaps: Any, counts: Any, most: int, found: Any, numbers: Any, n: int) -> int:
    """Report the waiting jump in the trade ids as a gap."""
    before, last = L[i, GAP_BEFORE], L[i, LAST_ID]
    L[i, GAP_BEFORE] = NONE
    _add_gap(i, before + 1, last - 1, L, gaps)
    return _find(ID_GAP, i, L[i, GAP_OFFSET], L[i, GAP_TIME], float(last - before - 1), float(before + 1), counts, most, found, numbers, n)


@njit(cache=True, nogil=True)
def _trade_id(i: int, number: int, time: int, a: float, b: float, offset: int, filled: bool, L: Any, ids: Any, contents: Any, gaps: Any,
              counts: Any, most: int, found: Any, numbers: Any, n: int) -> Any:  # fmt: skip
    """Check ids that grow by one.

    A jump is judged when its successor arrives. If the successor continues where the jump began, the one id was altered.
    """
    last = L[i, LAST_ID]
    if last == NONE:
        L[i, LAST_ID] = number
        L[i, FIRST_ID] = number
        return NEW, n
    if L[i, GAP_BEFORE] != NONE:
        before = L[i, GAP_BEFORE]
        if number == before + 2 and _known(i, number, time, a, b, ids, contents) != 1:
            n = _find(ALTERED_ID, i, L[i, GAP_OFFSET], L[i, GAP_TIME], float(last), float(before + 1), counts, most, found, numbers, n)
            L[i, GAP_BEFORE] = NONE
            L[i, LAST_ID] = number
            return NEW, n
        n = _gap_is_real(i, L, gaps, counts, most, found, numbers, n)
    if number == last + 1 or (L[i, SKIPPED] and number == last + 2):
        L[i, SKIPPED] = 0
        L[i, LAST_ID] = number
        return NEW, n
    if number > last:
        L[i, SKIPPED] = 0
        L[i, GAP_BEFORE] = last
        L[i, GAP_TIME] = time
        L[i, GAP_OFFSET] = offset
        L[i, LAST_ID] = number
        return NEW, n
    gap = _in_gap(i, number, L, gaps)
    known = _known(i, number, time, a, b, ids, contents)
    if gap >= 0 and known == 0:
        gaps[i, gap, 2] -= 1
        if gaps[i, gap, 2] == 0:
            n = _find(GAP_REPAIRED, i, offset, time, float(gaps[i, gap, 1]), float(gaps[i, gap, 0]), counts, most, found, numbers, n)
            for h in range(gap, L[i, GAPS] - 1):
                for k in range(3):
                    gaps[i, h, k] = gaps[i, h + 1, k]
            L[i, GAPS] -= 1
        return NEW, n
    if filled and number < L[i, FIRST_ID]:  # history loaded before the first record
        return NEW, n
    if known == 1 or (known == 0 and (filled or time < L[i, LAST_TIME])):
        return OLD, _find(DUPLICATE, i, offset, time, float(number), float(last), counts, most, found, numbers, n)
    L[i, SKIPPED] = 1
    return OLD, _find(ALTERED_ID, i, offset, time, float(number), float(last + 1), counts, most, found, numbers, n)


@njit(cache=True, nogil=True)
def _update_id(i: int, number: int, time: int, a: float, b: float, offset: int, L: Any, ids: Any, contents: Any,
               counts: Any, most: int, found: Any, numbers: Any, n: int) -> Any:  # fmt: skip
    """Check ids that grow by any number.

    For an id below the last one, either is wrong: this one, or the last if this one fits the record before it.
    """
    last = L[i, LAST_ID]
    if last == NONE:
        L[i, LAST_ID] = number
        L[i, PREVIOUS_ID] = number
        return NEW, n
    if number > last:
        L[i, PREVIOUS_ID] = last
        L[i, LAST_ID] = number
        return NEW, n
    known = _known(i, number, time, a, b, ids, contents)
    if known == 1:
        return OLD, _find(DUPLICATE, i, offset, time, float(number), float(last), counts, most, found, numbers, n)
    if number == last:
        return NEW, n  # some venues put several changes under one id
    if known == 0 and number > L[i, PREVIOUS_ID] and time >= L[i, LAST_TIME]:
        n = _find(ALTERED_ID, i, L[i, LAST_OFFSET], L[i, LAST_TIME], float(last), float(number), counts, most, found, numbers, n)
        L[i, LAST_ID] = number
        return NEW, n
    if time < L[i, LAST_TIME]:
        return OLD, _find(DUPLICATE, i, offset, time, float(number), float(last), counts, most, found, numbers, n)
    return OLD, _find(ALTERED_ID, i, offset, time, float(number), float(last), counts, most, found, numbers, n)


@njit(cache=True, nogil=True)
def _renew_band(i: int, L: Any, D: Any, prices: Any, band: float, mads: float) -> None:
    count = min(L[i, PRICES], PRICE_MEMORY)
    known = np.sort(prices[i, :count])
    middle = known[count // 2] if count % 2 else (known[count // 2 - 1] + known[count // 2]) / 2.0
    away = np.sort(np.abs(known - middle))
    deviation = away[count // 2] if count % 2 else (away[count // 2 - 1] + away[count // 2]) / 2.0
    D[i, MEDIAN] = middle
    D[i, EDGE] = max(band * middle, mads * 1.4826 * deviation)


@njit(cache=True, nogil=True)
def _keep_price(i: int, price: float, L: Any, D: Any, prices: Any, band: float, mads: float) -> None:
    prices[i, L[i, PRICES] % PRICE_MEMORY] = price
    L[i, PRICES] += 1
    if L[i, PRICES] >= PRICES_LEAST and (L[i, PRICES] == PRICES_LEAST or L[i, PRICES] % RENEW == 0):
        _renew_band(i, L, D, prices, band, mads)


@njit(cache=True, nogil=True)
def release_suspects(
    i: int, L: Any, D: Any, pending: Any, pending_prices: Any, counts: Any, most: int, found: Any, numbers: Any, n: int
) -> int:
    """Report each of the suspects that waited for successors as an outlier."""
    side = L[i, PENDING_SIDE]
    for p in range(L[i, PENDING]):
        edge = D[i, MEDIAN] + side * D[i, EDGE]
        n = _find(OUTLIER, i, pending[i, p, 0], pending[i, p, 1], pending_prices[i, p], edge, counts, most, found, numbers, n)
    L[i, PENDING] = 0
    return n


@njit(cache=True, nogil=True)
def _price(i: int, price: float, offset: int, time: int, L: Any, D: Any, prices: Any, pending: Any, pending_prices: Any, band: float, mads: float,
           counts: Any, most: int, found: Any, numbers: Any, n: int) -> int:  # fmt: skip
    if L[i, PRICES] < PRICES_LEAST:
        _keep_price(i, price, L, D, prices, band, mads)
        return n
    if abs(price - D[i, MEDIAN]) > D[i, EDGE]:
        _renew_band(i, L, D, prices, band, mads)
    away = price - D[i, MEDIAN]
    if abs(away) <= D[i, EDGE]:
        if L[i, PENDING]:
            n = release_suspects(i, L, D, pending, pending_prices, counts, most, found, numbers, n)
        _keep_price(i, price, L, D, prices, band, mads)
        return n
    side = 1 if away > 0 else -1
    if L[i, PENDING] and L[i, PENDING_SIDE] != side:
        n = release_suspects(i, L, D, pending, pending_prices, counts, most, found, numbers, n)
    L[i, PENDING_SIDE] = side
    p = L[i, PENDING]
    pending[i, p, 0] = offset
    pending[i, p, 1] = time
    pending_prices[i, p] = price
    L[i, PENDING] = p + 1
    if p + 1 == FOLLOWERS:
        edge = D[i, MEDIAN] + side * D[i, EDGE]
        n = _find(JUMP, i, pending[i, 0, 0], pending[i, 0, 1], pending_prices[i, 0], edge, counts, most, found, numbers, n)
        L[i, PRICES] = 0
        for q in range(FOLLOWERS):
            _keep_price(i, pending_prices[i, q], L, D, prices, band, mads)
        L[i, PENDING] = 0
    return n


@njit(cache=True, nogil=True)
def _side(
    i: int, side: int, time: int, offset: int, run: int, run_ms: int, L: Any, counts: Any, most: int, found: Any, numbers: Any, n: int
) -> int:
    if L[i, SIDE] != side:
        L[i, SIDE] = side
        L[i, RUN] = 1
        L[i, RUN_START] = time
        L[i, RUN_LAST] = time
        L[i, RUN_REPORTED] = 0
        return n
    if time > L[i, RUN_LAST]:
        L[i, RUN] += 1
        L[i, RUN_LAST] = time
    if L[i, RUN] >= run and time - L[i, RUN_START] >= run_ms and not L[i, RUN_REPORTED]:
        L[i, RUN_REPORTED] = 1
        n = _find(ONE_SIDED, i, offset, time, float(L[i, RUN]), float(run), counts, most, found, numbers, n)
    return n


@njit(cache=True, nogil=True)
def _positive(value: float) -> bool:
    return value > 0.0 and value < np.inf


@njit(cache=True, nogil=True)
def trades(instrument: Any, good: Any, time: Any, received: Any, offset: Any, number: Any, price: Any, quantity: Any, maker: Any, filled: Any, clocked: Any,
           limits: Any, L: Any, D: Any, ids: Any, contents: Any, gaps: Any, prices: Any, pending: Any, pending_prices: Any, counts: Any, usable: Any,
           found: Any, numbers: Any, most: int, skew_ms: int, delay_ms: int, band: float, mads: float, run: int, run_ms: int) -> int:  # fmt: skip
    """Check trades. ``usable`` marks those that may be compared with quotes. Returns the number of findings."""
    n = 0
    for r in range(len(instrument)):
        i = instrument[r]
        usable[r] = 0
        if i < 0:
            continue
        L[i, SEEN] = 1
        L[i, RECORDS] += 1
        if not good[r]:
            n = _find(UNDECODABLE, i, offset[r], time[r], np.nan, np.nan, counts, most, found, numbers, n)
            continue
        back = filled[r] != 0
        valid = True
        if not _positive(price[r]):
            n = _find(INVALID_VALUE, i, offset[r], time[r], price[r], 0.0, counts, most, found, numbers, n)
            valid = False
        elif not _positive(quantity[r]):
            n = _find(INVALID_VALUE, i, offset[r], time[r], quantity[r], 0.0, counts, most, found, numbers, n)
            valid = False
        status, n = _trade_id(
            i, number[r], time[r], price[r], quantity[r], offset[r], back, L, ids, contents, gaps, counts, most, found, numbers, n
        )
        if status == OLD:
            continue
        _remember(i, number[r], time[r], price[r], quantity[r], ids, contents)
        if back:
            continue
        n = _seen(i, L, offset[r], time[r], received[r], clocked[i], limits, counts, most, found, numbers, n, skew_ms, delay_ms)
        n = _side(i, maker[r], time[r], offset[r], run, run_ms, L, counts, most, found, numbers, n)
        if valid:
            usable[r] = 1
            n = _price(i, price[r], offset[r], time[r], L, D, prices, pending, pending_prices, band, mads, counts, most, found, numbers, n)
    return n


@njit(cache=True, nogil=True)
def quotes(instrument: Any, good: Any, time: Any, received: Any, offset: Any, number: Any, bid: Any, bid_size: Any, ask: Any, ask_size: Any, clocked: Any,
           limits: Any, L: Any, D: Any, ids: Any, contents: Any, prices: Any, pending: Any, pending_prices: Any, counts: Any, usable: Any,
           found: Any, numbers: Any, most: int, skew_ms: int, delay_ms: int, band: float, mads: float) -> int:  # fmt: skip
    """Check best quotes. The price for the outlier check is the middle. Returns the number of findings."""
    n = 0
    for r in range(len(instrument)):
        i = instrument[r]
        usable[r] = 0
        if i < 0:
            continue
        L[i, SEEN] = 1
        L[i, RECORDS] += 1
        if not good[r]:
            n = _find(UNDECODABLE, i, offset[r], time[r], np.nan, np.nan, counts, most, found, numbers, n)
            continue
        if number[r] > 0:  # 0: the venue has no ids
            status, n = _update_id(i, number[r], time[r], bid[r] + bid_size[r], ask[r] + ask_size[r], offset[r], L, ids, contents,
                                   counts, most, found, numbers, n)  # fmt: skip
            if status == OLD:
                continue
            _remember(i, number[r], time[r], bid[r] + bid_size[r], ask[r] + ask_size[r], ids, contents)
        n = _seen(i, L, offset[r], time[r], received[r], clocked[i], limits, counts, most, found, numbers, n, skew_ms, delay_ms)
        L[i, LAST_OFFSET] = offset[r]
        worst = 1.0
        for value in (ask_size[r], bid_size[r], ask[r], bid[r]):
            if not _positive(value):
                worst = value
        if not _positive(worst):
            n = _find(INVALID_VALUE, i, offset[r], time[r], worst, 0.0, counts, most, found, numbers, n)
            continue
        if bid[r] > ask[r]:
            n = _find(CROSSED, i, offset[r], time[r], bid[r], ask[r], counts, most, found, numbers, n)
            continue
        if bid[r] == ask[r]:
            n = _find(LOCKED, i, offset[r], time[r], bid[r], ask[r], counts, most, found, numbers, n)
        usable[r] = 1
        middle = (bid[r] + ask[r]) / 2.0
        n = _price(i, middle, offset[r], time[r], L, D, prices, pending, pending_prices, band, mads, counts, most, found, numbers, n)
    return n


@njit(cache=True, nogil=True)
def _levels(
    i: int, levels: Any, sizes: Any, sign: float, offset: int, time: int, counts: Any, most: int, found: Any, numbers: Any, n: int
) -> Any:
    """Check one side of a book, best first: valid numbers in order. NaN ends it. Returns (whether it is valid, n)."""
    for k in range(levels.shape[0]):
        if np.isnan(levels[k]) and np.isnan(sizes[k]):
            break
        if not _positive(levels[k]) or not _positive(sizes[k]):
            bad = sizes[k] if _positive(levels[k]) else levels[k]
            return False, _find(INVALID_VALUE, i, offset, time, bad, 0.0, counts, most, found, numbers, n)
        if k > 0 and sign * levels[k] >= sign * levels[k - 1]:
            return False, _find(BOOK_ORDER, i, offset, time, levels[k], levels[k - 1], counts, most, found, numbers, n)
    return True, n


@njit(cache=True, nogil=True)
def depth(instrument: Any, good: Any, time: Any, received: Any, offset: Any, epoch: Any, live: Any, number: Any, bids: Any, bid_sizes: Any, asks: Any,
          ask_sizes: Any, clocked: Any, limits: Any, L: Any, ids: Any, contents: Any, counts: Any, found: Any, numbers: Any, most: int, skew_ms: int,
          delay_ms: int) -> int:  # fmt: skip
    """Check books. Ids grow within an epoch; a new epoch means lost continuity. Returns the number of findings."""
    n = 0
    for r in range(len(instrument)):
        i = instrument[r]
        if i < 0:
            continue
        L[i, SEEN] = 1
        L[i, RECORDS] += 1
        if not good[r]:
            n = _find(UNDECODABLE, i, offset[r], time[r], np.nan, np.nan, counts, most, found, numbers, n)
            continue
        if not live[r]:
            if not L[i, INVALID]:
                n = _find(BOOK_INVALID, i, offset[r], time[r], float(epoch[r]), np.nan, counts, most, found, numbers, n)
            L[i, INVALID] = 1
            continue
        L[i, INVALID] = 0
        a, b = bids[r, 0] + bid_sizes[r, 0], asks[r, 0] + ask_sizes[r, 0]
        old = False
        if L[i, EPOCH] != NONE and epoch[r] != L[i, EPOCH]:
            old = epoch[r] < L[i, EPOCH] and _known(i, number[r], time[r], a, b, ids, contents) == 1
            if old:
                n = _find(DUPLICATE, i, offset[r], time[r], float(number[r]), float(L[i, LAST_ID]), counts, most, found, numbers, n)
            else:
                n = _find(RESYNC, i, offset[r], time[r], float(epoch[r]), float(L[i, EPOCH]), counts, most, found, numbers, n)
                L[i, LAST_ID] = NONE
        if old:
            continue
        L[i, EPOCH] = epoch[r]
        status, n = _update_id(i, number[r], time[r], a, b, offset[r], L, ids, contents, counts, most, found, numbers, n)
        if status == OLD:
            continue
        _remember(i, number[r], time[r], a, b, ids, contents)
        n = _seen(i, L, offset[r], time[r], received[r], clocked[i], limits, counts, most, found, numbers, n, skew_ms, delay_ms)
        L[i, LAST_OFFSET] = offset[r]
        well, n = _levels(i, bids[r], bid_sizes[r], 1.0, offset[r], time[r], counts, most, found, numbers, n)
        if well:
            well, n = _levels(i, asks[r], ask_sizes[r], -1.0, offset[r], time[r], counts, most, found, numbers, n)
        if well and bids[r, 0] > asks[r, 0]:
            n = _find(CROSSED, i, offset[r], time[r], bids[r, 0], asks[r, 0], counts, most, found, numbers, n)
        elif well and bids[r, 0] == asks[r, 0]:
            n = _find(LOCKED, i, offset[r], time[r], bids[r, 0], asks[r, 0], counts, most, found, numbers, n)
    return n


@njit(cache=True, nogil=True)
def plain(instrument: Any, good: Any, time: Any, received: Any, offset: Any, bad: Any, value: Any, ordered: Any, clocked: Any, limits: Any, L: Any,
          counts: Any, found: Any, numbers: Any, most: int, skew_ms: int, delay_ms: int) -> int:  # fmt: skip
    """Check records without ids. ``bad`` marks those with an impossible ``value``, ``ordered`` those whose times must not run back."""
    n = 0
    for r in range(len(instrument)):
        i = instrument[r]
        if i < 0:
            continue
        L[i, SEEN] = 1
        L[i, RECORDS] += 1
        if not good[r]:
            n = _find(UNDECODABLE, i, offset[r], time[r], np.nan, np.nan, counts, most, found, numbers, n)
            continue
        if bad[r]:
            n = _find(INVALID_VALUE, i, offset[r], time[r], value[r], 0.0, counts, most, found, numbers, n)
        if ordered[r]:
            n = _seen(i, L, offset[r], time[r], received[r], clocked[i], limits, counts, most, found, numbers, n, skew_ms, delay_ms)
        elif L[i, LAST_TIME] == NONE or time[r] > L[i, LAST_TIME]:
            L[i, LAST_TIME] = time[r]
            L[i, PREVIOUS_TIME] = time[r]
            L[i, IS_STALE] = 0
    return n


@njit(cache=True, nogil=True)
def settle_waiting(rows: Any, now: int, wait_ms: int, L: Any, D: Any, gaps: Any, pending: Any, pending_prices: Any, counts: Any, most: int,
                   found: Any, numbers: Any) -> int:  # fmt: skip
    """Judge what has waited long enough for a successor: jumps of ids become gaps, suspects become outliers.

    Returns the number of findings.
    """
    n = 0
    for i in rows:
        if L[i, GAP_BEFORE] != NONE and now - L[i, GAP_TIME] >= wait_ms:
            n = _gap_is_real(i, L, gaps, counts, most, found, numbers, n)
        if L[i, PENDING] and now - pending[i, L[i, PENDING] - 1, 1] >= wait_ms:
            n = release_suspects(i, L, D, pending, pending_prices, counts, most, found, numbers, n)
    return n
