"""Send the requests of the execution book to the venue. Each request ends in an event.

Each symbol has a queue for exits and stops, one for entries, one for cancels of entries and targets, and one for queries. A queue sends one request at a
time and keeps the order. So a stop never waits for a late answer to an entry or for a page of fills.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from sinks.venues.common.adapter import (
    MalformedResponse,
    PairVenue,
    RateLimited,
    RequestRejected,
    TradingVenue,
    VenueError,
    VenueUnreachable,
)
from stream_apps.core.execution.orders.events import (
    Action,
    Cancel,
    CancelAnswered,
    Event,
    FillsLoaded,
    LoadFills,
    LoadPosition,
    Place,
    PlaceFailed,
    PlacePair,
    PositionLoaded,
    Query,
    QueryAnswered,
)
from stream_apps.core.execution.orders.venue_reports import OrderReport

EventSink = Callable[[Event], None]


class OrderDispatch:
    """Sends requests to the venue.

    Args:
        venue: An open venue.
        give: Receives the events.
        unreadable: Receives malformed answers; their outcome is unknown.
    """

    def __init__(self, venue: TradingVenue, give: EventSink, unreadable: Callable[[MalformedResponse], None]) -> None:
        self._venue, self._give, self._unreadable = venue, give, unreadable
        self._log = structlog.get_logger().bind(venue=venue.name)
        self._lanes: dict[tuple[str, str], asyncio.Queue[Action]] = {}
        self._workers: list[asyncio.Task[None]] = []
        self._waiting = 0

    @property
    def busy(self) -> int:
        """Number of requests that are queued or in flight."""
        return self._waiting

    def perform(self, action: Action) -> None:
        """Queue a request."""
        name = _lane_of(action)
        if name not in self._lanes:
            lane = self._lanes[name] = asyncio.Queue()
            self._workers.append(asyncio.create_task(self._work(lane), name="-".join(name)))
        self._waiting += 1
        self._lanes[name].put_nowait(action)

    async def close(self) -> None:
        """Stop. Queued requests are not sent; the next start treats their outcome as unknown and queries them."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self, lane: asyncio.Queue[Action]) -> None:
        while True:
            action = await lane.get()
            try:
                await self._one(action)
            finally:
                self._waiting -= 1

    def _one(self, action: Action) -> Coroutine[Any, Any, None]:
        match action:
            case Place():
                return self._place((action.request.client_order_id,), self._single(action))
            case PlacePair():
                names = action.pair.target.client_order_id, action.pair.stop.client_order_id
                return self._place(names, self._pair(action))
            case Cancel():
                return self._cancel(action)
            case Query():
                return self._query(action)
            case LoadFills() | LoadPosition():
                return self._load(action)
        raise AssertionError(f"not a request: {action!r}")

    async def _single(self, action: Place) -> Sequence[OrderReport]:
        return [await self._venue.place(action.request)]

    async def _pair(self, action: PlacePair) -> Sequence[OrderReport]:
        if not isinstance(self._venue, PairVenue):
            raise RequestRejected("not_supported", "", f"{self._venue.name} takes no pairs")
        return await self._venue.place_pair(action.pair)

    async def _place(self, names: tuple[str, ...], sending: Coroutine[Any, Any, Sequence[OrderReport]]) -> None:
        failed: dict[str, Any]
        try:
            for report in await sending:
                self._give(report)
            return
        except RequestRejected as error:
            self._log.info("order refused", client_order_id=names[0], reason=error.reason, code=error.code, message=error.message)
            failed = {"kind": "refused", "reason": error.reason, "message": error.message}
        except RateLimited as error:
            failed = {"kind": "limited", "message": str(error), "retry_after_ms": int(error.retry_after * 1000)}
        except VenueUnreachable as error:
            failed = {"kind": "unreachable", "message": str(error)}
        except Exception as error:  # any other error leaves the outcome unknown
            if isinstance(error, MalformedResponse):
                self._unreadable(error)
            self._log.warning("outcome of an order unknown", client_order_id=names[0], error=f"{type(error).__name__}: {error}")
            failed = {"kind": "unknown", "message": str(error)}
        for name in names:
            self._give(PlaceFailed(name, **failed))

    async def _cancel(self, action: Cancel) -> None:
        try:
            self._give(CancelAnswered(action.client_id, await self._venue.cancel(action.symbol, action.client_id, action.conditional)))
        except Exception as error:
            self._log_failure("cancel", error)
            self._give(CancelAnswered(action.client_id, None, failed=True))

    async def _query(self, action: Query) -> None:
        try:
            self._give(QueryAnswered(action.client_id, await self._venue.query(action.symbol, action.client_id, action.conditional)))
        except Exception as error:
            self._log_failure("query", error)
            self._give(QueryAnswered(action.client_id, None, failed=True))

    async def _load(self, action: LoadFills | LoadPosition) -> None:
        try:
            self._give(FillsLoaded(action.symbol, await self._venue.fills(action.symbol, action.since)))
            if isinstance(action, LoadPosition):
                held = {one.symbol: one for one in await self._venue.positions()}
                self._give(PositionLoaded(action.symbol, held.get(action.symbol)))
        except Exception as error:
            self._log_failure("load", error)
            self._give(FillsLoaded(action.symbol, (), failed=True))

    def _log_failure(self, what: str, error: Exception) -> None:
        """Log a failed request: errors of a venue are expected, any other error is a defect. The book continues from the event in both cases."""
        if isinstance(error, MalformedResponse):
            self._unreadable(error)
        elif isinstance(error, VenueError):
            self._log.info("the venue did not answer", request=what, reason=str(error))
        else:
            self._log.error("a request failed", request=what, error=f"{type(error).__name__}: {error}")


def _lane_of(action: Action) -> tuple[str, str]:
    match action:
        case Place():
            return action.request.symbol, "exit" if action.request.reduce_only else "entry"
        case PlacePair():
            return action.pair.stop.symbol, "exit"
        case Cancel():
            return action.symbol, "exit" if action.conditional else "cancel"
        case Query() | LoadFills() | LoadPosition():
            return action.symbol, "ask"
    raise AssertionError(f"not a request: {action!r}")
