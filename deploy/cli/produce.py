"""``perpflow produce``: a venue's market data into the topics, as a process of its own."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from deploy.errors import UserError
from producers.binance.config import BinanceConfig
from producers.binance.producer import BinanceProducer, ConfigurationError
from producers.binance.rest import RestError
from producers.log_tail import LogError
from schemas.service import Service, configure_logging
from schemas.settings import Settings

app = typer.Typer(help="Write a venue's market data into the topics.", no_args_is_help=True)


@app.callback()
def produce() -> None:
    """Write a venue's market data into the topics."""


@app.command()
def binance(
    symbols: Annotated[
        str | None, typer.Option(help="Symbols with commas, top:N by 24 h quote volume, or all.", envvar="PERPFLOW_SYMBOLS")
    ] = None,
    streams: Annotated[
        str | None,
        typer.Option(help="Of aggTrade,depth,bookTicker,markPrice,forceOrder; default all.", envvar="PERPFLOW_BINANCE_STREAMS"),
    ] = None,
    ws_url: Annotated[str | None, typer.Option(help="Base of the websocket routes.", envvar="PERPFLOW_BINANCE_WS_URL")] = None,
    rest_url: Annotated[str | None, typer.Option(help="Base of the REST interface.", envvar="PERPFLOW_BINANCE_REST_URL")] = None,
    author: Annotated[
        str | None, typer.Option(help="Author of the progress marks; each running producer has its own.", envvar="PERPFLOW_BINANCE_AUTHOR")
    ] = None,
    depth_speed: Annotated[
        str | None,
        typer.Option(help="Cadence of the depth diffs: 100ms, 250ms, 500ms; recordings: 0ms.", envvar="PERPFLOW_BINANCE_DEPTH_SPEED"),
    ] = None,
    exit_at_end: Annotated[
        bool | None,
        typer.Option("--exit-at-end/--stay", help="Leave when a recorded venue is at its end (default).", envvar="PERPFLOW_EXIT_AT_END"),
    ] = None,
) -> None:
    """Write Binance USD-M market data into the topics, with progress marks.

    Connects to the real venue unless told otherwise; needs no keys. After kill -9 it goes on where it was: trades are fetched again over REST by
    their ids, none is lost or doubled.

    Examples:

      perpflow produce binance --symbols BTCUSDT,ETHUSDT

      perpflow produce binance --symbols BTCUSDT --ws-url ws://127.0.0.1:9001 --rest-url http://127.0.0.1:9001 --depth-speed 0ms

      perpflow produce binance --symbols LTCUSDT --streams aggTrade --author recorded-ltc --ws-url ... --rest-url ...
    """
    given: dict[str, Any] = {
        "symbols": symbols,
        "streams": streams,
        "ws_url": ws_url,
        "rest_url": rest_url,
        "author": author,
        "depth_speed": depth_speed,
        "exit_at_end": exit_at_end,
    }
    try:
        settings = Settings()
        config = BinanceConfig(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        reasons = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise UserError("produce: " + "; ".join(reasons)) from error
    configure_logging(settings.log_level)
    try:
        with Service("produce-binance", settings.http_port) as service:
            asyncio.run(BinanceProducer(config, settings, service).run())
    except (ConfigurationError, RestError, LogError) as error:
        raise UserError(f"produce: {error}") from error
