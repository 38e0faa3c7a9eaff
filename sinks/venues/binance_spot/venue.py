"""Binance spot as a ``TradingVenue`` with order pairs: coins instead of positions, no leverage, no funding."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from decimal import ROUND_DOWN, Decimal

from schemas.secret import Secrets
from sinks.venues.binance.account import BinanceAccount
from sinks.venues.binance.rest import RECV_WINDOW_MS, BinanceRest
from sinks.venues.binance_spot import mapping
from sinks.venues.binance_spot.user_stream import VENUE, SpotUserStream
from sinks.venues.common.adapter import RequestRejected, VenueError
from sinks.venues.common.response_parsing import read, read_rows
from sinks.venues.common.rest_connection import rules_by_symbol
from stream_apps.core.execution.orders.venue_reports import (
    AccountPermissions,
    BalanceReport,
    FillReport,
    FundingReport,
    OrderReport,
    OrderRequest,
    PairRequest,
    PositionReport,
    UserEvent,
)

# One request of myTrades covers at most a day.
SPAN_MS = 24 * 3600 * 1000 - 1
WEIGHT_PER_MINUTE = 6_000


class BinanceSpotVenue(BinanceAccount):
    """See ``sinks.venues.common.adapter.TradingVenue`` and ``PairVenue``.

    Args:
        base_url: REST address of production, testnet or a simulated venue.
        stream_url: Address of the WebSocket API.
        key, secret: API key; the secret is an HMAC secret or an Ed25519 private key (PEM).
        secrets: Registers both for redaction.
        key_url: Host that answers for the key's restrictions; empty if there is none (testnet).
        quote: Quote asset of all traded pairs.
    """

    name = VENUE

    def __init__(
        self,
        base_url: str,
        stream_url: str,
        key: str,
        secret: str,
        secrets: Secrets,
        *,
        key_url: str = "",
        quote: str = "USDT",
        recv_window_ms: int = RECV_WINDOW_MS,
    ) -> None:
        window, time_path = recv_window_ms, "/api/v3/time"
        super().__init__(
            BinanceRest(base_url, key, secret, secrets, window, venue=VENUE, time_path=time_path, weight_limit=WEIGHT_PER_MINUTE)
        )
        self._stream = SpotUserStream(self._rest, stream_url)
        self._key_url, self._quote = key_url, quote

    async def refresh_rules(self) -> None:
        """Load the rules of all instruments of the quote asset."""
        call = "GET /api/v3/exchangeInfo"
        symbols = read(call, lambda answer: list(answer["symbols"]), await self._rest.request("GET", "/api/v3/exchangeInfo"))
        self._rules = rules_by_symbol(VENUE, call, mapping.rules_of, [one for one in symbols if one.get("quoteAsset") == self._quote])

    # --- orders ---------------------------------------------------------------------------------------------------------

    async def place(self, request: OrderRequest) -> OrderReport:
        """Send an order."""
        answer = await self._signed("POST", "/api/v3/order", mapping.order_params(request))
        if "status" in answer:
            return read("POST /api/v3/order", mapping.order_of, answer)
        # The answer to a stop does not contain its state.
        found = await self.query(request.symbol, request.client_order_id, conditional=True)
        if found is None:
            raise RequestRejected("other", "", "the venue does not know an order that it acknowledged")
        return found

    async def place_pair(self, pair: PairRequest) -> Sequence[OrderReport]:
        """Send a pair as an order list."""
        answer = await self._signed("POST", "/api/v3/orderList/oco", mapping.pair_params(pair))
        return read("POST /api/v3/orderList/oco", mapping.pair_of, answer)

    async def cancel(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Cancel an order and the other order of its list; None if it is not open at the venue."""
        reports = await self._unless_missing(
            "DELETE",
            "/api/v3/order",
            lambda answer: mapping.pair_of(answer) if "orderReports" in answer else [mapping.order_of(answer)],
            {"symbol": symbol, "origClientOrderId": client_order_id},
        )
        if reports is None:
            return None
        found = next((one for one in reports if one.client_order_id == client_order_id), None)
        return found if found is not None else await self.query(symbol, client_order_id, conditional)

    async def query(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Return the state of an order; None if the venue never received it."""
        params = {"symbol": symbol, "origClientOrderId": client_order_id}
        return await self._unless_missing("GET", "/api/v3/order", mapping.order_of, params)

    async def open_orders(self, symbol: str | None = None) -> Sequence[OrderReport]:
        """Return all open orders, including both orders of each list."""
        rows = await self._signed("GET", "/api/v3/openOrders", {"symbol": symbol})
        return read_rows("GET /api/v3/openOrders", mapping.order_of, rows)

    async def cancel_all(self, symbol: str) -> None:
        """Cancel every open order of a symbol."""
        try:
            await self._signed("DELETE", "/api/v3/openOrders", {"symbol": symbol})
        except RequestRejected as refused:
            # "Unknown order": no order is open.
            if refused.reason != "not_found":
                raise

    # --- account --------------------------------------------------------------------------------------------------------

    async def positions(self) -> Sequence[PositionReport]:
        """Return the coins of the account, including locked ones, in whole lots, at the last price.

        A spot account has no entry prices, so the entry price is the last price, too.

        Raises:
            MalformedResponse: a held coin has no price. Without it the coin would seem to be sold.
        """
        held = {one.asset: one.wallet for one in await self.balances()}
        found = {}
        for rules in self._rules.values():
            quantity = (held.get(rules.base, Decimal(0)) / rules.lot).to_integral_value(ROUND_DOWN) * rules.lot
            if quantity > 0:
                found[rules.symbol] = quantity
        if not found:
            return []
        call = "GET /api/v3/ticker/price"
        rows = await self._rest.request("GET", "/api/v3/ticker/price")
        prices = dict(read_rows(call, lambda row: (row["symbol"], row["price"]), rows))
        held_at = read(call, lambda prices: {symbol: Decimal(prices[symbol]) for symbol in sorted(found)}, prices)
        now = self._rest.venue_time()
        return [PositionReport(symbol, found[symbol], price, price, Decimal(0), 1, None, None, now) for symbol, price in held_at.items()]

    async def balances(self) -> Sequence[BalanceReport]:
        """Return the balances that are not zero."""
        answer = await self._signed("GET", "/api/v3/account", {"omitZeroBalances": True})
        return read("GET /api/v3/account", lambda answer: [mapping.balance_of(one) for one in answer["balances"]], answer)

    async def fills(self, symbol: str, since: int) -> Sequence[FillReport]:
        """Return the account's fills of a symbol since a time, oldest first."""
        call = "GET /api/v3/myTrades"
        rows = await self._trade_rows("/api/v3/myTrades", symbol, since, SPAN_MS, ends=True)
        names = await self._client_ids_of("/api/v3/order", symbol, set(read_rows(call, lambda row: str(row["orderId"]), rows)))
        return read_rows(call, lambda row: mapping.fill_of(row, names[str(row["orderId"])]), rows)

    async def funding(self, since: int) -> Sequence[FundingReport]:
        """Return an empty list: spot has no funding."""
        return []

    async def account(self) -> AccountPermissions:
        """Return the permissions of the key. Only the production host answers for its restrictions; a testnet does not know them."""
        answer = await self._signed("GET", "/api/v3/account", {"omitZeroBalances": True})
        trade = read("GET /api/v3/account", lambda answer: bool(answer["canTrade"]), answer)
        if not self._key_url:
            return AccountPermissions(can_trade=trade, can_withdraw=None, one_way=True)
        try:
            key = await self._key_restrictions(self._key_url)
            return AccountPermissions(
                can_trade=trade and bool(key["enableSpotAndMarginTrading"]),
                can_withdraw=bool(key["enableWithdrawals"]),
                one_way=True,
                ip_restricted=bool(key["ipRestrict"]),
                can_transfer=key.get("permitsUniversalTransfer"),
            )
        except (VenueError, KeyError):
            return AccountPermissions(can_trade=trade, can_withdraw=None, one_way=True)

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        """Do nothing: spot has no leverage."""

    async def set_isolated(self, symbol: str) -> None:
        """Do nothing: spot has no margin."""

    def user_events(self) -> AsyncIterator[UserEvent]:
        """Yield the account's events until closed."""
        return self._stream.events()
