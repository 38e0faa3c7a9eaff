"""Declared misbehaviour of the simulated exchange: text, ``kind:option=value,...``. The hits depend on the seed, the fault's index in the
plan and the ordinal of the request or message, never on time.

Of requests (``on``: name of the operation, ``*`` for any; see ``binance.api``):

- latency: delay of ``ms`` (500) before the exchange sees it; ``side=out``: after its execution, before the response.
- lost: it is executed, but the connection breaks before the response; ``how=503`` "Unknown error", ``how=timeout`` -1007, ``how=504``
  instead.
- unsent: the connection breaks before the exchange sees it.
- late: the connection breaks at once, and the request arrives ``ms`` (1000) later, if its receive window still allows.
- reject: it is refused with ``code`` (-2010) and not executed.
- status: the response is HTTP ``code`` (503: "Service Unavailable"; 429, 418, 403, 500, 502) and not executed; ``retry_after`` seconds.
- unknown: as ``lost:how=503``, but not executed.
- partial: takers find only ``share`` (0.5) of the quantity in the book.

Of messages of the user stream (``on``: type of the message, e.g. ``ORDER_TRADE_UPDATE``):

- duplicate: it comes twice. drop: it does not come. hold: it and all later ones are delayed by ``ms`` (1000). swap: it comes after its
  successor. late_event: only it is delayed by ``ms`` (1000). cut: the connections of the stream break after it.

Of the whole exchange, while they are active: skew (its clock is ``ms`` (5000) ahead, behind if negative), maintenance (every request is
refused, user streams are closed).

Selection: ``rate`` (share), or ``at`` (ordinal of the first hit, from 0, counted since the fault was added) with ``n`` (number of hits, 1;
0: all from there on).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from hashlib import blake2b

REQUEST_KINDS = ("latency", "lost", "unsent", "late", "reject", "status", "unknown", "partial")
MESSAGE_KINDS = ("duplicate", "drop", "hold", "swap", "late_event", "cut")
STATE_KINDS = ("skew", "maintenance")
_COMMON: dict[str, type] = {"on": str, "account": str, "rate": float, "at": int, "n": int}
_OWN: dict[str, dict[str, type]] = {
    "latency": {"ms": int, "side": str},
    "lost": {"how": str},
    "late": {"ms": int},
    "reject": {"code": int},
    "status": {"code": int, "retry_after": int},
    "partial": {"share": Decimal},
    "hold": {"ms": int},
    "late_event": {"ms": int},
    "skew": {"ms": int},
}
_CHOICES = {"side": ("in", "out"), "how": ("cut", "503", "504", "timeout")}
_MS = {"latency": 500, "skew": 5000}


@dataclass
class ExchangeFault:
    """One declared fault; see above."""

    kind: str
    on: str = "*"
    account: str | None = None
    rate: float | None = None
    at: int = 0
    n: int = 1
    ms: int = 1000
    side: str = "in"
    how: str = "cut"
    code: int = 503
    retry_after: int = 1
    share: Decimal = Decimal("0.5")
    seen: int = field(default=0, compare=False)

    @classmethod
    def parse(cls, text: str) -> ExchangeFault:
        """Read a fault. Raises ValueError that names the invalid part."""
        kind, _, rest = text.strip().partition(":")
        if kind not in REQUEST_KINDS + MESSAGE_KINDS + STATE_KINDS:
            raise ValueError(f"fault {text!r}: unknown kind {kind!r}")
        known = (_COMMON if kind not in STATE_KINDS else {}) | _OWN.get(kind, {})
        made = cls(kind, ms=_MS.get(kind, 1000), code=-2010 if kind == "reject" else 503)
        for option in filter(None, rest.split(",")):
            name, sep, value = option.strip().partition("=")
            if not sep or name not in known:
                raise ValueError(f"fault {text!r}: {kind} has no option {name!r}; it has {', '.join(known)}")
            try:
                setattr(made, name, known[name](value))
            except (ValueError, ArithmeticError):
                raise ValueError(f"fault {text!r}: {name}: cannot read {value!r}") from None
            if name in _CHOICES and value not in _CHOICES[name]:
                raise ValueError(f"fault {text!r}: {name}: expected {' or '.join(_CHOICES[name])}")
        if made.rate is not None and not 0 < made.rate <= 1:
            raise ValueError(f"fault {text!r}: rate: expected more than 0 and at most 1")
        if made.n < 0 or made.at < 0 or (made.ms < 0 and kind != "skew") or not 0 <= made.share < 1:
            raise ValueError(f"fault {text!r}: a figure is out of range")
        return made


class ExchangePlan:
    """The active faults.

    Args:
        faults: As text. seed: Of the draws of ``rate``.

    Attributes:
        applied: Number of hits of each kind.
    """

    def __init__(self, faults: Iterable[str] = (), seed: int = 0) -> None:
        self.faults: list[ExchangeFault] = []
        self.applied: dict[str, int] = {}
        self._seed = seed
        self._added = 0
        self._places: dict[int, int] = {}
        self.add(faults)

    def add(self, faults: Iterable[str]) -> None:
        """Activate more faults; none of them if one is invalid (ValueError)."""
        made = [ExchangeFault.parse(text) for text in faults]
        for fault in made:
            self._places[id(fault)] = self._added
            self._added += 1
        self.faults += made

    def clear(self) -> None:
        """Deactivate all faults."""
        self.faults = []
        self._places = {}

    def state(self, kind: str) -> ExchangeFault | None:
        """Return the active fault of the whole exchange; the newest counts."""
        return next((one for one in reversed(self.faults) if one.kind == kind), None)

    def request(self, operation: str, account: str) -> list[ExchangeFault]:
        """Return the faults of a request, in the order of the plan. Each call counts it."""
        return self._hit(REQUEST_KINDS, operation, account)

    def message(self, kind: str, account: str) -> list[ExchangeFault]:
        """Return the faults of a message of the user stream. Each call counts it."""
        return self._hit(MESSAGE_KINDS, kind, account)

    def _hit(self, kinds: tuple[str, ...], name: str, account: str) -> list[ExchangeFault]:
        found = []
        for fault in self.faults:
            if fault.kind not in kinds or not fnmatchcase(name, fault.on) or fault.account not in (None, account):
                continue
            ordinal, fault.seen = fault.seen, fault.seen + 1
            if fault.rate is not None:
                text = f"{self._seed}|{self._places[id(fault)]}|{ordinal}".encode()
                hit = int.from_bytes(blake2b(text, digest_size=8).digest(), "big") < fault.rate * 2**64
            else:
                hit = ordinal >= fault.at and (fault.n == 0 or ordinal < fault.at + fault.n)
            if hit:
                self.applied[fault.kind] = self.applied.get(fault.kind, 0) + 1
                found.append(fault)
        return found
