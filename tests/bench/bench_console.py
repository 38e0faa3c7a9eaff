"""The console under load: p99 of the API at 200 requests a second, a year of minutes in the browser, the first page, memory.

Run: ``perpflow bench --only console``. The console is a process on the contestants' core; database, clients and browser are on the others. The requests come
by the clock, not when the last answer came, and a time is reckoned from when a request was due. So an answer that is late makes the next ones late too.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import psutil
import psycopg

from deploy.demo.pictures import BROWSERS
from deploy.stack.processes import free_port
from schemas.settings import Settings
from sinks.timescale.partitions import Partitions
from tests.bench.rows import OURS, Figure, Row
from tests.bench.running import Run

INSTRUMENT, STRATEGY = "BINANCE:BTCUSDT-PERP", "bench"
NEWEST = datetime(2026, 1, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
DAY_S = 86_400
RATE = 200
TIMEFRAMES = {"1m": 1, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440}


@dataclass(frozen=True)
class Load:
    """What is stored, and how long it is asked for.

    Attributes:
        trades, scores: Rows, of the last ``days`` days.
        days: Of trades.
        bars: Time that the bars of the worker cover.
        seconds: Length of the measurement.
    """

    trades: int
    scores: int
    days: int
    bars: timedelta
    seconds: float


LONG = Load(10_000_000, 1_000_000, 30, YEAR, 60.0)
QUICK = Load(300_000, 30_000, 3, YEAR, 10.0)
SMALLEST = Load(20_000, 2_000, 1, timedelta(days=3), 2.0)


def fill(settings: Settings, load: Load, say: Callable[[str], None]) -> None:
    """Store the rows as sink and worker leave them: a random walk of the price, made by the database."""
    since = NEWEST - timedelta(days=load.days)
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("SELECT setseed(0.5)")
        keeper, first = Partitions(connection), NEWEST - load.bars
        months = [(first + timedelta(days=day)).date() for day in range(-1, load.bars.days + 2)]
        keeper.ensure_days("bars", sorted({day.replace(day=1) for day in months}))
        keeper.ensure_days("scores", sorted({day.replace(day=1) for day in months[-load.days - 2 :]}))
        keeper.ensure_days("agg_trades", months[-load.days - 2 :])
        connection.execute(
            "INSERT INTO instruments (instrument, event_time, receive_time, author, venue, symbol, base_asset, quote_asset, kind, status, tick_size,"
            " step_size, price_decimals, quantity_decimals, recorded, kafka_partition, kafka_offset) VALUES (%(name)s, %(at)s, %(at)s, 'bench',"
            " 'BINANCE', 'BTCUSDT', 'BTC', 'USDT', 'perp', 'trading', 0.1, 0.001, 1, 3, true, 0, 0)",
            {"name": INSTRUMENT, "at": first},
        )
        for frame, minutes in TIMEFRAMES.items():
            connection.execute(
                "INSERT INTO bars (instrument, event_time, receive_time, timeframe, source, open, high, low, close, volume, cvd, trades,"
                " kafka_partition, kafka_offset) SELECT %(name)s, e, e, %(frame)s, 'trades', p, p + 30, p - 30, p + 10 * sin(n), 12.5, cos(n), 40, 0, n"
                " FROM (SELECT e, n, 60000 + 9000 * sin(n * %(minutes)s / 90000.0) + 400 * sin(n * %(minutes)s / 700.0) AS p FROM generate_series("
                " %(first)s::timestamptz + %(width)s, %(last)s, %(width)s) WITH ORDINALITY AS s(e, n)) q",
                {
                    "name": INSTRUMENT,
                    "frame": frame,
                    "minutes": minutes,
                    "first": first,
                    "last": NEWEST,
                    "width": timedelta(minutes=minutes),
                },
            )
        say("bars are stored")
        daily = load.trades // load.days
        for day in range(load.days):
            connection.execute(
                "INSERT INTO agg_trades (instrument, event_time, receive_time, agg_id, first_trade_id, last_trade_id, price, quantity, buyer_is_maker,"
                " backfilled, kafka_partition, kafka_offset) SELECT %(name)s, at, at, n, n, n, 60000 + 400 * sin(n / 9000.0) + random() * 10,"
                " 0.001 + random(), random() < 0.5, false, 0, n FROM (SELECT n, %(day)s::timestamptz + (n - %(begin)s) * %(step)s AS at"
                " FROM generate_series(%(begin)s::bigint, %(end)s::bigint) n) q",
                {
                    "name": INSTRUMENT, "day": since + timedelta(days=day), "begin": day * daily + 1, "end": (day + 1) * daily,
                    "step": timedelta(days=1) / (daily + 1),
                },
            )  # fmt: skip
        say("trades are stored")
        connection.execute(
            "INSERT INTO scores (score_id, instrument, event_time, receive_time, strategy_id, strategy_name, strategy_version, config_revision,"
            " config_hash, direction, score, gate_passed, warm, regime, cooldown, signalled, price, layers, gates, missing_inputs, stale_inputs, late_trades,"
            " kafka_partition, kafka_offset) SELECT 'score-' || n, %(name)s, at, at, %(strategy)s, 'Bench', '1', 1, 'hash',"
            " CASE WHEN n %% 2 = 0 THEN 'LONG' ELSE 'SHORT' END, random() * 100, n %% 9 = 0, true, 'trend', false, n %% 3000 = 0, 60000,"
            """ '[{"name": "flow", "points": 30.5, "reason": "taker flow"}, {"name": "book", "points": 12.0, "reason": "imbalance"}]',"""
            """ '[{"name": "spread", "passed": true, "value": 1.5, "limit": 4.0}]', '{}', '{}', 0, 0, n"""
            " FROM (SELECT n, %(since)s::timestamptz + n * %(step)s AS at FROM generate_series(1, %(count)s::bigint) n) q",
            {
                "name": INSTRUMENT, "strategy": STRATEGY, "since": since, "count": load.scores,
                "step": timedelta(days=load.days) / (load.scores + 1),
            },
        )  # fmt: skip
        say("scores are stored")
        remaining = True
        while remaining:
            row = connection.execute("SELECT remaining FROM perpflow_refresh_bars('agg_trades')").fetchone()
            remaining = row is not None and row[0] > 0
        connection.execute("ANALYZE")
        say("the bars of the trades are built")


def requests(load: Load) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield paths and parameters of a mix, as pages ask: mostly candles and lists, at times a summary or a heat map."""
    draw = random.Random(7)
    newest = int(NEWEST.timestamp() * 1000)
    day = {"instrument": INSTRUMENT}

    def stretch(most_ms: int, length_ms: int) -> dict[str, int]:
        end = newest - draw.randrange(max(most_ms - length_ms, 1))
        return {"start": end - length_ms, "end": end}

    bars_ms, trades_ms = int(load.bars.total_seconds() * 1000), load.days * DAY_S * 1000
    while True:
        yield from (
            ("/candles", {**day, "timeframe": "1m", "points": 1_500, **stretch(bars_ms, 12 * 3_600_000)}),
            ("/scores", {**day, "limit": 50, **stretch(trades_ms, 3_600_000 * 4)}),
            ("/candles", {**day, "timeframe": "15m", "points": 1_500, **stretch(bars_ms, min(bars_ms, 7 * DAY_S * 1000))}),
            ("/trades", {**day, "limit": 100, **stretch(trades_ms, 3_600_000)}),
            ("/health", {}),
            ("/signals", {"limit": 50}),
            ("/instruments", {}),
            ("/candles", {**day, "timeframe": "1h", "points": 1_500, "start": newest - bars_ms, "end": newest}),
            ("/trades/summary", {**day, **stretch(trades_ms, 900_000)}),
            ("/market/extent", day),
        )


