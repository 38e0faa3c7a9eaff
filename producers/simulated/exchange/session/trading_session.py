"""A running simulated exchange behind its protocol: the core with a clock, keys, listen keys, faults and order limits. No sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

from producers.simulated.exchange.core.engine import Exchange
from producers.simulated.exchange.session.faults import ExchangePlan
from producers.simulated.exchange.session.keys import AccountSpec, ApiKey

LISTEN_KEY_MS = 3_600_000
# Order limits of an account: (limit, window ms, interval of its header).
ORDER_LIMITS = ((300, 10_000, "10S"), (1200, 60_000, "1M"))


@dataclass
class _Listen:
    key: str
    account: str
    until: int


@dataclass
class Desk:
    """The state for the protocol's handlers.

    Attributes:
        exchange: The core. clock: The exchange's time without the fault ``skew``, ms UTC. other_clock: A second valid time of signatures,
        for recordings with a clock of another year. before: Called before every request with its symbol, if any, to update the core's
        market from the playback.
        order_limits: (limit, window ms, name) rows; empty: none.
    """

    exchange: Exchange
    clock: Callable[[], int]
    plan: ExchangePlan = field(default_factory=ExchangePlan)
    other_clock: Callable[[], int] | None = None
    before: Callable[[str | None], None] = lambda symbol: None
    order_limits: tuple[tuple[int, int, str], ...] = ORDER_LIMITS
    keys: dict[str, ApiKey] = field(default_factory=dict)
    _listens: dict[str, _Listen] = field(default_factory=dict)
    _listen_count: int = 0
    _orders: dict[str, deque[int]] = field(default_factory=dict)

    def now(self) -> int:
        """Return the exchange's published clock, ms UTC."""
        skew = self.plan.state("skew")
        return self.clock() + (skew.ms if skew is not None else 0)

    def clocks(self) -> list[int]:
        """Return the valid times of a signature, ms UTC."""
        return [self.now(), *([self.other_clock()] if self.other_clock is not None else [])]

    def open_accounts(self, specs: Iterable[AccountSpec]) -> None:
        """Open accounts with their keys and first deposits. Raises ValueError on a name or key that is taken."""
        for spec in specs:
            made = self.exchange.account_type(spec.name, maker=spec.maker, taker=spec.taker, dual=spec.dual, default_leverage=spec.leverage)
            self.exchange.add_account(made)
            if spec.deposit:
                self.exchange.deposit(spec.name, spec.deposit, self.clock())
            for key in spec.keys:
                if key.key in self.keys:
                    raise ValueError(f"account {spec.name}: key {key.key!r} is taken")
                self.keys[key.key] = key

    # --- listen keys --------------------------------------------------------------------------------------------------
    def start_listening(self, account: str) -> str:
        """Return the listen key of an account. A valid one is kept and prolonged."""
        now = self.now()
        found = next((one for one in self._listens.values() if one.account == account and one.until > now), None)
        if found is None:
            self._listen_count += 1
            key = blake2b(f"{account}|{self._listen_count}".encode(), digest_size=32).hexdigest()
            found = self._listens[key] = _Listen(key, account, 0)
        found.until = now + LISTEN_KEY_MS
        return found.key

    def keep_listening(self, account: str) -> str | None:
        """Prolong the listen key of an account; None: it has no valid one."""
        return self.start_listening(account) if self.listening(account) else None

    def listening(self, account: str) -> list[str]:
        """Return the valid listen keys of an account."""
        now = self.now()
        return [one.key for one in self._listens.values() if one.account == account and one.until > now]

    def stop_listening(self, account: str) -> list[str]:
        """End the listen keys of an account; return them."""
        ended = [key for key, one in self._listens.items() if one.account == account]
        for key in ended:
            del self._listens[key]
        return ended

    def expired(self) -> list[tuple[str, str]]:
        """Return (listen key, account) of those that expired since the last call."""
        now = self.now()
        ended = [(one.key, one.account) for one in self._listens.values() if one.until <= now]
        for key, _ in ended:
            del self._listens[key]
        return ended

    def expire_listen_keys(self, account: str) -> None:
        """Make the listen keys of an account expire now."""
        for one in self._listens.values():
            if one.account == account:
                one.until = 0

    def account_of(self, listen_key: str) -> str | None:
        """Return the account of a valid listen key."""
        one = self._listens.get(listen_key)
        return one.account if one is not None and one.until > self.now() else None

    # --- order limits -------------------------------------------------------------------------------------------------
    def count_order(self, account: str) -> str | None:
        """Count an order. Return the name of the limit that it breaks, if any. Wall time of the exchange."""
        now = self.clock()
        sent = self._orders.setdefault(account, deque())
        while sent and sent[0] <= now - max((window for _, window, _ in self.order_limits), default=0):
            sent.popleft()
        for limit, window, name in self.order_limits:
            if sum(time > now - window for time in sent) >= limit:
                return name
        sent.append(now)
        return None

    def order_counts(self, account: str) -> dict[str, str]:
        """Return the headers with the number of orders."""
        now, sent = self.clock(), self._orders.get(account, ())
        return {f"X-MBX-ORDER-COUNT-{name}": str(sum(time > now - window for time in sent)) for _, window, name in self.order_limits}
