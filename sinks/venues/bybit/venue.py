"""Bybit linear contracts as a ``TradingVenue``: one unified account, one-way position mode, settled in USDT."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from schemas.secret import Secrets
from sinks.venues.bybit import mapping
from sinks.venues.bybit.private_stream import PrivateStream
from sinks.venues.bybit.rest import RECV_WINDOW_MS, BybitRest
from sinks.venues.common.adapter import RequestRejected
from sinks.venues.common.response_parsing import read, read_rows
from sinks.venues.common.rest_connection import RestVenue, rules_by_symbol
from stream_apps.core.execution.orders.venue_reports import (
    AccountPermissions,
    BalanceReport,
    FillReport,
    FundingReport,
    OrderReport,
    OrderRequest,
    PositionReport,
    UserEvent,
)

SETTLE = "USDT"
ORDERS_PAGE, EXECUTIONS_PAGE, POSITIONS_PAGE, LOG_PAGE, RULES_PAGE = 50, 100, 200, 50, 1_000
# One request of executions or of the transaction log covers at most seven days.
SPAN_MS = 7 * 24 * 3600 * 1000 - 1
# "leverage not modified", "margin mode not modified".
ALREADY_SO = ("110043", "110026", "100028")


class BybitVenue(RestVenue[BybitRest]):
    """See ``sinks.venues.common.adapter.TradingVenue``.

    Args:
        base_url: REST address. stream_url: private stream, wss://HOST/v5/private.
        key, secret: API key (HMAC).
        secrets: Registers both for redaction.
    """

    name = "BYBIT"

    def __init__(
        self, base_url: str, stream_url: str, key: str, secret: str, secrets: Secrets, *, recv_window_ms: int = RECV_WINDOW_MS
    ) -> None:
        super().__init__(BybitRest(base_url, key, secret, secrets, recv_window_ms))
        self._stream = PrivateStream(self._rest, stream_url)

    async def refresh_rules(self) -> None:
        """Load the rules of all perpetual contracts."""
        rows = await self._pages("/v5/market/instruments-info", {"category": mapping.CATEGORY, "limit": RULES_PAGE}, signed=False)
        linear = [row for row in rows if row.get("contractType") == "LinearPerpetual"]
        self._rules = rules_by_symbol("BYBIT", "GET /v5/market/instruments-info", mapping.rules_of, linear)

    # --- orders ---------------------------------------------------------------------------------------------------------

    async def place(self, request: OrderRequest) -> OrderReport:
        """Send an order. The answer only confirms receipt; the stream later rejects a post-only order that would take liquidity."""
        result = await self._rest.post("/v5/order/create", mapping.order_body(request))
        now = self._rest.venue_time()
        return read("POST /v5/order/create", lambda result: mapping.acknowledged(request, result, now), result)

    async def cancel(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Cancel an order; None if it is not open at the venue."""
        try:
            await self._rest.post("/v5/order/cancel", {"category": mapping.CATEGORY, "symbol": symbol, "orderLinkId": client_order_id})
        except RequestRejected as refused:
            if refused.reason == "not_found":
                return None
            raise
        return await self.query(symbol, client_order_id, conditional)

    async def query(self, symbol: str, client_order_id: str, conditional: bool) -> OrderReport | None:
        """Return the state of an order; None if the venue never received it. Closed orders may be in the history only."""
        params = {"category": mapping.CATEGORY, "symbol": symbol, "orderLinkId": client_order_id}
        for path in ("/v5/order/realtime", "/v5/order/history"):
            rows = rows_of(f"GET {path}", await self._rest.get(path, params))
            if rows:
                return read(f"GET {path}", mapping.order_of, rows[0])
        return None

    async def open_orders(self, symbol: str | None = None) -> Sequence[OrderReport]:
        """Return all open orders, including conditional orders."""
        params = {
            "category": mapping.CATEGORY,
            "symbol": symbol,
            "settleCoin": None if symbol else SETTLE,
            "openOnly": 0,
            "limit": ORDERS_PAGE,
        }
        found = read_rows("GET /v5/order/realtime", mapping.order_of, await self._pages("/v5/order/realtime", params))
        return [one for one in found if not one.status.is_final]

    async def cancel_all(self, symbol: str) -> None:
        """Cancel every open order of a symbol."""
        await self._rest.post("/v5/order/cancel-all", {"category": mapping.CATEGORY, "symbol": symbol})

    # --- account --------------------------------------------------------------------------------------------------------

    async def positions(self) -> Sequence[PositionReport]:
        """Return the positions that are not zero."""
        rows = await self._pages("/v5/position/list", {"category": mapping.CATEGORY, "settleCoin": SETTLE, "limit": POSITIONS_PAGE})
        return [one for one in read_rows("GET /v5/position/list", mapping.position_of, rows) if one.quantity]

    async def balances(self) -> Sequence[BalanceReport]:
        """Return the balances of the margin assets."""
        path = "/v5/account/wallet-balance"
        return read(f"GET {path}", mapping.balances_of, await self._rest.get(path, {"accountType": "UNIFIED"}))

    async def fills(self, symbol: str, since: int) -> Sequence[FillReport]:
        """Return the account's fills of a symbol since a time, oldest first, all pages."""
        found: dict[int, FillReport] = {}
        for start in range(since, self._rest.venue_time() + 1, SPAN_MS):
            params = {
                "category": mapping.CATEGORY,
                "symbol": symbol,
                "startTime": start,
                "endTime": start + SPAN_MS,
                "limit": EXECUTIONS_PAGE,
            }
            for fill in read_rows("GET /v5/execution/list", mapping.fill_of, await self._pages("/v5/execution/list", params)):
                if fill is not None:
                    found[fill.trade_id] = fill
        return sorted(found.values(), key=lambda one: (one.time, one.trade_id))

    async def funding(self, since: int) -> Sequence[FundingReport]:
        """Return the funding payments since a time, oldest first, all pages."""
        found: dict[str, FundingReport] = {}
        for start in range(since, self._rest.venue_time() + 1, SPAN_MS):
            params = {
                "accountType": "UNIFIED",
                "category": mapping.CATEGORY,
                "type": "SETTLEMENT",
                "startTime": start,
                "endTime": start + SPAN_MS,
                "limit": LOG_PAGE,
            }
            rows = await self._pages("/v5/account/transaction-log", params)
            found |= {one.payment_id: one for one in read_rows("GET /v5/account/transaction-log", mapping.funding_of, rows)}
        return sorted(found.values(), key=lambda one: (one.time, one.symbol))

    async def account(self) -> AccountPermissions:
        """Return the permissions of the key. In hedge mode each side of a symbol has its own position (positionIdx 1 and 2)."""
        key = await self._rest.get("/v5/user/query-api")
        symbol = next(iter(self._rules), "BTCUSDT")
        held = rows_of("GET /v5/position/list", await self._rest.get("/v5/position/list", {"category": mapping.CATEGORY, "symbol": symbol}))
        one_way = all(read_rows("GET /v5/position/list", lambda row: int(row.get("positionIdx", 0)) == 0, held))
        return read("GET /v5/user/query-api", lambda key: mapping.account_of(key, one_way), key)

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        """Set the leverage of a symbol."""
        text = str(leverage)
        body = {"category": mapping.CATEGORY, "symbol": symbol, "buyLeverage": text, "sellLeverage": text}
        await self._unless_so("/v5/position/set-leverage", body)

    async def set_isolated(self, symbol: str) -> None:
        """Set the account to isolated margin: a unified account has one margin mode for all symbols."""
        await self._unless_so("/v5/account/set-margin-mode", {"setMarginMode": "ISOLATED_MARGIN"})

    def user_events(self) -> AsyncIterator[UserEvent]:
        """Yield the account's events until closed."""
        return self._stream.events()

    async def _unless_so(self, path: str, body: dict[str, Any]) -> None:
        try:
            await self._rest.post(path, body)
        except RequestRejected as refused:
            if refused.code not in ALREADY_SO:
                raise

    async def _pages(self, path: str, params: dict[str, Any], *, signed: bool = True) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            # Some answers contain a quoted cursor; it is sent back unchanged.
            result = await self._rest.get(path, {**params, "cursor": cursor}, signed=signed)
            page = rows_of(f"GET {path}", result)
            rows += page
            following = result.get("nextPageCursor") or None
            if not page or following is None or following == cursor:
                return rows
            cursor = following


def rows_of(call: str, result: Any) -> list[dict[str, Any]]:
    """Return the rows of a result. Raises MalformedResponse if the list is missing."""
    return read(call, lambda result: list(result["list"]), result)
