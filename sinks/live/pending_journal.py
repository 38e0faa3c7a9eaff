"""Decisions that are not in the database yet. They accumulate while the database is down, and are lost only if the process dies before it returns."""

from __future__ import annotations

from collections.abc import Iterable

from sinks.live.journal import trade_row
from stream_apps.core.execution.orders.events import Emit
from stream_apps.core.execution.state.trade import Trade


class PendingJournal:
    """The content of the next transaction: the newest state of each changed trade, and every record in order.

    Attributes:
        moved: True if the offsets of signals changed.
    """

    def __init__(self) -> None:
        self._trades: dict[str, tuple[str, str, int | None]] = {}
        self._records: list[Emit] = []
        self.moved = False

    def add(self, trades: Iterable[Trade], records: Iterable[Emit], moved: bool) -> None:
        """Add the changes of one step."""
        for trade in trades:
            self._trades[trade.key] = trade_row(trade)
        self._records += records
        self.moved = self.moved or moved

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to write."""
        return not (self._trades or self._records or self.moved)

    @property
    def trades(self) -> list[tuple[str, str, int | None]]:
        """Journal rows of the changed trades."""
        return list(self._trades.values())

    @property
    def records(self) -> list[Emit]:
        """Records for the outbox, in the order in which they were created."""
        return list(self._records)

    def clear(self) -> None:
        """Remove everything after it was written."""
        self._trades, self._records, self.moved = {}, [], False
