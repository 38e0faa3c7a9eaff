"""The kill switch at the venue: cancel and close everything with only the API key, for when Kafka, the database and the executor are down."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

from sinks.venues.common.adapter import OutcomeUnknown, RateLimited, RequestRejected, TradingVenue, VenueError, VenueUnreachable
from stream_apps.core.execution.orders.venue_reports import OrderRequest, OrderType, PositionReport, Side

Pause = Callable[[float], Awaitable[object]]

# Rounds over all positions. A partial fill, a lost answer or a rate limit each use up one.
ATTEMPTS = 10
# Prefix of client ids; it distinguishes these orders from an executor's.
PREFIX = "pf-kill-"


@dataclass(slots=True)
class KillResult:
    """The result of the kill switch.

    Attributes:
        closed: Symbol -> signed quantity that was open before.
        cancelled: Symbols whose open orders were cancelled.
        left: Symbol -> quantity that could not be closed.
        errors: Error texts.
    """

    closed: dict[str, Decimal] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    left: dict[str, Decimal] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


async def close_everything(venue: TradingVenue, pause: Pause) -> KillResult:
    """Close every position at market and cancel every open order of the account, including orders that perpflow did not place.

    Positions are closed first with reduce-only orders, while their stops still rest at the venue. Then all orders are cancelled. Then the account is read
    again, because an entry may have filled in the meantime. Nothing is assumed without the venue's confirmation.

    Args:
        venue: An open venue.
        pause: Coroutine that sleeps; seconds.

    Raises:
        VenueError: the positions cannot be read.
    """
    done = KillResult()
    symbols: set[str] = set()
    for attempt in range(ATTEMPTS):
        try:
            positions = [one for one in await venue.positions() if one.quantity]
            orders = await venue.open_orders()
        except VenueError as error:
            if attempt == ATTEMPTS - 1:
                raise
            await _wait(error, pause)
            continue
        symbols |= {one.symbol for one in positions} | {one.symbol for one in orders}
        done.left = {one.symbol: one.quantity for one in positions}
        if not positions and not orders:
            break
        for position in positions:
            done.closed.setdefault(position.symbol, position.quantity)
            await _try(partial(_close, venue, position, attempt), done, pause)
        for symbol in sorted({one.symbol for one in orders}):
            if await _try(partial(venue.cancel_all, symbol), done, pause) and symbol not in done.cancelled:
                done.cancelled.append(symbol)
    return done


async def _close(venue: TradingVenue, position: PositionReport, attempt: int) -> None:
    rules = venue.rules.get(position.symbol)
    quantity = abs(position.quantity)
    if rules is not None:
        quantity = min(quantity, rules.market_max_quantity)
    await venue.place(
        OrderRequest(
            client_order_id=f"{PREFIX}{time.time_ns() // 1_000_000}-{attempt}",
            symbol=position.symbol,
            side=Side.SELL if position.quantity > 0 else Side.BUY,
            type=OrderType.MARKET,
            quantity=quantity,
            reduce_only=True,
        )
    )


async def _try(call: Callable[[], Awaitable[object]], done: KillResult, pause: Pause) -> bool:
    try:
        await call()
    except RequestRejected as error:
        if error.reason not in ("reduce_only", "not_found"):  # both mean that nothing is left
            done.errors.append(str(error))
    except VenueError as error:
        done.errors.append(str(error))
        await _wait(error, pause)
    else:
        return True
    return False


async def _wait(error: VenueError, pause: Pause) -> None:
    seconds = error.retry_after if isinstance(error, RateLimited) else 1.0 if isinstance(error, OutcomeUnknown | VenueUnreachable) else 0.2
    await pause(seconds)