async def asked(url: str, load: Load) -> tuple[list[float], list[str]]:
    """Ask RATE times a second; return the times of the answers, ms after they were due, and what went wrong."""
    times: list[float] = []
    wrong: list[str] = []
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=30, limits=limits, trust_env=False) as client:

        async def ask(due: float, path: str, parameters: dict[str, Any]) -> None:
            answer = await client.get(path, params=parameters)
            times.append((time.perf_counter() - due) * 1000)
            if answer.status_code != 200:
                wrong.append(f"{path}: {answer.status_code} {answer.text[:200]}")

        mix, running = requests(load), set[asyncio.Task[None]]()
        for warm in range(20):  # connections, plans, pages of the database
            await ask(time.perf_counter(), *next(mix))
            del times[:]
            assert not wrong, (warm, wrong)
        begin = time.perf_counter()
        for number in range(int(load.seconds * RATE)):
            due = begin + number / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(ask(due, *next(mix)))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
    return times, wrong


def pages(url: str, load: Load, repetitions: int) -> tuple[list[float], list[float]]:
    """Return the seconds until the first page is usable, and until a year of minutes is drawn; each time in a browser without cache."""
    from playwright.sync_api import sync_playwright

    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        raise RuntimeError(f"no Chromium on PATH ({', '.join(BROWSERS)})")
    newest = int(NEWEST.timestamp() * 1000)
    year = f"{url}/market?instrument={INSTRUMENT}&from={newest - int(load.bars.total_seconds() * 1000)}&to={newest}"
    found: tuple[list[float], list[float]] = ([], [])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            for _ in range(repetitions):
                for address, times in zip((f"{url}/market?instrument={INSTRUMENT}", year), found, strict=True):
                    context = browser.new_context(viewport={"width": 1280, "height": 900})
                    page = context.new_page()
                    began = time.perf_counter()
                    page.goto(address, wait_until="commit")
                    page.get_by_text("candles loaded").wait_for(timeout=60_000)
                    page.locator(".card.chart canvas").first.wait_for(timeout=60_000)
                    times.append(time.perf_counter() - began)
                    context.close()
        finally:
            browser.close()
    return found


