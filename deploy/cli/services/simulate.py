"""``perpflow simulate``: run a simulated venue."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Annotated

import typer

from producers.simulated.dialects.registry import DIALECTS
from producers.simulated.exchange.session.keys import read_accounts
from producers.simulated.market.generated import PAST_TRADES, Making
from producers.simulated.recording.events import FormatError
from producers.simulated.recording.recording import Recording
from producers.simulated.venue import RecordedVenue
from schemas import metrics
from schemas.process.service import Service, configure_logging
from schemas.settings import Settings

app = typer.Typer(help="Run a simulated venue from recordings or generated markets.")

# Seconds between two progress lines.
PROGRESS_S = 5.0


@app.command()
def simulate(
    recording: Annotated[
        list[str] | None,
        typer.Option("--recording", metavar="FILE=SYMBOL[:spot]", help="File, folder or glob to serve as SYMBOL. Repeatable."),
    ] = None,
    venue: Annotated[str, typer.Option(help=f"Venue whose protocol is served: {', '.join(DIALECTS)}.")] = "BINANCE",
    instruments: Annotated[int, typer.Option(min=0, help="Number of generated instruments, with or without recordings.")] = 0,
    first: Annotated[
        int, typer.Option(min=0, help="Index of the first generated instrument: 0 is BTC, 1 is ETH, ...; 12 is SIM001, 13 is SIM002, ...")
    ] = 0,
    rate: Annotated[
        str, typer.Option(help="Messages per second of all generated instruments together, or max: as fast as the clients read.")
    ] = "1000",
    messages: Annotated[int, typer.Option(min=0, help="Stop the generated instruments after this many messages. 0: never.")] = 0,
    past_trades: Annotated[
        int, typer.Option(min=1, help="Past trades, one per second before the start, that REST serves for generated instruments.")
    ] = PAST_TRADES,
    burst: Annotated[int, typer.Option(min=0, help="Trades to generate beforehand and send first, as fast as the clients read.")] = 0,
    kinds: Annotated[
        str, typer.Option(help="Kinds of generated messages: trades,depth,bookTicker,markPrice,openInterest,forceOrder. Default: all.")
    ] = "",
    ahead: Annotated[
        str,
        typer.Option(
            help="Streams, e.g. depth@100ms,aggTrade, whose --messages are generated before the venue starts. Then sending needs little CPU."
        ),
    ] = "",
    speed: Annotated[str, typer.Option(help="Playback speed: seconds of recording per second, or max: as fast as the clients read.")] = "1",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of websocket, REST and control. 0: a free port, printed when ready.")
    ] = 0,
    fault: Annotated[
        list[str] | None, typer.Option("--fault", metavar="KIND:OPTION=VALUE,...", help="Fault to inject; see below. Repeatable.")
    ] = None,
    faults: Annotated[str, typer.Option(metavar="SPEC", help="Several faults, separated by semicolons.")] = "",
    seed: Annotated[int, typer.Option(help="Random seed of faults and generated markets.")] = 0,
    expect_routes: Annotated[
        str, typer.Option(help="Routes that need a subscriber before playback starts, e.g. market. Default: the routes of the recording.")
    ] = "",
    expect_streams: Annotated[
        str,
        typer.Option(
            help="Streams that need a subscriber before playback starts, e.g. depth,aggTrade. With --trading, generated markets wait only if this is set."
        ),
    ] = "",
    wait_for_clients: Annotated[bool, typer.Option(help="Pause while there is no subscriber.")] = True,
    hold_routes: Annotated[bool, typer.Option(help="Pause while an expected route or stream has no subscriber.")] = False,
    settle: Annotated[float, typer.Option(min=0, help="Seconds between the last subscription and the start of playback.")] = 1.0,
    snapshot_hold: Annotated[
        float, typer.Option(min=0, help="Longest time to wait for a new depth subscriber to fetch its snapshot, seconds. 0: do not wait.")
    ] = 10.0,
    weight_limit: Annotated[int, typer.Option(min=0, help="REST request weight limit per window. 0: the venue's real limit.")] = 0,
    funding: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE=SYMBOL", help="CSV file of settled funding rates with columns Symbol,Date,Funding Rate (UTC+3). Repeatable."
        ),
    ] = None,
    trading: Annotated[
        str,
        typer.Option(
            "--trading",
            metavar="ACCOUNTS.toml",
            help="Accept orders (BINANCE, BINANCE_SPOT, BYBIT) from the accounts and API keys of this file; see below.",
        ),
    ] = "",
    trading_fault: Annotated[
        list[str] | None,
        typer.Option("--trading-fault", metavar="KIND:OPTION=VALUE,...", help="Fault to inject into trading; see below. Repeatable."),
    ] = None,
    queue: Annotated[
        str,
        typer.Option(
            help="When a resting order fills: the price trades through it, its queue position is traded (volume), or the price touches it."
        ),
    ] = "through",
    exit_at_end: Annotated[bool, typer.Option(help="Exit when every recording has ended. Default: keep serving REST.")] = False,
) -> None:
    """Run a simulated venue from recordings and generated markets: websockets, REST, /control and /health on one port.

    When it is ready, it prints one JSON line with ws_url, rest_url and port. Playback of a symbol starts when every route of its
    recording has a subscriber. Generated markets start with the first subscriber and do not stop when it leaves.

    Examples:

      perpflow simulate --recording deploy/demo/data/binance_usdm_raw/btcusdt_20240808.gz=BTCUSDT --speed 10

      perpflow simulate --recording deploy/demo/data/ltcusdt_spot_trades=LTCUSDT:spot --speed max --fault drop:stream=aggTrade,rate=0.01

      perpflow simulate --venue OKX --instruments 600 --rate 25000 --faults "cut:after=5000;list=NEWUSDT@10;delist=SIM001USDT@20"

    Faults: drop, gap, silence, duplicate, reorder, delay, garbage (stream=, rate= or at= and n=, ms=), cut:after=5000,route=market,
    rest:429,n=2, snapshot:form=stale, list=SYMBOL@SECONDS, delist=SYMBOL@SECONDS. Name a stream by
    the venue's name or by its content (trades, depth, quotes, ...). At run time: POST /control/faults {"faults": ["cut:after=1"]}, /control/burst
    {"messages": 100000}, /control/list and /control/delist {"symbol": "NEWUSDT"}, /control/pause, /control/resume.

    Trading: with --trading the venue accepts signed orders on its real paths (/fapi/v1/order, /fapi/v1/algoOrder,
    /api/v3/orderList/oco, /v5/order/create, ...) and reports them on the user stream (/private/ws/LISTENKEY, /ws-api/v3, /v5/private). Fills, funding
    and liquidations follow the simulated market. The file lists accounts:

      accounts = [{name = "desk", deposit = "10000", keys = [{key = "my-key", secret = "my-secret"}]}]

      perpflow simulate --instruments 4 --rate 200 --trading accounts.toml --trading-fault "lost:on=order.place,rate=0.02,how=503"

    Trading faults: latency, lost, unsent, late, reject, status, unknown, partial (on=order.place, algo.*, ...; rate= or at= and n=), duplicate, drop, hold,
    swap, late_event, cut (on=ORDER_TRADE_UPDATE, ...), skew:ms=, maintenance. At run time: POST /control/trading/faults, liquidate, deleverage,
    delist, funding, cut, expire_listen_keys, ...; GET /control/trading/truth/ACCOUNT returns the true account state.
    """
    settings = Settings()
    configure_logging(settings.log_level)
    try:
        recordings = [Recording.parse(text) for text in recording or ()]
        making = None
        if instruments:
            made = _speed(rate, "--rate"), messages or None, burst
            making = Making(
                instruments, *made, kinds=tuple(_names(kinds)), ahead=tuple(_names(ahead)), first=first, past_trades=past_trades
            )
        for text in funding or ():
            source = Recording.parse(text)
            recordings = [replace(one, funding=source.path) if one.symbol == source.symbol else one for one in recordings]
        serving = RecordedVenue(
            recordings,
            venue=venue.upper(),
            generated=making,
            speed=_speed(speed, "--speed"),
            faults=[*(fault or ()), *(one for one in map(str.strip, faults.split(";")) if one)],
            seed=seed,
            host=host,
            port=port,
            expect_routes=_names(expect_routes) or None,
            expect_streams=_names(expect_streams),
            wait_for=("route" if hold_routes else "client") if wait_for_clients else "none",
            settle_s=settle,
            snapshot_hold_s=snapshot_hold,
            weight_limit=weight_limit or None,
            accounts=read_accounts(trading) if trading else (),
            queue=queue,
            trading_faults=trading_fault or (),
        )
        asyncio.run(_serve(serving, settings, exit_at_end))
    except (FormatError, FileNotFoundError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        typer.echo(f"simulate: {error}", err=True)
        raise typer.Exit(1) from error


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _speed(text: str, option: str) -> float | None:
    if text == "max":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option}: expected a number or max, got {text!r}") from None


async def _serve(venue: RecordedVenue, settings: Settings, exit_at_end: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    with Service("simulate", settings.http_port) as service:

        def wake() -> None:
            loop.call_soon_threadsafe(stop.set)

        service.on_stop(wake)
        async with venue:
            service.set_health(lambda: {"ok": venue.failure() is None, "finished": venue.finished})
            ready = {"ready": True, "port": venue.port, "ws_url": venue.ws_url, "rest_url": venue.rest_url}
            typer.echo(json.dumps({**ready, "venue": venue.dialect.venue, "http_port": service.http_port, "symbols": list(venue.markets)}))
            seen: dict[tuple[str, str], int] = {}
            while not service.stopping.is_set():
                _count(venue, seen)
                failure = venue.failure()
                if failure is not None:
                    raise failure
                for symbol, playback in venue.playbacks.items():
                    status = playback.status()
                    service.log.info(
                        "playback", symbol=symbol, state=status["state"], progress=status["progress"], messages=status["messages"]
                    )
                if venue.generation is not None:
                    service.log.info("made-up markets", **venue.generation.status())
                if venue.finished and exit_at_end and not venue.connections:
                    break
                try:
                    await asyncio.wait_for(stop.wait(), 0.2 if venue.finished and exit_at_end else PROGRESS_S)
                except TimeoutError:
                    continue  # time for the next progress line


def _count(venue: RecordedVenue, seen: dict[tuple[str, str], int]) -> None:
    """Update the metrics of sent frames and injected faults."""
    now = {(symbol, stream): count for symbol, one in venue.markets.items() for stream, count in one.sent.items()}
    now |= {("", kind): count for kind, count in venue.plan.applied.items()}
    for (symbol, name), count in now.items():
        counter = metrics.SIMULATED_FRAMES.labels(symbol, name) if symbol else metrics.SIMULATED_FAULTS.labels(name)
        counter.inc(count - seen.get((symbol, name), 0))
    seen.update(now)


def main() -> None:
    """Run this command without the perpflow command line."""
    app()


if __name__ == "__main__":
    main()
