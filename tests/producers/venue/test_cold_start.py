"""What a producer begins with: the past of the venue on a cold start, its own log after a death."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
import talib

from producers.simulated.market.generated import Making
from producers.simulated.market.market import Market
from producers.simulated.venue import RecordedVenue
from producers.venue.config import ProducerConfig
from producers.venue.producer import VenueProducer
from producers.venues import adapter_of
from schemas.codec.avro import Record
from schemas.process.service import Service
from schemas.settings import Settings
from stream_apps.replay.verify import replay_topics
from tests.producers.venue.venue_runs import VENUES, Run, made, read_all, run, written

pytestmark = pytest.mark.stack


FRAME = 300_000


def venue_bars(found: Run, symbol: str, last: int) -> dict[int, tuple[float, ...]]:
    """Return end -> (open, high, low, close, volume) of the simulated venue's bars that ended up to ``last``, as it writes prices."""
    market = found.markets[symbol]
    places = market.facts.price_decimals
    return {
        bar.start + FRAME: (*(round(price, places) for price in (bar.open, bar.high, bar.low, bar.close)), bar.volume)
        for bar in market.statistics.bars(FRAME, None, last - FRAME, 10**9)
    }


def decided(settings: Settings) -> dict[str, list[Record]]:
    """Run the engine over the log and return the features of each instrument, in order. Nothing that the producer wrote is refused by it."""
    report = replay_topics(settings, compare=False)
    assert "dead_letters" not in report.outputs
    found: dict[str, list[Record]] = {}
    for value in report.results.records["features"].values():
        record = settings.codec.decode("features", value)
        found.setdefault(record["instrument"], []).append(record)
    return {name: sorted(records, key=lambda record: record["event_time"]) for name, records in found.items()}


def check_atr(features: list[Record], bars: dict[int, tuple[float, ...]]) -> None:
    """The ATR and its percentile at the last instant are TA-Lib's over the venue's bars."""
    ends = sorted(bars)
    assert ends == list(range(ends[0], ends[-1] + 1, FRAME)) and len(ends) >= 287
    history = talib.ATR(*(np.array([bars[end][n] for end in ends]) for n in (1, 2, 3)), 14)
    known = history[~np.isnan(history)][-288:]
    newest = features[-1]
    assert newest["event_time"] > ends[-1] and "atr" not in newest["missing_inputs"]
    assert newest["atr"] == pytest.approx(known[-1], rel=1e-9)
    # Equal bars of a made-up market may rank a rounding apart.
    ranked = [100 * np.mean(known <= known[-1] * (1 + sign * 1e-9)) for sign in (-1, 1)]
    assert ranked[0] - 1e-9 <= newest["atr_percentile"] <= ranked[1] + 1e-9