def rows(run: Run, load: Load | None = None) -> Iterator[Row]:
    """Yield the quantiles of the API, the times of the pages, and the memory after all of it."""
    chosen = load or (QUICK if run.quick else LONG)
    size = {"trades": chosen.trades, "scores": chosen.scores, "requests/s": RATE, "1m candles": int(chosen.bars / timedelta(minutes=1))}
    with run.environment(tables=True) as settings:
        fill(settings, chosen, run.say)
        port = free_port()
        command = [sys.executable, "-m", "deploy.cli", "console", "--port", str(port)]
        server = run.cores.start(command, run.variables(settings), run.folder / "console.log", stdin=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        try:
            _await(url, server)
            process = psutil.Process(server.pid)
            used, began = sum(process.cpu_times()[:2]), time.monotonic()
            times, wrong = asyncio.run(asked(url, chosen))
            share = (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - began) * 100
            if wrong:
                raise RuntimeError(f"{len(wrong)} of {len(times)} answers are wrong: {wrong[:3]}")
            p50, p99, most = np.percentile(times, (50, 99, 100)).tolist()
            note = f"median {p50:.1f} ms, longest {most:.0f} ms, {len(times):,} answers, all 200; the console took {share:.0f} % of a core"
            detail = {"p50_ms": p50, "max_ms": most, "answers": len(times), "cpu_percent": share}
            yield Row("console: API, p99", "ms", Figure(p99, detail=detail), more_is_better=False, bars={OURS: 50}, size=size, note=note)
            try:
                first, year = (Figure.of(seconds) for seconds in pages(url, chosen, run.repetitions))
            except (ImportError, RuntimeError) as error:
                first = year = Figure.none(str(error))
            yield Row(
                "console: first page usable", "s", first, more_is_better=False, bars={OURS: 1}, size=size, note="Chromium without cache"
            )
            yield Row(
                "console: a year of minutes drawn", "s", year, more_is_better=False, bars={OURS: 1}, size=size, note="from an empty page"
            )
            memory = process.memory_info().rss / 2**20
            yield Row(
                "console: memory", "MiB", Figure(memory), more_is_better=False, bars={OURS: 300}, size=size, note="after all of the above"
            )
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _await(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the console ended with {server.returncode}")
        try:
            if httpx.get(f"{url}/api/v1/health", timeout=5, trust_env=False).json()["database"]["ok"]:
                return
        except (httpx.HTTPError, ValueError):
            time.sleep(0.2)
    raise RuntimeError("the console does not answer")
