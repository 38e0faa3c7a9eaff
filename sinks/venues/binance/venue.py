"""Binance USD-M futures as a ``TradingVenue``: one account, one-way position mode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from schemas.secret import Secrets
from sinks.venues.binance import mapping
from sinks.venues.binance.rest import RECV_WINDOW_MS, BinanceRest
from sinks.venues.binance.user_stream import UserStream
from sinks.venues.common.adapter import RequestRejected, VenueError
from sinks.venues.common.response_parsing import read, read_rows
from sinks.venues.common.rest_connection import RestVenue, rules_by_symbol
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

# What a page holds at most; the venue's own limits.
TRADES_PAGE, INCOME_PAGE, ORDERS_PAGE = 1_000, 1_000, 1_000
# userTrades, allOrders and allAlgoOrders answer for at most seven days a request.
SPAN_MS = 7 * 24 * 3600 * 1000 - 1
# "No need to change margin type" and "No need to change leverage".
ALREADY_SO = ("-4046", "-4059")


class BinanceVenue(RestVenue[BinanceRest]):
    """See ``sinks.venues.common.adapter.TradingVenue``.

    Args:
        base_url: REST, e.g. the production's, the testnet's or a simulated venue's.
        stream_url: Of the user stream, up to and without ``/ws/<listenKey>``.
        key, secret: Of the API key; the secret is an HMAC secret or an Ed25519 private key (PEM).
        secrets: Takes both, for redaction.
        key_url: Host that tells the key's own restrictions; empty where there is none (testnet).
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
        """Send an order; conditional ones go to the Algo Service."""
        if request.type is OrderType.STOP_MARKET:
            answer = await self._signed("POST", "/fapi/v1/algoOrder", mapping.conditional_params(request))
            return read("POST /fapi/v1/algoOrder", mapping.conditional_of, answer)
        answer = await self._signed("POST", "/fapi/v1/order", mapping.order_params(request))
        return read("POST /fapi/v1/order", mapping.order_of, answer)

    async def cancel(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Cancel an order; None where the venue no longer has it open."""
        try:
            if conditional:
                # The answer only confirms; the order's state is asked for.
                await self._signed("DELETE", "/fapi/v1/algoOrder", {"clientAlgoId": client_order_id})
                return await self.query(symbol, client_order_id, conditional)
            params = {"symbol": symbol, "origClientOrderId": client_order_id}
            return read("DELETE /fapi/v1/order", mapping.order_of, await self._signed("DELETE", "/fapi/v1/order", params))
        except RequestRejected as refused:
            if refused.reason == "not_found":
                return None
            raise

    async def query(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Return the state of an order; None where the venue never had it.

        Of a triggered conditional order the fills are those of the order that it became.
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
        """Return all open orders, conditional ones included."""
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
        """Return the margin assets."""
        return read_rows("GET /fapi/v3/balance", mapping.balance_of, await self._signed("GET", "/fapi/v3/balance", {}))

    async def fills(self, symbol: str, since: int) -> Sequence[FillReport]:
        """Return our fills of a symbol since a time, oldest first.

        The venue names a fill's order by its own id: the client ids come from the orders and conditional orders of the same time.
        """
        call = "GET /fapi/v1/userTrades"
        found: dict[int, dict[str, Any]] = {}
        for start in range(since, self._rest.venue_time() + 1, SPAN_MS):
            params: dict[str, Any] = {"symbol": symbol, "startTime": start, "limit": TRADES_PAGE}
            while page := await self._signed("GET", "/fapi/v1/userTrades", params):
                ids = read_rows(call, lambda row: int(row["id"]), page)
                found |= dict(zip(ids, page, strict=True))
                if len(page) < TRADES_PAGE:
                    break
                params = {"symbol": symbol, "fromId": max(ids) + 1, "limit": TRADES_PAGE}
        rows = [found[trade_id] for trade_id in sorted(found)]
        wanted = read_rows(call, lambda row: str(row["orderId"]), rows)
        names = await self._client_ids(symbol, set(wanted)) if wanted else {}
        return read_rows(call, lambda row: mapping.fill_of(row, names[str(row["orderId"])]), rows)

    async def _client_ids(self, symbol: str, wanted: set[str]) -> dict[str, str]:
        """Return venue order id -> client id, that of the conditional order where one became the order."""
        names = {}
        for order_id in sorted(wanted):
            answer = await self._signed("GET", "/fapi/v1/order", {"symbol": symbol, "orderId": order_id})
            names[order_id] = read("GET /fapi/v1/order", lambda answer: str(answer["clientOrderId"]), answer)
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
        """Return what preflight checks. The restrictions of a key are told by the spot host only; a testnet does not know them."""
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
            key = await self._rest.request("GET", "/sapi/v1/account/apiRestrictions", signed=True, base=self._key_url)
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
        """Put a symbol under isolated margin."""
        await self._unless_so("/fapi/v1/marginType", {"symbol": symbol, "marginType": "ISOLATED"})

    def user_events(self) -> AsyncIterator[UserEvent]:
        """Yield what happens to the account, for ever."""
        return self._stream.events()

    async def _unless_so(self, path: str, params: dict[str, Any]) -> None:
        try:
            await self._signed("POST", path, params)
        except RequestRejected as refused:
            if refused.code not in ALREADY_SO:
                raise

    async def _signed(self, method: str, path: str, params: dict[str, Any]) -> Any:
        return await self._rest.request(method, path, params, signed=True, urgent=method != "GET")
