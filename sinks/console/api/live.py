"""The live stream: ``GET /api/v1/live``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from sinks.console.auth.identity import Authenticated, Identity, needs
from sinks.console.context import context_of
from sinks.console.http.problems import ProblemDetails
from sinks.console.live.channels import KINDS
from sinks.console.live.live import Live
from sinks.console.live.stream import Permitted

_ABOUT = "\n".join(f"- `{name}` ({'events' if kind.event else 'state'}): {kind.about}" for name, kind in KINDS.items())

# Lets only those pass who may look.
VIEWER = needs("viewer")


def live_of(request: Request) -> Live:
    """Return the live stream of the application that answers ``request``."""
    return context_of(request).live


async def permitted_of(auth: Authenticated, identity: Annotated[Identity, Depends(VIEWER)]) -> Permitted:
    """Return the question whether who asks may still look."""
    return lambda: auth.still_valid(identity)


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["live"], dependencies=[Depends(VIEWER)])

    @routes.get(
        "/live",
        summary="Server-sent events of the selected channels",
        description=(
            "Channels are separated by commas: `candles:BINANCE:BTCUSDT-PERP:1m,scores:*,signals`. The event name is the channel's name.\n\n"
            f"{_ABOUT}\n\nState channels send the newest message of each key. Event channels send every message, and resume after `Last-Event-ID`. "
            "`hello` says that events are complete from here on; `reset` says which channels to load again."
        ),
        response_class=Response,
        responses={
            200: {"description": "The stream", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
            422: {"model": ProblemDetails, "description": "A channel that cannot be selected"},
            503: {"model": ProblemDetails, "description": "Too many streams are open"},
        },
    )
    async def live(
        room: Annotated[Live, Depends(live_of)],
        permitted: Annotated[Permitted, Depends(permitted_of)],
        channels: Annotated[str, Query(description="Channels, separated by commas", min_length=1, max_length=16_384)],
        last_event_id: Annotated[str | None, Header(description="Id of the last event of an earlier stream", max_length=65_536)] = None,
        after: Annotated[str | None, Query(description="The same, for programs that cannot set the header", max_length=65_536)] = None,
    ) -> Response:
        return room.stream(channels, last_event_id or after, permitted)

    return routes
