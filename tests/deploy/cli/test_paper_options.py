"""Options of the paper model: what they set, and what is refused."""

from __future__ import annotations

import pytest

from deploy.cli.options.paper import paper_settings
from schemas.errors import UserError
from stream_apps.core.paper.position import FeeRates


def test_fees_are_those_of_the_venue_of_an_instrument() -> None:
    made = paper_settings(250, 1.0, 0.0005, 0.0002, ["binance=0.0004/0.00016", "OKX=0.0003/-0.00005"], True, False)
    assert made.fees_of("BINANCE:BTCUSDT-PERP") == FeeRates(taker=0.0004, maker=0.00016)
    assert made.fees_of("OKX:BTC-USDT-SWAP-PERP").maker == -0.00005 and made.fees_of("BYBIT:BTCUSDT-PERP") == FeeRates()
    assert made.walk_book and not made.use_filters


@pytest.mark.parametrize("text", ["BINANCE", "BINANCE=0.0004", "BINANCE=a/b", "BINANCE=0.5/0.1"])
def test_what_is_no_fee_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="fees"):
        paper_settings(250, 1.0, 0.0005, 0.0002, [text], True, True)
