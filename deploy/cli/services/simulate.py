"""``perpflow simulate``: the simulated venue as a process of its own."""

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

app = typer.Typer(help="Serve recordings and made-up markets in any venue's protocol on real sockets.")

# Seconds between two progress lines.
PROGRESS_S = 5.0


@app.command()
def simulate(
    recording: Annotated[
        list[str] | None,
        typer.Option("--recording", metavar="FILE=SYMBOL[:spot]", help="File, folder or glob to serve as SYMBOL; repeatable."),
    ] = None,
    venue: Annotated[str, typer.Option(help=f"Whose protocol: {', '.join(DIALECTS)}.")] = "BINANCE",
    instruments: Annotated[int, typer.Option(min=0, help="Made-up instruments beside or instead of recordings.")] = 0,
    first: Annotated[int, typer.Option(min=0, help="Number of the first of them: BTC, ETH, ...; from 12 on SIM001, SIM002, ...")] = 0,
    rate: Annotated[
        str, typer.Option(help="Messages a second of all made-up instruments together, or max: as fast as the clients read.")
    ] = "1000",
    messages: Annotated[int, typer.Option(min=0, help="Messages after which the made-up instruments end; 0: they do not.")] = 0,
    past_trades: Annotated[
        int, typer.Option(min=1, help="Trades of before the start, one a second, that the made-up instruments' REST serves.")
    ] = PAST_TRADES,
    burst: Annotated[
        int, typer.Option(min=0, help="Trades that are made beforehand and sent at once, as fast as the clients read, before all else.")
    ] = 0,
    kinds: Annotated[
        str, typer.Option(help="Kinds of made-up messages: trades,depth,bookTicker,markPrice,openInterest,forceOrder; default: all.")
    ] = "",
    ahead: Annotated[
        str,
        typer.Option(
            help="Streams, e.g. depth@100ms,aggTrade, whose --messages are made before the venue opens, so that sending costs little."
        ),
    ] = "",
    speed: Annotated[str, typer.Option(help="Venue seconds a second, or max: as fast as the clients read.")] = "1",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of everything; 0: any free one, printed when ready.")] = 0,
    fault: Annotated[
        list[str] | None, typer.Option("--fault", metavar="KIND:OPTION=VALUE,...", help="Misbehaviour; repeatable, see below.")
    ] = None,
    faults: Annotated[str, typer.Option(metavar="SPEC", help="Several of them in one text, with semicolons between.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the faults' draws and of the made-up markets.")] = 0,
    expect_routes: Annotated[
        str, typer.Option(help="Routes that need a subscriber before playback starts, e.g. market; default: those of the recording.")
    ] = "",
    expect_streams: Annotated[
        str,
        typer.Option(
            help="Streams that need a subscriber too, e.g. depth,aggTrade. With --trading made-up markets wait for subscribers only if this is given."
        ),
    ] = "",
    wait_for_clients: Annotated[bool, typer.Option(help="Pause while nobody is subscribed.")] = True,
    hold_routes: Annotated[bool, typer.Option(help="Pause while any expected route or stream has no subscriber.")] = False,
    settle: Annotated[float, typer.Option(min=0, help="Quiet seconds after the last subscription before playback starts.")] = 1.0,
    snapshot_hold: Annotated[
        float, typer.Option(min=0, help="Longest wait, seconds, for a new depth subscriber to fetch its snapshot; 0: none.")
    ] = 10.0,
    weight_limit: Annotated[int, typer.Option(min=0, help="REST request weight in the venue's window; 0: the venue's own limit.")] = 0,
    funding: Annotated[
        list[str] | None, typer.Option(metavar="FILE=SYMBOL", help="Settled funding rates (Symbol,Date,Funding Rate; UTC+3).")
    ] = None,
    trading: Annotated[
        str,
        typer.Option(
            "--trading",
            metavar="ACCOUNTS.toml",
            help="Accounts that may trade in these markets (BINANCE, BINANCE_SPOT, BYBIT), with their API keys.",
        ),
    ] = "",
    trading_fault: Annotated[
        list[str] | None,
        typer.Option("--trading-fault", metavar="KIND:OPTION=VALUE,...", help="Misbehaviour of trading; repeatable, see below."),
    ] = None,
    queue: Annotated[str, typer.Option(help="When resting orders are filled: through, volume or touch.")] = "through",
    exit_at_end: Annotated[bool, typer.Option(help="Leave when every recording has ended, instead of keeping REST up.")] = False,
) -> None:
    """Serve recordings and made-up markets as a venue would: its websockets, its REST interface, /control and /health on one port.

    When it is ready one JSON line with ws_url, rest_url and port goes to standard output. Playback of a symbol starts when
    each route on which its recording has streams has a subscriber; made-up markets start with the first subscriber, and go on without any.

    Examples:

      perpflow simulate --recording tests/data/binance_usdm_raw/btcusdt_20240808.gz=BTCUSDT --speed 10

      perpflow simulate --recording tests/data/ltcusdt_spot_trades=LTCUSDT:spot --speed max --fault drop:stream=aggTrade,rate=0.01

      perpflow simulate --venue OKX --instruments 600 --rate 25000 --faults "cut:after=5000;list=NEWUSDT@10;delist=SIM001USDT@20"

    Faults: drop, gap, silence, duplicate, reorder, delay, garbage (stream=, rate= or at= and n=, ms=), cut:after=5000,route=market,
    rest:429,n=2, snapshot:form=stale, list=SYMBOL@SECONDS, delist=SYMBOL@SECONDS. A stream is meant by the venue's name or by what it
    carries on any venue (trades, depth, quotes, ...). At run time: POST /control/faults {"faults": ["cut:after=1"]}, /control/burst
    {"messages": 100000}, /control/list and /control/delist {"symbol": "NEWUSDT"}, /control/pause, /control/resume.

    Trading: with --trading the venue also takes signed orders on its real paths (/fapi/v1/order, /fapi/v1/algoOrder,
    /api/v3/orderList/oco, /v5/order/create, ...) and tells of them on the user stream (/private/ws/LISTENKEY, /ws-api/v3, /v5/private); fills, funding
    and liquidations happen in the market that the streams show. The file holds accounts:

      accounts = [{name = "desk", deposit = "10000", keys = [{key = "my-key", secret = "my-secret"}]}]

      perpflow simulate --instruments 4 --rate 200 --trading accounts.toml --trading-fault "lost:on=order.place,rate=0.02,how=503"

    Its faults: latency, lost, unsent, late, reject, status, unknown, partial (on=order.place, algo.*, ...; rate= or at= and n=), duplicate, drop, hold,
    swap, late_event, cut (on=ORDER_TRADE_UPDATE, ...), skew:ms=, maintenance. At run time: POST /control/trading/faults, liquidate, deleverage,
    delist, funding, cut, expire_listen_keys, ...; GET /control/trading/truth/ACCOUNT tells the true books.
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
    """Bring the metrics up to what was sent and what was done wrong on purpose."""
    now = {(symbol, stream): count for symbol, one in venue.markets.items() for stream, count in one.sent.items()}
    now |= {("", kind): count for kind, count in venue.plan.applied.items()}
    for (symbol, name), count in now.items():
        counter = metrics.SIMULATED_FRAMES.labels(symbol, name) if symbol else metrics.SIMULATED_FAULTS.labels(name)
        counter.inc(count - seen.get((symbol, name), 0))
    seen.update(now)


def main() -> None:
    """Run the command alone."""
    app()


if __name__ == "__main__":
    main()
