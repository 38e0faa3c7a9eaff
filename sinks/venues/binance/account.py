"""What Binance's futures and spot adapters share: signed requests, trade pages, and the restrictions of an API key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sinks.venues.binance.rest import BinanceRest
from sinks.venues.common.adapter import RequestRejected
from sinks.venues.common.response_parsing import read, read_rows
from sinks.venues.common.rest_connection import RestVenue

Read = TypeVar("Read")
# Most trades of a page; the venue's own limit.
TRADES_PAGE = 1_000


class BinanceAccount(RestVenue[BinanceRest]):
    """Requests that both products of Binance take in the same form."""

    async def _signed(self, method: str, path: str, params: dict[str, Any]) -> Any:
        return await self._rest.request(method, path, params, signed=True, urgent=method != "GET")

    async def _read(self, method: str, path: str, convert: Callable[[Any], Read], params: dict[str, Any]) -> Read:
        """Send a signed request and parse the answer."""
        return read(f"{method} {path}", convert, await self._signed(method, path, params))

    async def _unless_missing(self, method: str, path: str, convert: Callable[[Any], Read], params: dict[str, Any]) -> Read | None:
        """As ``_read``; None where the venue does not know the order."""
        try:
            return await self._read(method, path, convert, params)
        except RequestRejected as rejected:
            if rejected.reason == "not_found":
                return None
            raise

    async def _trade_rows(self, path: str, symbol: str, since: int, span_ms: int, *, ends: bool) -> list[dict[str, Any]]:
        """Return the account's trades of a symbol since a time (ms), all pages, by rising trade id.

        Args:
            path: Of the trade list.
            symbol: The venue's symbol.
            since: First time.
            span_ms: Longest time that one request may cover.
            ends: Whether a request must name the end of its time range.
        """
        found: dict[int, dict[str, Any]] = {}
        for start in range(since, self._rest.venue_time() + 1, span_ms):
            params: dict[str, Any] = {"symbol": symbol, "startTime": start, "limit": TRADES_PAGE}
            if ends:
                params["endTime"] = start + span_ms
            while page := await self._signed("GET", path, params):
                ids = read_rows(f"GET {path}", lambda row: int(row["id"]), page)
                found |= dict(zip(ids, page, strict=True))
                if len(page) < TRADES_PAGE:
                    break
                params = {"symbol": symbol, "fromId": max(ids) + 1, "limit": TRADES_PAGE}
        return [found[trade_id] for trade_id in sorted(found)]

    async def _client_ids_of(self, path: str, symbol: str, order_ids: set[str]) -> dict[str, str]:
        """Return venue order id -> client order id. The trade list names only the former."""
        return {
            order_id: await self._read("GET", path, lambda answer: str(answer["clientOrderId"]), {"symbol": symbol, "orderId": order_id})
            for order_id in sorted(order_ids)
        }

    async def _key_restrictions(self, host: str) -> dict[str, Any]:
        """Return what the API key may do. Only the production host of the spot API answers this."""
        answer: dict[str, Any] = await self._rest.request("GET", "/sapi/v1/account/apiRestrictions", signed=True, base=host)
        return answer
