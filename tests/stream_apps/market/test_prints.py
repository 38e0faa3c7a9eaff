"""The kept prints against a plain twin that holds them in a list and looks through all of them every time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_apps.core.market.columns import LARGE, WHALE
from stream_apps.core.market.prints import PRINT, PrintStore
from stream_apps.core.market.snapshot import Prints, whale_flow
from tests.support.markets.scoring_cases import relaxed

GRID, WINDOW, WHALE_USD = 10, 4, 50.0
INSTRUMENTS = 3
LEAST = np.array([np.nan, 20.0, 20.0, 80.0, 80.0])
OF_WHALES = np.array([False, False, True, True, False])
# Every strategy about every instrument, the first two of each twice.
ASKED = np.array([(place, row) for row in range(INSTRUMENTS) for place in (*range(len(LEAST)), 0, 1)])

Row = tuple[int, int, int, float, float, bool, int]


def pane_of(time: int) -> int:
    """Panes are (start, end]."""
    return -(-time // GRID)


@dataclass
class Plain:
    """What is kept and what is seen, in plain words."""

    rows: list[Row] = field(default_factory=list)
    pane: dict[int, int] = field(default_factory=dict)

    def keep(self, rows: list[Row]) -> None:
        self.rows += [row for row in rows if row[0] > 0 and pane_of(row[0]) > self.pane.get(row[2], 0) - WINDOW]

    def advance(self, chosen: list[int], pane: int) -> None:
        self.pane |= dict.fromkeys(chosen, pane)
        self.rows = [row for row in self.rows if row[2] not in chosen or pane_of(row[0]) > pane - WINDOW]

    def of(self, instrument: int, first: int, last: int) -> list[Row]:
        return sorted(row for row in self.rows if row[2] == instrument and first <= pane_of(row[0]) <= last)

    def seen(self, instrument: int, flag: int, least: float = 0.0) -> Prints:
        now = self.pane.get(instrument, 0)
        rows = [row for row in self.of(instrument, now - WINDOW + 1, now) if row[6] & flag and row[3] * row[4] >= least]
        return Prints(
            np.array([row[3] for row in rows]), np.array([row[4] for row in rows]), np.array([row[5] for row in rows], dtype=np.bool_)
        )


def array_of(rows: list[Row]) -> Any:
    return np.array(rows, dtype=PRINT)


def store_of() -> PrintStore:
    store = PrintStore(GRID, WINDOW, WHALE_USD)
    store.grow(INSTRUMENTS)
    return store


def of_pane(store: PrintStore, instruments: Any, pane: int) -> Any:
    rows, ends = store.of_panes(instruments, np.array([len(instruments)]), np.array([pane]))
    assert ends.tolist() == [len(rows)]
    return rows


def put(store: PrintStore, rows: list[Row]) -> None:
    store.keep(array_of(rows), len(rows))


def same(prints: Prints, plain: Prints) -> bool:
    return all(np.array_equal(getattr(prints, name), getattr(plain, name)) for name in ("price", "quantity", "taker_buy"))


def hold_to(store: PrintStore, plain: Plain, chosen: list[int]) -> None:
    """What instruments see at an instant at which they all fired."""
    flows = store.flows_of(ASKED, np.arange(INSTRUMENTS), LEAST, OF_WHALES)
    for i in chosen:
        large = plain.seen(i, LARGE)
        bought = int(large.taker_buy.sum())
        assert store.counts[i].tolist() == [bought, len(large.price) - bought]
        assert same(store.large(i), large) and same(store.whales(i), plain.seen(i, WHALE))
        flow = store.flows[i]
        assert (None if np.isnan(flow) else flow) == whale_flow(plain.seen(i, WHALE, WHALE_USD), 0.0)
    for (place, i), flow in zip(ASKED.tolist(), flows.tolist(), strict=True):
        if i in chosen:
            asks = not np.isnan(LEAST[place])
            wanted = whale_flow(plain.seen(i, WHALE if OF_WHALES[place] else LARGE), LEAST[place]) if asks else None
            assert (None if np.isnan(flow) else flow) == wanted


# Times run on with the steps; a share of the prints is late by more than a window, or ahead.
PRINTS = st.tuples(
    st.integers(-6 * GRID, 3 * GRID),
    st.integers(0, INSTRUMENTS - 1),
    st.sampled_from([1.0, 1.1, 2.3, 7.7]),
    st.sampled_from([3.0, 7.1, 20.0, 31.0]),
    st.booleans(),
    st.sampled_from([LARGE, WHALE, LARGE | WHALE]),
)
STEPS = st.tuples(st.lists(st.lists(PRINTS, max_size=12), max_size=3), st.sets(st.integers(0, INSTRUMENTS - 1)), st.integers(1, 6))


@given(st.lists(STEPS, max_size=14), st.integers(1, 80))
@relaxed(max_examples=150)
def test_windows_equal_those_of_the_plain_twin(steps: list[Any], repeat: int) -> None:
    """``repeat``: so often a print of an instrument comes, so that rooms are filled, moved and given up."""
    store, plain, offset, pane = store_of(), Plain(), 0, 0
    for n, (batches, chosen, ahead) in enumerate(steps):
        for batch in batches:
            rows: list[Row] = []
            for back, *values in batch:
                for again in range(repeat if values[0] == n % INSTRUMENTS else 1):
                    rows.append((pane * GRID + back + again % 7, offset, *values))  # type: ignore[arg-type]
                    offset += 1
            put(store, rows)
            plain.keep(rows)
        pane += ahead
        fired = sorted(chosen)
        store.advance(np.array(fired, dtype=np.int64), pane)
        plain.advance(fired, pane)
        hold_to(store, plain, fired)
        everyone = np.arange(INSTRUMENTS)
        for one in range(pane - WINDOW - 2, pane + 3):
            assert of_pane(store, everyone, one).tolist() == [row for i in range(INSTRUMENTS) for row in plain.of(i, one, one)]
        closed = np.array([plain.pane.get(i, 0) for i in range(INSTRUMENTS)])
        assert store.after(closed).tolist() == [row for i in range(INSTRUMENTS) for row in plain.of(i, closed[i] + 1, 10**9)]
    # A store that was restored goes on as if nothing had happened: panes in any order, then what lies in no closed pane.
    restored = store_of()
    for one in sorted(range(pane - WINDOW + 1, pane + 1), key=lambda p: p % 3):
        closed_then = np.array([i for i in range(INSTRUMENTS) if plain.pane.get(i, 0) >= one], dtype=np.int64)
        rows = of_pane(store, closed_then, one).tolist()
        put(restored, rows)
    put(restored, store.after(np.array([plain.pane.get(i, 0) for i in range(INSTRUMENTS)])).tolist())
    everyone_now = np.arange(INSTRUMENTS)
    restored.advance(everyone_now, pane + 1)
    plain.advance(everyone_now.tolist(), pane + 1)
    hold_to(restored, plain, everyone_now.tolist())


def test_memory_does_not_grow_with_time() -> None:
    store = store_of()
    size = 0
    for pane in range(1, 2_000):
        put(store, [(pane * GRID, pane * 40 + n, n % INSTRUMENTS, 2.0, 30.0, True, LARGE | WHALE) for n in range(40)])
        store.advance(np.arange(INSTRUMENTS), pane)
        if pane == 100:
            size = len(store._rows)
    assert size < 10 * 40 * WINDOW + 1_000
    assert len(store._rows) == size


def test_a_thousand_late_prints_are_merged_into_place_at_once() -> None:
    """As after a connection was away: what it missed comes in one piece, older than what others wrote meanwhile."""
    store, plain = store_of(), Plain()
    newer: list[Row] = [(30 + n // 100, n, 0, 1.0 + n, 30.0, n % 3 > 0, LARGE | WHALE) for n in range(1_000)]
    older: list[Row] = [(30 - n // 100, 1_000 + n, 0, 3.0 + n, 20.0, n % 2 > 0, WHALE) for n in range(1_000)]
    for rows in (newer, older):
        put(store, rows)
        plain.keep(rows)
    for pane in (3, 4, 5):
        store.advance(np.array([0]), pane)
        plain.advance([0], pane)
        hold_to(store, plain, [0])
