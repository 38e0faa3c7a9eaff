"""The lab of ``live_lab`` with coins: the simulated spot exchange, the spot adapter, and the books of both compared."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from producers.simulated.exchange.core.rules import Contract
from producers.simulated.exchange.server import SimulatedExchange
from producers.simulated.exchange.session.keys import AccountSpec, ApiKey
from schemas.process.service import Service
from schemas.secret import Secrets
from schemas.settings import Settings
from sinks.live.service import LiveExecutor
from sinks.venues.binance_spot.venue import BinanceSpotVenue
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.state.records import Account
from tests.support.trading.live_lab import KEY, SECRET, SYMBOL, D, Lab

INSTRUMENT = f"BINANCE:{SYMBOL}"
ACCOUNT = Account("simulated", "BINANCE", "BINANCE_SPOT-simulated", "lab", is_spot=True)
CONTRACT = Contract.of(SYMBOL, "0.1", "0.00001")
# Coins below the venue's least order: nothing protects or sells them.
SMALL = D("0.0001")


def exchange(contract: Contract = CONTRACT, **more: Any) -> SimulatedExchange:
    """Return a spot exchange with one account, not running yet."""
    spec = AccountSpec("lab", keys=(ApiKey(KEY, "lab", SECRET),), deposit=D(10_000), maker=D("0.001"), taker=D("0.001"))
    return SimulatedExchange([spec], [contract], venue="BINANCE_SPOT", **more)


def spot_adapter(rest_url: str, ws_url: str, kind: type[BinanceSpotVenue] = BinanceSpotVenue) -> BinanceSpotVenue:
    """Return the adapter of the lab's account, not open yet."""
    return kind(rest_url, f"{ws_url}/ws-api/v3", KEY, SECRET, Secrets(), key_url=rest_url)


class SpotLab(Lab):
    """The lab with a spot exchange and the spot instrument."""

    account, instrument = ACCOUNT, INSTRUMENT

    def __init__(self, settings: Settings, contract: Contract = CONTRACT) -> None:
        super().__init__(settings)
        self.venue = exchange(contract)

    @staticmethod
    def instrument_of(symbol: str) -> str:
        return f"BINANCE:{symbol}"

    def executor(self, service: Service, policy: LivePolicy, **more: Any) -> LiveExecutor:
        return LiveExecutor(self.settings, service, ACCOUNT, spot_adapter(self.venue.rest_url, self.venue.ws_url), policy, **more)

    @property
    def resting(self) -> list[str]:
        """Types of the open orders."""
        return [one["type"] for one in self.truth()["open_orders"]]

    @property
    def position(self) -> Decimal:
        """Coins, where they can be sold."""
        coins = D(self.truth()["balances"].get("BTC", "0"))
        return coins if coins >= SMALL else D(0)

    def held_and_covered(self) -> tuple[Decimal, Decimal]:
        truth = self.truth()
        stops = [one for one in truth["open_orders"] if one["type"].startswith("STOP_LOSS")]
        coins = D(truth["balances"].get("BTC", "0"))
        # What is too small for an order of its own is kept as dust.
        covered = sum((D(one["origQty"]) - D(one["executedQty"]) for one in stops), D(0))
        return coins if coins >= SMALL else D(0), covered + SMALL


def assert_coins_equal(lab: SpotLab) -> None:
    """Journal and exchange agree: every execution once, coins, money to the last digit. Coins that are not open were booked as dust."""
    truth, trades = lab.truth(), lab.journal()
    booked = {fill.trade_id: fill for trade in trades for fill in trade.fills.values() if fill.trade_id > 0}
    told = {int(one["id"]): one for one in truth["fills"]}
    assert booked.keys() == told.keys()
    for number, one in told.items():
        assert (booked[number].price, booked[number].quantity) == (D(one["price"]), D(one["qty"])), one
    assert D(truth["balances"]["USDT"]) == D(10_000) + sum((trade.cash for trade in trades), D(0))
    dust = -sum((fill.side.sign * fill.quantity for trade in trades for fill in trade.fills.values() if fill.leg == "dust"), D(0))
    held = sum((trade.booked_exposure for trade in trades), D(0))
    assert D(truth["balances"].get("BTC", "0")) == dust + held
    assert {one["clientOrderId"] for one in truth["open_orders"]} == {order.client_id for trade in trades for order in trade.live}
