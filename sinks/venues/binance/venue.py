"""Binance USD-M futures as a ``TradingVenue``: one account, one-way position mode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from schemas.secret import Secrets
from sinks.venues.binance import mapping
from sinks.venues.binance.account import BinanceAccount
from sinks.venues.binance.rest import RECV_WINDOW_MS, BinanceRest
from sinks.venues.binance.user_stream import UserStream
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
    OrderType,
    PositionReport,
    UserEvent,
    VenueStatus,
)

# Page sizes; the venue's own limits.
INCOME_PAGE, ORDERS_PAGE = 1_000, 1_000
# One request of userTrades covers at most seven days.
SPAN_MS = 7 * 24 * 3600 * 1000 - 1
# "No need to change margin type" and "No need to change leverage".
ALREADY_SO = ("-4046", "-4059")


class BinanceVenue(BinanceAccount):
    """See ``sinks.venues.common.adapter.TradingVenue``.

    Args:
        base_url: REST address of production, testnet or a simulated venue.
        stream_url: Address of the user stream, without ``/ws/<listenKey>``.
        key, secret: API key; the secret is an HMAC secret or an Ed25519 private key (PEM).
        secrets: Registers both for redaction.
        key_url: Host that answers for the key's restrictions; empty if there is none (testnet).
    """

    name = "BINANCE"

    def __init__(
        self,
        base_url: str,
        stream_url: str,
        key: str,
        secret: str,
        secrets: Secrets,
        *,
        key_url: str = "",
        recv_window_ms: int = RECV_WINDOW_MS,
    ) -> None:
        super().__init__(BinanceRest(base_url, key, secret, secrets, recv_window_ms))
        self._stream = UserStream(self._rest, stream_url)
        self._key_url = key_url

    async def refresh_rules(self) -> None:
        """Load the rules of all perpetual contracts."""
        call = "GET /fapi/v1/exchangeInfo"
        symbols = read(call, lambda answer: list(answer["symbols"]), await self._rest.request("GET", "/fapi/v1/exchangeInfo"))
        self._rules = rules_by_symbol("BINANCE", call, mapping.rules_of, [one for one in symbols if one.get("contractType") == "PERPETUAL"])

    # --- orders ---------------------------------------------------------------------------------------------------------

    async def place(self, request: OrderRequest) -> OrderReport:
        """Send an order; conditional orders go to the Algo Service."""
        if request.type is OrderType.STOP_MARKET:
            answer = await self._signed("POST", "/fapi/v1/algoOrder", mapping.conditional_params(request))
            return read("POST /fapi/v1/algoOrder", mapping.conditional_of, answer)
        answer = await self._signed("POST", "/fapi/v1/order", mapping.order_params(request))
        return read("POST /fapi/v1/order", mapping.order_of, answer)

    async def cancel(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Cancel an order; None if it is not open at the venue."""
        try:
            if conditional:
                # The answer only confirms the request, so the order is queried.
                await self._signed("DELETE", "/fapi/v1/algoOrder", {"clientAlgoId": client_order_id})
                return await self.query(symbol, client_order_id, conditional)
            params = {"symbol": symbol, "origClientOrderId": client_order_id}
            return read("DELETE /fapi/v1/order", mapping.order_of, await self._signed("DELETE", "/fapi/v1/order", params))
        except RequestRejected as refused:
            if refused.reason == "not_found":
                return None
            raise

    async def query(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Return the state of an order; None if the venue never received it.

        The fills of a triggered conditional order are those of the resulting order.
        """
        try:
            if not conditional:
                params = {"symbol": symbol, "origClientOrderId": client_order_id}
                return read("GET /fapi/v1/order", mapping.order_of, await self._signed("GET", "/fapi/v1/order", params))
            answer = await self._signed("GET", "/fapi/v1/algoOrder", {"clientAlgoId": client_order_id})
        except RequestRejected as refused:
            if refused.reason == "not_found":
                return None
            raise
        report = read("GET /fapi/v1/algoOrder", mapping.conditional_of, answer)
        return await self._with_what_it_became(report, answer.get("actualOrderId"))

    async def _with_what_it_became(self, report: OrderReport, actual: Any) -> OrderReport:
        if not actual or report.status is VenueStatus.NEW:
            return report
        answer = await self._signed("GET", "/fapi/v1/order", {"symbol": report.symbol, "orderId": str(actual)})
        became = read("GET /fapi/v1/order", mapping.order_of, answer)
        status = became.status if became.status is not VenueStatus.NEW else VenueStatus.TRIGGERED
        return replace(
            report,
            status=status,
            filled=became.filled,
            average_price=became.average_price,
            updated_at=max(report.updated_at, became.updated_at),
        )

    async def open_orders(self, symbol: str | None = None) -> Sequence[OrderReport]:
        """Return all open orders, including conditional orders."""
        params = {"symbol": symbol}
        plain = await self._signed("GET", "/fapi/v1/openOrders", params)
        conditional = await self._signed("GET", "/fapi/v1/openAlgoOrders", params)
        return [
            *read_rows("GET /fapi/v1/openOrders", mapping.order_of, plain),
            *read_rows("GET /fapi/v1/openAlgoOrders", mapping.conditional_of, conditional),
        ]

    async def cancel_all(self, symbol: str) -> None:
        """Cancel every open order of a symbol."""
        await self._signed("DELETE", "/fapi/v1/allOpenOrders", {"symbol": symbol})
        await self._signed("DELETE", "/fapi/v1/algoOpenOrders", {"symbol": symbol})

    # --- account --------------------------------------------------------------------------------------------------------

    async def positions(self) -> Sequence[PositionReport]:
        """Return the positions that are not zero."""
        call = "GET /fapi/v3/positionRisk"
        rows = await self._signed("GET", "/fapi/v3/positionRisk", {})
        amounts = read_rows(call, lambda row: Decimal(row["positionAmt"]), rows)
        held = [row for row, amount in zip(rows, amounts, strict=True) if amount]
        if not held:
            return []
        config = await self._signed("GET", "/fapi/v1/symbolConfig", {})
        leverages = dict(read_rows("GET /fapi/v1/symbolConfig", lambda row: (row["symbol"], int(row["leverage"])), config))
        return read_rows(call, lambda row: mapping.position_of(row, leverages[row["symbol"]]), held)

    async def balances(self) -> Sequence[BalanceReport]:
        """Return the balances of the margin assets."""
        return read_rows("GET /fapi/v3/balance", mapping.balance_of, await self._signed("GET", "/fapi/v3/balance", {}))

    async def fills(self, symbol: str, since: int) -> Sequence[FillReport]:
        """Return the account's fills of a symbol since a time, oldest first.

        The trade list has only the venue's order ids. The client ids come from the orders and conditional orders.
        """
        call = "GET /fapi/v1/userTrades"
        rows = await self._trade_rows("/fapi/v1/userTrades", symbol, since, SPAN_MS, ends=False)
        wanted = read_rows(call, lambda row: str(row["orderId"]), rows)
        names = await self._client_ids(symbol, set(wanted)) if wanted else {}
        return read_rows(call, lambda row: mapping.fill_of(row, names[str(row["orderId"])]), rows)

    async def _client_ids(self, symbol: str, wanted: set[str]) -> dict[str, str]:
        """Return venue order id -> client id; for a triggered order the id of its conditional order."""
        names = await self._client_ids_of("/fapi/v1/order", symbol, wanted)
        rows = await self._signed("GET", "/fapi/v1/allAlgoOrders", {"symbol": symbol, "limit": ORDERS_PAGE})
        became = read_rows("GET /fapi/v1/allAlgoOrders", lambda row: (str(row.get("actualOrderId") or ""), str(row["clientAlgoId"])), rows)
        return names | {actual: name for actual, name in became if actual in wanted}

    async def funding(self, since: int) -> Sequence[FundingReport]:
        """Return the funding payments since a time, oldest first, all pages."""
        found: dict[tuple[str, str], FundingReport] = {}
        start = since
        while True:
            params = {"incomeType": "FUNDING_FEE", "startTime": start, "limit": INCOME_PAGE}
            page = read_rows("GET /fapi/v1/income", mapping.funding_of, await self._signed("GET", "/fapi/v1/income", params))
            fresh = [one for one in page if (one.payment_id, one.symbol) not in found]
            found |= {(one.payment_id, one.symbol): one for one in fresh}
            if len(page) < INCOME_PAGE or not fresh:
                return sorted(found.values(), key=lambda one: (one.time, one.symbol))
            start = max(one.time for one in page)

    async def account(self) -> AccountPermissions:
        """Return the permissions of the key. Only the spot host answers for its restrictions; a testnet does not know them."""
        dual = await self._signed("GET", "/fapi/v1/positionSide/dual", {})
        one_way = read("GET /fapi/v1/positionSide/dual", lambda answer: not answer["dualSidePosition"], dual)
        trade: bool | None
        try:
            trade = bool((await self._signed("GET", "/fapi/v1/accountConfig", {}))["canTrade"])
        except (RequestRejected, KeyError):
            trade = None
        unknown = AccountPermissions(can_trade=trade, can_withdraw=None, one_way=one_way)
        if not self._key_url:
            return unknown
        try:
            key = await self._key_restrictions(self._key_url)
            return AccountPermissions(
                can_trade=trade if trade is not None else bool(key["enableFutures"]),
                can_withdraw=bool(key["enableWithdrawals"]),
                one_way=one_way,
                ip_restricted=bool(key["ipRestrict"]),
                can_transfer=key.get("permitsUniversalTransfer"),
            )
        except (VenueError, KeyError):
            return unknown

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        """Set the leverage of a symbol."""
        await self._unless_so("/fapi/v1/leverage", {"symbol": symbol, "leverage": leverage})

    async def set_isolated(self, symbol: str) -> None:
        """Set a symbol to isolated margin."""
        await self._unless_so("/fapi/v1/marginType", {"symbol": symbol, "marginType": "ISOLATED"})

    def user_events(self) -> AsyncIterator[UserEvent]:
        """Yield the account's events until closed."""
        return self._stream.events()

    async def _unless_so(self, path: str, params: dict[str, Any]) -> None:
        try:
            await self._signed("POST", path, params)
        except RequestRejected as refused:
            if refused.code not in ALREADY_SO:
                raise
