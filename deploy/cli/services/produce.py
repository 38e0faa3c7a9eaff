"""``perpflow produce``: write the market data of a venue to Kafka."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from pydantic import ValidationError

from producers.output.log_tail import LogError
from producers.venue.adapter.base import MappingError
from producers.venue.config import TOPICS, ProducerConfig
from producers.venue.contracts import ConfigurationError
from producers.venue.network.rest import RestError
from producers.venue.producer import VenueProducer
from producers.venues import VENUES, adapter_of
from schemas.errors import UserError
from schemas.process.memory import collect_garbage_rarely
from schemas.process.service import Service, configure_logging
from schemas.settings import Settings

app = typer.Typer(help="Read a venue and write its market data to Kafka.")


@app.command()
def produce(
    venue: Annotated[str, typer.Option(help=f"One of {', '.join(VENUES)}.", envvar="PERPFLOW_VENUE")] = "BINANCE",
    symbols: Annotated[
        str | None, typer.Option(help="Symbols separated by commas, top:N by 24 h quote volume, or all.", envvar="PERPFLOW_SYMBOLS")
    ] = None,
    streams: Annotated[
        str | None,
        typer.Option(help=f"Topics to write, separated by commas, of {','.join(TOPICS)}. Default: all.", envvar="PERPFLOW_STREAMS"),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Address of a simulated venue, for both websocket and REST.", envvar="PERPFLOW_BASE_URL")
    ] = None,
    ws_url: Annotated[str | None, typer.Option(help="Base URL of the websocket only.", envvar="PERPFLOW_WS_URL")] = None,
    rest_url: Annotated[str | None, typer.Option(help="Base URL of the REST interface only.", envvar="PERPFLOW_REST_URL")] = None,
    author: Annotated[
        str | None,
        typer.Option(help="Author of the progress marks. Every running producer needs a different one.", envvar="PERPFLOW_AUTHOR"),
    ] = None,
    depth_speed: Annotated[
        str | None,
        typer.Option(
            help="Binance: interval of the depth updates: 100ms, 250ms or 500ms. For recordings: 0ms.", envvar="PERPFLOW_DEPTH_SPEED"
        ),
    ] = None,
    history_hours: Annotated[
        float | None,
        typer.Option(help="Hours of trades, funding and indicators to fetch on a cold start.", envvar="PERPFLOW_HISTORY_HOURS"),
    ] = None,
    exit_at_end: Annotated[
        bool | None,
        typer.Option(
            "--exit-at-end/--stay", help="Exit when a recorded venue has played to its end (default).", envvar="PERPFLOW_EXIT_AT_END"
        ),
    ] = None,
) -> None:
    """Read a venue and write its market data and progress marks to Kafka.

    It connects to the real venue unless --base-url is set. It needs no API key. After a crash it resumes where it stopped: it fetches
    the missed trades over REST, without loss or duplicates. Trades that the venue no longer serves go to the gaps topic.

    Examples:

      perpflow produce --symbols BTCUSDT,ETHUSDT

      perpflow produce --venue BYBIT --symbols top:50 --history-hours 4

      perpflow produce --venue OKX --symbols all --streams agg_trades,quotes,funding

      perpflow produce --symbols BTCUSDT --base-url http://127.0.0.1:9001 --depth-speed 0ms
    """
    if base_url is not None:
        address = urlsplit(base_url).netloc or base_url
        secure = "s" if urlsplit(base_url).scheme in ("https", "wss") else ""
        ws_url = ws_url or f"ws{secure}://{address}"
        rest_url = rest_url or f"http{secure}://{address}"
    given: dict[str, Any] = {
        "symbols": symbols,
        "streams": streams,
        "ws_url": ws_url,
        "rest_url": rest_url,
        "author": author,
        "depth_speed": depth_speed,
        "history_hours": history_hours,
        "exit_at_end": exit_at_end,
    }
    try:
        settings = Settings()
        config = ProducerConfig(**{name: value for name, value in given.items() if value is not None})
        adapter = adapter_of(venue, depth_speed=config.depth_speed)
    except ValidationError as error:
        reasons = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise UserError("produce: " + "; ".join(reasons)) from error
    except ValueError as error:
        raise UserError(f"produce: {error}") from error
    configure_logging(settings.log_level)
    collect_garbage_rarely()
    try:
        with Service(f"produce-{adapter.venue.lower()}", settings.http_port) as service:
            asyncio.run(VenueProducer(adapter, config, settings, service).run())
    except (ConfigurationError, RestError, LogError, MappingError) as error:
        raise UserError(f"produce: {error}") from error
