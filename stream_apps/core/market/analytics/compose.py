"""The compiled loops over panes and instants that call the measures, one call each per batch.

Numba caches compiled code by the source of the function. It ignores the functions that it calls in other files. So the two loops are made
inside functions that close over a number computed from all of these sources (``stamp``). Numba's cache key holds what a function closes
over, so a changed measure is compiled again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from stream_apps.core.kernel_fingerprint import stamp
from stream_apps.core.market import columns as col
from stream_apps.core.market.analytics import int128
from stream_apps.core.market.analytics.measures import basis, divergence, funding, kyle, liquidation, microprice, ofi, volatility, vpin
from stream_apps.core.market.kernels import input_kernels

# Columns of ``row`` (int64 per instrument): the ring of panes, its sums and those of OFI, the newest quote, the newest liquidation's cap,
# scratch of one call.
SINCE, CLOSE, SUM_X, SUM_D, SUM_R, OFI_SUM = 0, 1, 2, 3, 4, 7
QUOTE_SINCE, QUOTE_TIME, QUOTE_ID, BID, BID_LOTS, ASK, ASK_LOTS = range(9, 16)
CAP, CAP_TIME = range(16, 18)
CHOSEN, AUTOMATIC = range(18, 20)
N_ROW = 20
# Of ``products`` (128 bits each): x x, x d, d d and r r over the three windows of volatility.
XX, XD, DD, RR = range(4)
N_PRODUCTS = 6
# Columns of ``flows``, per pane: net taker lots, price change, OFI.
X, D, OFI = range(3)
N_FLOWS = 3
# Columns of ``number``. The last five are columns of the feature row that the market state has filled.
(
    GRID, KYLE_PANES, RV_PANES, OFI_PANES, DAY_PANES, BUCKETS_PER_DAY, STALE_BOOK, FUNDING_WINDOW, FUNDING_MIN, BARS_BEFORE, PANES_A_YEAR,
    TAPE_ON, QUOTES_ON, MICROPRICE_ON, OFI_ON, VPIN_ON, BULK_ON, KYLE_ON, VOLATILITY_ON, LIQUIDATION_ON, FUNDING_ON, BASIS_ON, DIVERGENCE_ON,
    LONGS_AT, SHORTS_AT, RATE_AT, MARK_AT, INDEX_AT,
) = (0, 1, 2, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30)  # fmt: skip
N_NUMBERS = 31
# Columns of the waiting trades, quotes and liquidations; a liquidation has its cap as id.
INSTRUMENT, TIME, ID, LOTS = range(4)
TRADE_WIDTH, QUOTE_WIDTH, LIQUIDATION_WIDTH = 4, 7, 3
# Of ``waiting``, behind the three counts.
TRADES_MIXED, QUOTES_MIXED, N_WAITING = 3, 4, 5
# Columns of a feature row, in the order in which ``fill`` writes them.
FEATURES: tuple[str, ...] = (
    *microprice.FEATURES,
    *ofi.FEATURES,
    *vpin.FEATURES,
    *kyle.FEATURES,
    *volatility.FEATURES,
    *liquidation.FEATURES,
    *funding.FEATURES,
    *basis.FEATURES,
    *divergence.FEATURES,
)


@njit(cache=True, nogil=True)
def _sort(waiting: Any, n: int) -> None:
    """Sort the first ``n`` entries by time and id."""
    order = np.argsort(waiting[:n, ID], kind="mergesort")
    order = order[np.argsort(waiting[:n, TIME][order], kind="mergesort")]
    waiting[:n] = waiting[:n][order]


@njit(cache=True, nogil=True)
def _stays(waiting: Any, e: int, stay: int) -> Any:
    """Move an entry that is not due to the front, behind those before it. Returns how many stay."""
    if stay != e:
        for j in range(waiting.shape[1]):
            waiting[stay, j] = waiting[e, j]
    return stay + 1


@njit(cache=True, nogil=True)
def _tape(i: int, pane: int, x: Any, d: Any, r: Any, number: Any, row: Any, products: Any, flows: Any, returns: Any) -> None:
    """Append a pane to the ring. Its net flow, price change and return enter the windows; those of the panes that leave are subtracted."""
    short, ring = flows.shape[1], returns.shape[1]
    then = (pane - number[KYLE_PANES]) % short
    old_x, old_d = flows[i, then, X], flows[i, then, D]
    if old_x != 0 or old_d != 0:
        row[i, SUM_X] -= old_x
        row[i, SUM_D] -= old_d
        int128.add(products[i, XX], -old_x, old_x)
        int128.add(products[i, XD], -old_x, old_d)
        int128.add(products[i, DD], -old_d, old_d)
    if x != 0 or d != 0:
        row[i, SUM_X] += x
        row[i, SUM_D] += d
        int128.add(products[i, XX], x, x)
        int128.add(products[i, XD], x, d)
        int128.add(products[i, DD], d, d)
    for w in range(3):
        old = returns[i, (pane - number[RV_PANES + w]) % ring]
        if old != 0:
            row[i, SUM_R + w] -= old
            int128.add(products[i, RR + w], -old, old)
        if r != 0:
            row[i, SUM_R + w] += r
            int128.add(products[i, RR + w], r, r)
    flows[i, pane % short, X] = x
    flows[i, pane % short, D] = d
    returns[i, pane % ring] = r


@njit(cache=True, nogil=True)
def _pane(
    i: int, pane: int, closed: int, number: Any, meta: Any, cumulative: Any, open_sum: Any, open_price: Any, row: Any, products: Any, flows: Any, returns: Any,
    clock: Any, buckets: Any,
) -> None:  # fmt: skip
    """Begin a pane's flows with the trades of the pane."""
    short = flows.shape[1]
    if number[QUOTES_ON]:
        for w in range(2):
            row[i, OFI_SUM + w] -= flows[i, (pane - number[OFI_PANES + w]) % short, OFI]
    flows[i, pane % short, OFI] = 0
    if (number[VPIN_ON] or number[BULK_ON]) and row[i, AUTOMATIC] == 1:
        fresh_day = pane * number[GRID] % 86_400_000 == 0
        day = number[DAY_PANES]
        if (
            (clock[i, vpin.TRUE, vpin.NEXT] == 0 or fresh_day)
            and meta[i, col.FIRST_PANE] >= 0
            and closed - meta[i, col.FIRST_PANE] + 1 >= day
        ):
            ring = cumulative.shape[1]
            volume = np.int64(0)
            for side in (col.BUY, col.SELL):
                volume += cumulative[i, closed % ring, side] - cumulative[i, (closed - day) % ring, side]
            if volume > 0:
                for kind in (vpin.TRUE, vpin.BULK):
                    clock[i, kind, vpin.NEXT] = max(volume // number[BUCKETS_PER_DAY], 1)
    if not number[TAPE_ON]:
        return
    s = pane % col.AHEAD
    x = d = r = np.int64(0)
    traded = open_sum[i, s, col.COUNT] > 0
    if traded:
        close = open_price[i, s, 3]
        x = open_sum[i, s, col.BUY] - open_sum[i, s, col.SELL]
        if row[i, SINCE] < 0:
            row[i, SINCE] = pane
        else:
            d = close - row[i, CLOSE]
            if d != 0:
                r = volatility.log_return(close, row[i, CLOSE])
        row[i, CLOSE] = close
    _tape(i, pane, x, d, r, number, row, products, flows, returns)
    n = number[KYLE_PANES]
    if number[BULK_ON] and traded and row[i, SINCE] >= 0 and pane - n >= row[i, SINCE]:
        volume = open_sum[i, s, col.BUY] + open_sum[i, s, col.SELL]
        buy = vpin.bought(volume, d, kyle.deviation(n, row[i, SUM_D], products[i, DD]))
        vpin.fill_buckets(clock, buckets, i, vpin.BULK, buy, volume - buy)


@njit(cache=True, nogil=True)
def _quote(i: int, quotes: Any, e: int, pane: int, closed: int, number: Any, row: Any, flows: Any) -> None:
    """Take a quote. Its order-flow event goes to its pane; a late one goes to the next pane that closes. It becomes the newest quote."""
    time = quotes[e, TIME]
    of = max((time + number[GRID] - 1) // number[GRID], closed + 1)
    if row[i, QUOTE_SINCE] >= 0:
        if time < row[i, QUOTE_TIME] or (time == row[i, QUOTE_TIME] and quotes[e, ID] < row[i, QUOTE_ID]):
            return
        flow = ofi.event(
            row[i, BID], row[i, BID_LOTS], row[i, ASK], row[i, ASK_LOTS],
            quotes[e, 3], quotes[e, 4], quotes[e, 5], quotes[e, 6],
        )  # fmt: skip
        flows[i, of % flows.shape[1], OFI] += flow
        for w in range(2):
            if of > pane - number[OFI_PANES + w]:
                row[i, OFI_SUM + w] += flow
    else:
        row[i, QUOTE_SINCE] = of
    row[i, QUOTE_TIME] = time
    row[i, QUOTE_ID] = quotes[e, ID]
    for j in range(4):
        row[i, BID + j] = quotes[e, 3 + j]


def _make_close(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def close(
        chosen: Any, pane: int, number: Any, meta: Any, cumulative: Any, open_sum: Any, open_price: Any, row: Any, products: Any, flows: Any, returns: Any,
        clock: Any, buckets: Any, trades: Any, quotes: Any, liquidations: Any, waiting: Any,
    ) -> None:  # fmt: skip
        """Add the panes up to ``pane`` of the chosen instruments to the windows. Must run before ``close_panes``, which empties them.

        ``waiting``: how many trades, quotes and liquidations wait, and whether trades or quotes are out of order.
        """
        stamp  # noqa: B018 - see the module
        for c in range(len(chosen)):
            i = chosen[c]
            row[i, CHOSEN] = 1
            for p in range(meta[i, col.CLOSED] + 1, pane + 1):
                _pane(
                    i, p, meta[i, col.CLOSED], number, meta, cumulative, open_sum, open_price, row, products, flows, returns, clock, buckets,
                )  # fmt: skip
        limit = pane * number[GRID]
        n, stay = waiting[0], 0
        if waiting[TRADES_MIXED]:
            _sort(trades, n)
        for e in range(n):
            i = trades[e, INSTRUMENT]
            if row[i, CHOSEN] == 1 and trades[e, TIME] <= limit:
                lots = trades[e, LOTS]
                vpin.fill_buckets(clock, buckets, i, vpin.TRUE, max(lots, 0), max(-lots, 0))
            else:
                stay = _stays(trades, e, stay)
        waiting[0] = stay
        waiting[TRADES_MIXED] = 0
        n, stay = waiting[1], 0
        if waiting[QUOTES_MIXED]:
            _sort(quotes, n)
        for e in range(n):
            i = quotes[e, INSTRUMENT]
            if row[i, CHOSEN] == 1 and quotes[e, TIME] <= limit:
                _quote(i, quotes, e, pane, meta[i, col.CLOSED], number, row, flows)
            else:
                stay = _stays(quotes, e, stay)
        waiting[1] = stay
        waiting[QUOTES_MIXED] = 0
        n, stay = waiting[2], 0
        for e in range(n):
            i, time = liquidations[e, INSTRUMENT], liquidations[e, TIME]
            if row[i, CHOSEN] == 0 or time > limit:
                stay = _stays(liquidations, e, stay)
            elif time > row[i, CAP_TIME] or (time == row[i, CAP_TIME] and liquidations[e, ID] > row[i, CAP]):
                # Of two at one time the larger cap holds, so that their order does not matter.
                row[i, CAP_TIME] = time
                row[i, CAP] = liquidations[e, ID]
        waiting[2] = stay
        for c in range(len(chosen)):
            row[chosen[c], CHOSEN] = 0

    return close


def _make_fill(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def fill(
        chosen: Any, spot: Any, pane: int, number: Any, scale: Any, in_pane: Any, in_at: Any, in_value: Any, first_seen: Any, row: Any, products: Any,
        clock: Any, buckets: Any, rate_times: Any, rates: Any, rate_counts: Any, stats: Any, stats_of: Any, bars: Any, at: int, out: Any,
    ) -> None:  # fmt: skip
        """Write one row of FEATURES per chosen instrument, from column ``at`` of ``out`` on (NaN before the call).

        The columns before it are filled.
        """
        stamp  # noqa: B018 - see the module
        grid = number[GRID]
        instant = pane * grid
        book, n_buckets, kyle_panes = number[STALE_BOOK], buckets.shape[2], number[KYLE_PANES]
        for c in range(len(chosen)):
            i = chosen[c]
            price, quantity = scale[i, 0], scale[i, 1]
            fresh = row[i, QUOTE_SINCE] >= 0 and instant - row[i, QUOTE_TIME] <= book
            if number[MICROPRICE_ON]:
                if fresh:
                    out[c, at] = microprice.value(row[i, BID] / price, row[i, BID_LOTS], row[i, ASK] / price, row[i, ASK_LOTS])
                _, _, out[c, at + 1] = input_kernels.newest_input(i, col.OBI, instant, book, grid, in_pane, in_at, in_value, first_seen)
            if number[OFI_ON] and fresh:
                for w in range(2):
                    if pane - row[i, QUOTE_SINCE] >= number[OFI_PANES + w]:
                        out[c, at + 2 + w] = row[i, OFI_SUM + w] / quantity
            if number[VPIN_ON]:
                out[c, at + 4] = vpin.value(clock[i, vpin.TRUE], n_buckets)
            if number[BULK_ON]:
                out[c, at + 5] = vpin.value(clock[i, vpin.BULK], n_buckets)
            if (number[VPIN_ON] or number[BULK_ON]) and clock[i, vpin.TRUE, vpin.NEXT] > 0:
                out[c, at + 6] = clock[i, vpin.TRUE, vpin.NEXT] / quantity
            if row[i, SINCE] >= 0:
                known = pane - row[i, SINCE]
                if number[KYLE_ON] and known >= kyle_panes:
                    slope = kyle.value(kyle_panes, row[i, SUM_X], row[i, SUM_D], products[i, XX], products[i, XD])
                    out[c, at + 7] = slope * quantity / price
                if number[VOLATILITY_ON]:
                    for w in range(3):
                        panes = number[RV_PANES + w]
                        if known >= panes:
                            out[c, at + 8 + w] = volatility.value(panes, row[i, SUM_R + w], products[i, RR + w], number[PANES_A_YEAR])
            if number[LIQUIDATION_ON]:
                out[c, at + 11] = liquidation.value(out[c, number[LONGS_AT]], out[c, number[SHORTS_AT]])
                if not np.isnan(out[c, at + 11]) and row[i, CAP] != liquidation.NO_CAP:
                    out[c, at + 12] = row[i, CAP]
            if number[FUNDING_ON]:
                rate = out[c, number[RATE_AT]]
                if not np.isnan(rate):
                    for kind in (funding.SETTLED, funding.ESTIMATED):
                        out[c, at + 13 + kind] = funding.zscore(
                            rate, rate_times[i], rates[i], rate_counts[i], stats[i], stats_of[i], kind, instant, number[FUNDING_WINDOW],
                            number[FUNDING_MIN],
                        )  # fmt: skip
            if number[BASIS_ON]:
                mark = out[c, number[MARK_AT]]
                _, bid, ask = input_kernels.newest_input(spot[c], col.QUOTE, instant, book, grid, in_pane, in_at, in_value, first_seen)
                out[c, at + 15] = basis.value(mark, out[c, number[INDEX_AT]])
                out[c, at + 16] = basis.value(mark, (bid + ask) / 2.0)
            if number[DIVERGENCE_ON]:
                for f in range(3):
                    out[c, at + 17 + f] = divergence.value(bars[i, f], number[BARS_BEFORE])

    return fill


def _make_sample(stamp: int) -> Any:
    @njit(cache=True, nogil=True)
    def sample(
        chosen: Any, hour: int, limit: int, grid: int, meta: Any, in_pane: Any, in_at: Any, in_value: Any, first_seen: Any, times: Any, rates: Any, counts: Any
    ) -> None:  # fmt: skip
        """Keep the estimated funding rate at a full hour, for the chosen instruments that are about to close it."""
        stamp  # noqa: B018 - see the module
        for i in chosen:
            if meta[i, col.CLOSED] * grid < hour:
                state, rate, _ = input_kernels.newest_input(i, col.FUNDING, hour, limit, grid, in_pane, in_at, in_value, first_seen)
                if state == col.PRESENT:
                    funding.put(times[i], rates[i], counts[i], funding.ESTIMATED, hour, rate)

    return sample


@njit(cache=True, nogil=True)
def resum(chosen: Any, closed: Any, number: Any, row: Any, products: Any, flows: Any, returns: Any) -> None:
    """Compute all sums again from the rings. ``closed``: newest pane of each instrument."""
    short, ring = flows.shape[1], returns.shape[1]
    for c in range(len(chosen)):
        i = chosen[c]
        for j in range(SUM_X, OFI_SUM + 2):
            row[i, j] = 0
        products[i] = 0
        for p in range(closed[c] - number[KYLE_PANES] + 1, closed[c] + 1):
            x, d = flows[i, p % short, X], flows[i, p % short, D]
            row[i, SUM_X] += x
            row[i, SUM_D] += d
            int128.add(products[i, XX], x, x)
            int128.add(products[i, XD], x, d)
            int128.add(products[i, DD], d, d)
        for w in range(3):
            for p in range(closed[c] - number[RV_PANES + w] + 1, closed[c] + 1):
                r = returns[i, p % ring]
                row[i, SUM_R + w] += r
                int128.add(products[i, RR + w], r, r)
        for w in range(2):
            for p in range(closed[c] - number[OFI_PANES + w] + 1, closed[c] + 1):
                row[i, OFI_SUM + w] += flows[i, p % short, OFI]


_STAMP = stamp(col, input_kernels, basis, divergence, funding, kyle, liquidation, microprice, ofi, volatility, vpin, int128)
close = _make_close(_STAMP)
fill = _make_fill(_STAMP)
sample = _make_sample(_STAMP)
