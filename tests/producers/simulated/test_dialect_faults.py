"""Faults act alike in every dialect."""

from __future__ import annotations

from decimal import Decimal

import pytest

from producers.simulated.market.generated import Making
from producers.simulated.venue import RecordedVenue
from tests.producers.simulated.dialect_readers import Reader
from tests.producers.simulated.dialect_sessions import START, VENUES, heard, pace, run
from tests.support.markets.recorded_client import get


@pytest.mark.parametrize("venue", VENUES)
def test_faults_act_on_every_dialect(venue: str) -> None:
    """Counts on what a client hears: the same menu, named by what a stream carries."""

    async def with_faults(*faults: str) -> tuple[Reader, dict[str, int]]:
        making = Making(1, rate=pace(venue), messages=1500, start=START, kinds=("trades", "depth"))
        async with RecordedVenue(venue=venue, generated=making, settle_s=0.1, faults=faults, seed=9) as serving:
            reader = await heard(venue, serving, skip_garbage=True)
            return reader, serving.plan.applied

    async def work() -> None:
        clean, _ = await with_faults()
        whole = [number for number, *_ in clean.trades]
        lossy, applied = await with_faults("gap:stream=trades,at=100,n=7", "duplicate:stream=trades,at=200", "reorder:stream=trades,at=300")
        numbers = [number for number, *_ in lossy.trades]
        assert applied == {"gap": 7, "duplicate": 1, "reorder": 1}
        expected = whole[:100] + whole[107:201] + whole[200:300] + [whole[301], whole[300]] + whole[302:]
        assert numbers == expected
        spoiled, applied = await with_faults("garbage:stream=trades,rate=0.1", "drop:stream=depth,at=500")
        assert len(spoiled.trades) + applied["garbage"] == len(whole) and spoiled.garbage == applied["garbage"] > 20
        if venue not in ("HYPERLIQUID", "COINBASE"):  # there nothing in the stream tells of a loss
            assert clean.gaps == 0 and spoiled.gaps >= 1
        cut, applied = await with_faults("cut:after=100")
        assert applied["cut"] == (2 if venue == "BINANCE" else 1) and len(cut.trades) < len(whole)

    run(work())


@pytest.mark.parametrize("venue", VENUES)
def test_a_stale_snapshot_is_noticed_by_the_rule_of_the_venue(venue: str) -> None:
    async def work() -> None:
        making = Making(1, rate=pace(venue), messages=1000, start=START, kinds=("depth",))
        async with RecordedVenue(venue=venue, generated=making, settle_s=0.1, faults=["snapshot:"]) as serving:
            reader = await heard(venue, serving)
            if venue == "HYPERLIQUID":  # whole books, without numbers and snapshots
                assert serving.plan.applied == {}
                return
            assert serving.plan.applied == {"snapshot": 1}
            if venue != "COINBASE":  # whose books have no numbers on the stream
                assert reader.gaps >= 1

    run(work())


def test_a_crossed_snapshot_is_crossed_once() -> None:
    async def work() -> None:
        async with RecordedVenue(generated=Making(1), faults=["snapshot:form=crossed"]) as serving:
            path = f"{serving.rest_url}/fapi/v1/depth?symbol=BTCUSDT&limit=5"
            crossed, straight = (await get(path))[1], (await get(path))[1]
            assert Decimal(crossed["bids"][0][0]) > Decimal(crossed["asks"][0][0])
            assert Decimal(straight["bids"][0][0]) < Decimal(straight["asks"][0][0])
            assert crossed["lastUpdateId"] == straight["lastUpdateId"]

    run(work())
