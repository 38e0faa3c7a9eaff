"""The true state of a spot account, for comparison."""

from __future__ import annotations

from typing import Any

from producers.simulated.exchange.spot import wire_format
from producers.simulated.exchange.spot.engine import SpotExchange


def spot_truth(exchange: SpotExchange, account: str) -> dict[str, Any]:
    """Return balances (total), orders, lists and every fill of an account; decimals as text."""
    owner = exchange.owner(account)
    orders = [one for one in exchange.orders.values() if one.account == account]
    lists = [one for one in exchange.lists.values() if one.account == account]
    return {
        "account": account,
        "balances": {asset: str(total) for asset, total in owner.balances.items()},
        "locked": {asset: str(exchange.locked(account, asset)) for asset in owner.balances},
        "open_orders": [wire_format.order_row(one, queried=True) for one in exchange.open_orders(account)],
        "orders": [wire_format.order_row(one, queried=True) for one in orders],
        "open_lists": [
            wire_format.list_row(one, [exchange.orders[number] for number in one.orders], None) for one in lists if not one.done
        ],
        "fills": [
            {**wire_format.trade_row(one, exchange.orders[one.order_id]), "clientOrderId": exchange.orders[one.order_id].client_id}
            for one in owner.fills
        ],
    }
