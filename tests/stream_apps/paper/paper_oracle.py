"""An independent paper simulator: one Python loop over single trades, in Decimal.

Written from DECISIONS D19-D22, and for V5.0 from S2 6, and not from the model's code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from typing import Any

D = Decimal
# Its opposite signals only close, and a stop trails the rest from the second target on: 1 R behind, in steps of 0.1 R.
V50 = "v50_rules"
ZERO = D(0)


def dec(value: float) -> Decimal:
    return D(repr(float(value)))


def sig(value: Decimal, digits: int) -> Decimal:
    return Context(prec=digits).plus(value)


@dataclass
class Ticket:
    """One accepted signal on its way through pending, open and closed."""

    signal: dict[str, Any]
    quantity: Decimal
    state: str = "pending"
    entry: Decimal = ZERO
    entry_time: int = 0
    stop: Decimal = ZERO
    left: Decimal = ZERO
    flip_at: int | None = None
    gross: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO
    slip: Decimal = ZERO
    exits: list[tuple[Decimal, Decimal]] = field(default_factory=list)
    high: Decimal | None = None
    low: Decimal | None = None
    last: Decimal = ZERO
    tp1_done: bool = False
    followed: int = -1  # steps of the trailing stop; -1: it does not trail
    trailed: bool = False  # it moved the stop

    @property
    def long(self) -> bool:
        return self.signal["direction"] == "LONG"


class Oracle:
    """Feed it ``trade``, ``settle`` and ``signal`` calls in order of time."""

    def __init__(
        self, latency=250, bps=1.0, taker=0.0005, maker=0.0002, expiry=60_000, max_age=60_000, depth=(), tick=None, lot=None
    ) -> None:
        """``depth``: (time, live, bids, asks) with (price, quantity) levels, in order of time. ``tick`` and ``lot``: of the contract."""
        self.depth, self.tick, self.lot, self.now = list(depth), tick, lot, 0
        self.latency, self.bps, self.taker, self.maker = latency, dec(bps), dec(taker), dec(maker)
        self.expiry, self.max_age = expiry, max_age
        self.live: dict[tuple[str, str], list[Ticket]] = {}
        self.closed: list[dict[str, Any]] = []
        self.expired: list[str] = []
        self.refused: list[str] = []

    def signal(self, s: dict[str, Any]) -> None:
        key = (s["instrument"], s["strategy_id"])
        self.expire(key, s["event_time"])
        tickets = self.live.setdefault(key, [])
        if [t for t in tickets if t.state == "pending"]:
            return
        if not tickets:
            if not s["entry"]:
                return
            used = sum(1 for (_, strategy), held in self.live.items() if strategy == s["strategy_id"] and held)
            if s["decided_at"] - s["event_time"] > self.max_age or used >= s["max_positions"]:
                self.refused.append(s["signal_id"])
                return
        else:
            if tickets[0].signal["direction"] == s["direction"] or not s["flip"]:
                return
            if s["decided_at"] - s["event_time"] > self.max_age:
                self.refused.append(s["signal_id"])
                return
            if tickets[0].flip_at is None:
                tickets[0].flip_at = s["decided_at"] + self.latency
            if not s["entry"] or s["strategy_version"] == V50:
                return
        one_r = dec(s["initial_balance"]) * dec(s["risk_per_trade"])
        quantity = sig(one_r * dec(s["risk_multiple"]) / dec(s["risk_distance"]), 14)
        if self.lot is not None:
            quantity -= quantity % (2 * dec(self.lot))
            if not quantity:
                self.refused.append(s["signal_id"])
                return
        tickets.append(Ticket(s, quantity))

    def expire(self, key: tuple[str, str], now: int) -> None:
        for t in self.live.get(key, []):
            if t.state == "pending" and now >= t.signal["decided_at"] + self.latency + self.expiry:
                t.state = "expired"
                self.expired.append(t.signal["signal_id"])
        self.live[key] = [t for t in self.live.get(key, []) if t.state in ("pending", "open")]

    def settle(self, instrument: str, time: int, rate: float, mark: float | None) -> None:
        for (name, _), tickets in self.live.items():
            for t in tickets:
                if name == instrument and t.state == "open" and t.entry_time < time:
                    value = t.left * (dec(mark) if mark is not None else t.last)
                    t.funding += value * dec(rate) * (1 if t.long else -1)

    def trade(self, instrument: str, time: int, price: float) -> None:
        self.now = time
        with localcontext(Context(prec=80)):
            for key in [key for key in self.live if key[0] == instrument]:
                for t in list(self.live[key]):
                    self._trade(t, time, dec(price))
                self.live[key] = [t for t in self.live[key] if t.state in ("pending", "open")]

    def _market(self, price: Decimal, buy: bool, quantity: Decimal) -> Decimal:
        worse = 1 + self.bps / 10_000 if buy else 1 - self.bps / 10_000
        known = [one for one in self.depth if one[0] <= self.now]
        if known and known[-1][1] and self.now - known[-1][0] <= 5_000 and known[-1][3 if buy else 2]:
            units: list[tuple[Decimal, Decimal]] = []
            for level, size in known[-1][3 if buy else 2]:
                units.append((dec(level), min(dec(size), quantity - sum((u for _, u in units), ZERO))))
            rest = quantity - sum((u for _, u in units), ZERO)
            cost = sum((p * u for p, u in units), ZERO) + rest * dec(known[-1][3 if buy else 2][-1][0]) * worse
            mean = sig(cost / quantity, 15)
            return max(mean, price) if buy else min(mean, price)
        return sig(price * worse, 15)

    def _on_tick(self, price: Decimal, up: bool) -> Decimal:
        if self.tick is None:
            return sig(price, 15)
        over = price % dec(self.tick)
        return sig(price - over + (dec(self.tick) if up and over else ZERO), 15)

    def _trade(self, t: Ticket, time: int, price: Decimal) -> None:
        s = t.signal
        distance = dec(s["risk_distance"])
        if t.state == "pending":
            at = s["decided_at"] + self.latency
            if time > at + self.expiry:
                t.state = "expired"
                self.expired.append(s["signal_id"])
            elif time >= at:
                t.entry, t.entry_time, t.state, t.left, t.last = self._market(price, t.long, t.quantity), time, "open", t.quantity, price
                t.stop = self._on_tick(t.entry - distance if t.long else t.entry + distance, not t.long)
                t.fees += t.entry * t.quantity * self.taker
                t.slip += abs(t.entry - price) * t.quantity
            return
        t.last = price
        t.high = price if t.high is None else max(t.high, price)
        t.low = price if t.low is None else min(t.low, price)
        if (price <= t.stop) if t.long else (price >= t.stop):
            self._leave(t, time, price, "trailing_stop" if t.trailed else "break_even_stop" if t.tp1_done else "stop")
            return
        level = {n: self._on_tick(t.entry + (1 if t.long else -1) * dec(s[n]) * distance, t.long) for n in ("tp1_ratio", "tp2_ratio")}
        beyond = {n: price > p if t.long else price < p for n, p in level.items()}
        if not t.tp1_done and beyond["tp1_ratio"]:
            t.tp1_done = True
            self._bank(t, level["tp1_ratio"], t.quantity / 2, self.maker)
            f = self.taker if t.long else -self.taker
            t.stop = self._on_tick(t.entry * (1 + f) / (1 - f), t.long)
        if t.tp1_done and s["strategy_version"] == V50:
            self._follow(t, price)
        elif t.tp1_done and beyond["tp2_ratio"]:
            self._bank(t, level["tp2_ratio"], t.left, self.maker)
            self._report(t, time, "tp2")
            return
        timeout = t.entry_time + s["timeout_minutes"] * 60_000
        if t.flip_at is not None and t.flip_at < timeout and time >= t.flip_at:
            self._leave(t, time, price, "flip")
        elif time >= timeout:
            self._leave(t, time, price, "timeout")

    def _follow(self, t: Ticket, price: Decimal) -> None:
        sign, distance, second = 1 if t.long else -1, dec(t.signal["risk_distance"]), dec(t.signal["tp2_ratio"])
        while (price - self._on_tick(t.entry + sign * (second + D(t.followed + 1) / 10) * distance, t.long)) * sign > 0:
            t.followed += 1
            stop = self._on_tick(t.entry + sign * (second + D(t.followed) / 10 - 1) * distance, not t.long)
            if stop > t.stop if t.long else stop < t.stop:
                t.stop, t.trailed = stop, True

    def _leave(self, t: Ticket, time: int, price: Decimal, reason: str) -> None:
        at = self._market(price, not t.long, t.left)
        t.slip += abs(at - price) * t.left
        self._bank(t, at, t.left, self.taker)
        self._report(t, time, reason)

    def _bank(self, t: Ticket, price: Decimal, quantity: Decimal, rate: Decimal) -> None:
        t.gross += (price - t.entry if t.long else t.entry - price) * quantity
        t.fees += price * quantity * rate
        t.left -= quantity
        t.exits.append((price, quantity))

    def _report(self, t: Ticket, time: int, reason: str) -> None:
        t.state = "closed"
        s = t.signal
        risk = dec(s["initial_balance"]) * dec(s["risk_per_trade"]) * dec(s["risk_multiple"])
        net = t.gross - t.fees - t.funding
        assert t.high is not None and t.low is not None
        up, down = t.high - t.entry, t.entry - t.low
        self.closed.append(
            {
                "trade_id": s["signal_id"],
                "entry_time": t.entry_time,
                "event_time": time,
                "entry_price": float(t.entry),
                "exit_price": float(sum((p * q for p, q in t.exits), D(0)) / t.quantity),
                "exit_reason": reason,
                "tp1_hit": t.tp1_done,
                "quantity": float(t.quantity),
                "net_pnl": float(net),
                "fees": float(t.fees),
                "funding": float(t.funding),
                "gross_r": float(t.gross / risk),
                "fee_r": float(t.fees / risk),
                "funding_r": float(t.funding / risk),
                "slippage_r": float(t.slip / risk),
                "net_r": float(net / risk),
                "mfe_r": float(max(up if t.long else down, D(0)) / dec(s["risk_distance"])),
                "mae_r": float(max(down if t.long else up, D(0)) / dec(s["risk_distance"])),
                "hold_ms": time - t.entry_time,
            }
        )
