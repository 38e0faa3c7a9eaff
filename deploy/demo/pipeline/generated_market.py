"""The generated market of the demo: its contracts, its faults, and the account that trades there."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.partition import instrument_id
from sinks.venues.account_login import SIMULATED, account_id


@dataclass(frozen=True)
class GeneratedMarket:
    """A generated market. It provides data that no recording has: open interest, long/short ratios, funding, liquidations, orders at an exchange.

    Its simulated venue also fills orders. A live executor with its guard trades an account there by the signals of the market's
    strategies. When the market ends, the guard gets the command to close everything.

    Attributes:
        symbols: Its contracts, as the simulated venue names them.
        rate: Messages a second of all contracts together.
        messages: The market ends after this many messages.
        past_trades: Trades before its start, one a second. They cover the slower window of the strategies, half an hour.
        seed: Seed of the price walk. With this one the taker flow of 5 and of 30 minutes mostly has one sign, so there are signals.
        faults: Faults of the market data (see ``perpflow simulate --help``).
        trading_faults: Faults of the exchange: it refuses one order.
    """

    symbols: tuple[str, ...] = ("SIM001USDT", "SIM002USDT")
    rate: int = 100
    messages: int = 6_000
    past_trades: int = 2_100
    seed: int = 4
    faults: tuple[str, ...] = ("garbage:stream=aggTrade,at=200,n=3",)
    trading_faults: tuple[str, ...] = ("reject:on=order.place,at=1",)

    @property
    def instruments(self) -> list[str]:
        """Instrument ids."""
        return [instrument_id("BINANCE", symbol, "perp") for symbol in self.symbols]


# The account at the generated market's exchange. Its key is valid nowhere else.
ACCOUNT = account_id("BINANCE", SIMULATED)
ACCOUNT_KEY = {"PERPFLOW_API_KEY": "demo", "PERPFLOW_API_SECRET": "of-the-demo-only"}
ACCOUNTS = f"""[[accounts]]
name = "demo"
deposit = "10000"
keys = [{{key = "{ACCOUNT_KEY["PERPFLOW_API_KEY"]}", secret = "{ACCOUNT_KEY["PERPFLOW_API_SECRET"]}"}}]
"""
POLICY = """[entry]
style = "market"
[budget]
max_notional = 100000
max_margin = 10000
"""
# The services that trade that account. They stop when it is closed.
DESK = ("guard", "live")