# One venue with taker volume in its bars and one without in CI; each waits for the end of a bar.
@pytest.mark.parametrize("name", [name if name in ("BINANCE", "BYBIT") else pytest.param(name, marks=pytest.mark.long) for name in VENUES])
def test_a_cold_start_has_the_venues_bars_up_to_the_first_whole_one_of_our_own(
    environment: Settings, topics: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Trades begin 6 s before the end of a bar: its bar is fetched once it has ended, and the ATR is there at the first instants."""
    monkeypatch.setattr("producers.venue.polling.past_bars.AGAIN_S", 0.2)
    end = 1_795_000_200_000
    making = Making(2, 300.0, 12 * 300, start=end - 6_000)
    found = run(environment, name, {"generated": making}, streams="agg_trades,klines")
    assert not found.log["dead_letters"] and not found.log["gaps"]
    features = decided(environment)
    for symbol in found.markets:
        bars = found.of("klines", symbol)
        times = [bar["event_time"] for bar in bars]
        assert times == sorted(set(times)) and times[-1] == end  # the bar that trades know in part, and none behind it
        assert all(bar["backfilled"] and bar["timeframe"] == "5m" for bar in bars)
        truth = venue_bars(found, symbol, end)
        assert len(bars) >= 287 and set(times) <= set(truth)
        for bar in bars:
            assert [bar[field] for field in ("open", "high", "low", "close")] == pytest.approx(truth[bar["event_time"]][:4], rel=1e-9)
            assert bar["volume"] == pytest.approx(truth[bar["event_time"]][4], rel=1e-3)
            assert (bar["taker_buy_volume"] is not None) is name.startswith("BINANCE")
        trades = found.of("agg_trades", symbol)
        assert times[-2] < min(trade["event_time"] for trade in trades) <= end
        told = {bar["event_time"]: tuple(bar[field] for field in ("open", "high", "low", "close")) for bar in bars}
        check_atr(features[bars[0]["instrument"]], told)
        # What bars do not say stays missing.
        assert {"cvd_5m", "cvd_1h", "cvd_24h"} <= set(features[bars[0]["instrument"]][-1]["missing_inputs"])


@pytest.mark.parametrize("name", ["BINANCE", "BYBIT", "OKX", "BITGET"])
def test_a_cold_start_with_history(environment: Settings, topics: list[str], name: str) -> None:
    # Nine hours hold a settlement at any time of the day: these contracts settle each eight.
    found = run(environment, name, {"generated": Making(2, 800.0, 1600)}, history_hours=9.0, poll_recorded=False)
    assert not found.log["dead_letters"]
    assert {gap["stream"] for gap in found.log["gaps"]} <= {"agg_trades"}  # no other stream has a past in which something may be missing
    features = decided(environment)
    for symbol, market in found.markets.items():
        records = found.of("agg_trades", symbol)
        assert Counter(written(records)) == Counter(made(market))  # all that the venue ever had
        past = [record for record in records if record["backfilled"]]
        assert len(past) >= 50 and min(record["event_time"] for record in past) < min(
            record["event_time"] for record in records if not record["backfilled"]
        )
        assert [record["agg_id"] for record in records] == sorted(record["agg_id"] for record in records)
        settled = [record for record in found.of("funding", symbol) if record["settled_rate"] is not None]
        assert settled and all(record["event_time"] % 3_600_000 < 60_000 for record in settled)  # on the hour, as the venues settle
        # The past comes in the steps of its time: no mark is passed by what is older than it, so the engine takes all of it.
        bars = {bar["event_time"]: tuple(bar[field] for field in ("open", "high", "low", "close")) for bar in found.of("klines", symbol)}
        if name != "BINANCE":  # whose simulated contracts say that they are recorded
            check_atr(features[past[0]["instrument"]], bars)


@pytest.mark.parametrize("name", ["BYBIT", pytest.param("OKX", marks=pytest.mark.long)])
def test_a_producer_that_died_goes_on_where_the_log_ends(environment: Settings, topics: list[str], name: str) -> None:
    """What was sent while it was away comes over REST, what is in the log already is not written again."""

    async def work() -> dict[str, Market]:
        async with RecordedVenue([], venue=name, generated=Making(2, 700.0, 11_200), settle_s=0.1) as simulated:
            chosen = ProducerConfig(symbols="all", ws_url=simulated.ws_url, rest_url=simulated.rest_url)
            for life in range(3):
                with Service("produce-test") as service:
                    producer = VenueProducer(adapter_of(name), chosen, environment, service)
                    running = asyncio.create_task(producer.run())
                    while life < 2 and (not hasattr(producer, "out") or producer.out.records < 1000) and not running.done():
                        await asyncio.sleep(0.05)
                    done, _ = await asyncio.wait({running}, timeout=0.3 if life < 2 else 60)
                    if not done:
                        running.cancel()  # records of open steps are lost with it, as after kill -9
                        await asyncio.gather(running, return_exceptions=True)
            assert running.done() and running.result()
            return simulated.markets

    markets = asyncio.run(asyncio.wait_for(work(), 90))
    log = read_all(environment)
    assert not log["dead_letters"]
    for symbol, market in markets.items():
        records = [record for record in log["agg_trades"] if record["instrument"].split(":")[1].startswith(symbol)]
        ids = [record["agg_id"] for record in records]
        assert len(set(ids)) == len(ids)
        ours, truth = Counter(written(records)), made(market)
        first = min(record["event_time"] for record in records)
        lost = Counter(one for one in truth if one[3] > first) - ours
        assert not lost and not ours - Counter(truth), (lost, ours - Counter(truth))
        # Each of the two later lives tells from when on quotes may be missing: from the end of what the log has, not from when it was mended.
        name = records[0]["instrument"]
        told = [gap for gap in log["gaps"] if (gap["instrument"], gap["stream"], gap["kind"]) == (name, "quotes", "disconnect")]
        assert len(told) == 2 and not any(gap["certain"] or gap["repaired"] for gap in told)
        quotes = [quote["event_time"] for quote in log["quotes"] if quote["instrument"] == name]
        for gap in told:
            assert gap["from_time"] < gap["to_time"] and not any(gap["from_time"] < time < gap["to_time"] for time in quotes)
    assert any(record["backfilled"] for record in log["agg_trades"])
