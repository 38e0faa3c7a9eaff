"""The application: API below /api/v1, its document at /api/docs, pages below /."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from brotli_asgi import BrotliMiddleware
from fastapi import APIRouter, FastAPI

from sinks.console.api import admin, annotating, auth, backtests, live, market, records, risk, strategies, system, trading
from sinks.console.context import Context
from sinks.console.http import problems
from sinks.console.http.pages import add_pages
from sinks.console.watching import watch

_ABOUT = """Read what the market does and what each strategy decided, and give the commands of the command line.

Numbers are numbers. A time is ISO 8601 UTC, and beside it ms since 1970 as `..._ms`. A list is newest first; `next` is the cursor of its next page.
Errors are problem details (RFC 9457). Programs send `Authorization: Bearer TOKEN`."""


def create_app(context: Context) -> FastAPI:
    """Return the application of one process."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await context.database.open()
        context.live.start()
        context.backtests.start()
        watching = asyncio.create_task(watch(context))
        yield
        watching.cancel()
        await context.backtests.stop()
        await asyncio.to_thread(context.live.stop)
        await context.database.close()

    app = FastAPI(
        title="perpflow",
        version="1",
        description=_ABOUT,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={code: {"model": problems.ProblemDetails} for code in (401, 403, 422, 503)},
    )
    app.state.context = context
    # Level 4 costs little and leaves a tenth of a chart's JSON. Event streams are sent as they are: compression would hold them back.
    app.add_middleware(BrotliMiddleware, quality=4, minimum_size=1024, gzip_fallback=True, excluded_handlers=["/api/v1/live"])
    problems.add_handlers(app)
    api = APIRouter(prefix="/api/v1")
    # Lists come last: their paths are general.
    for routes in (
        system.router(),
        auth.router(),
        admin.router(),
        market.public_router(),
        market.router(),
        strategies.router(),
        trading.router(),
        risk.router(),
        annotating.router(),
        backtests.router(),
        live.router(),
        records.router(),
    ):
        api.include_router(routes)
    app.include_router(api)
    add_pages(app)
    return app
