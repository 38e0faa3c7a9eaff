"""Declared faults of the simulated venue.

A fault is text, ``kind:option=value,...``; a plan is a list of faults and a seed. The hits depend only on the seed, the fault's index in
the plan, the stream and the ordinal of the message, never on time, speed or clients.

- drop: leaves messages out; gap: a run of n (10); silence: a run of n (100), or ``ms`` of venue time.
- duplicate: sends messages twice; reorder: sends a message after its successor.
- delay: holds the stream, in order, for ``ms`` (500) of venue time.
- garbage: sends broken messages, ``form`` = json (truncated), type, field (missing) or any; ``mode`` = replace or insert before the good
  one.
- cut: breaks the connections of ``route`` after every ``after`` (1000) messages of it, ``times`` (1) times; ``code`` closes properly.
- rest: the next n (1) requests (to ``path``) get ``status``: ``rest:429``, ``rest:418,n=3,retry_after=2``.
- snapshot: corrupts the next n (1) book snapshots, on a stream or over REST; ``form`` = stale (an old update id) or crossed (the best ask
  below the best bid).
- list, delist: a new instrument starts, or one ends, ``s`` seconds after the start (0: at once). ``list=NEWUSDT@10`` is short for
  ``list:symbol=NEWUSDT,s=10``.

The first seven take stream, symbol and: ``rate`` (share of hit messages, or of started runs), or ``at`` (ordinal of the first hit message,
from 0) with ``n`` (number). Without both, a fault starts with the next message of the stream. ``stream=depth`` means every cadence of it.
On any venue a stream can also be named by its kind of data: trades, depth, quotes, ticker, mark, funding, liquidations, open_interest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from producers.simulated.recording.book import Top

_RUNS = {"gap": 10, "silence": 100}
_FRAME_KINDS = ("drop", "gap", "silence", "duplicate", "reorder", "delay", "garbage")
_FORMS = ("json", "type", "field")
_SNAPSHOT_FORMS = ("stale", "crossed")
_LISTING = re.compile(r"(list|delist)=([^@:,=]+)(?:@([^@:,=]+))?")
# Age of a stale snapshot, in update ids.
_STALE = 1_000_000
_OPTIONS: dict[str, dict[str, type]] = {
    **{kind: {"stream": str, "symbol": str, "rate": float, "at": int, "n": int} for kind in _FRAME_KINDS},
    "cut": {"route": str, "symbol": str, "after": int, "times": int, "code": int},
    "rest": {"status": int, "n": int, "path": str, "retry_after": int},
    "snapshot": {"symbol": str, "n": int, "form": str},
    "list": {"symbol": str, "s": float},
    "delist": {"symbol": str, "s": float},
}
_OPTIONS["silence"] = {**_OPTIONS["silence"], "ms": int}
_OPTIONS["delay"] = {**_OPTIONS["delay"], "ms": int}
_OPTIONS["garbage"] = {**_OPTIONS["garbage"], "mode": str, "form": str}


@dataclass(frozen=True)
class Fault:
    """One declared fault; see the table above. ``n`` is the length of a run, or the number of hit messages without a rate."""

    kind: str
    stream: str | None = None
    symbol: str | None = None
    rate: float | None = None
    at: int | None = None
    n: int = 1
    ms: int | None = None
    mode: str = "replace"
    form: str = "any"
    route: str | None = None
    after: int = 1000
    times: int = 1
    code: int | None = None
    status: int = 429
    path: str | None = None
    retry_after: int = 1
    s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``kind:option=value,...``; for rest the first value may stand alone (``rest:429``).

        Raises:
            ValueError: unknown kind or option, or a value out of range; the message names it.
        """
        listing = _LISTING.fullmatch(text.strip())
        if listing is not None:
            text = f"{listing[1]}:symbol={listing[2]},s={listing[3] or 0}"
        kind, _, rest = text.strip().partition(":")
        if kind not in _OPTIONS:
            raise ValueError(f"fault: unknown kind {kind!r} in {text!r} (known: {', '.join(_OPTIONS)})")
        options: dict[str, Any] = {"n": _RUNS.get(kind, 1)}
        for part in filter(None, rest.split(",")):
            name, sep, value = part.strip().partition("=")
            if not sep and kind == "rest":
                name, value = "status", name
            if name not in _OPTIONS[kind]:
                raise ValueError(f"fault: {kind} has no option {name!r} in {text!r} (known: {', '.join(_OPTIONS[kind])})")
            try:
                options[name] = _OPTIONS[kind][name](value)
            except ValueError:
                raise ValueError(f"fault: {name}: expected {_OPTIONS[kind][name].__name__}, got {value!r} in {text!r}") from None
        if kind == "delay":
            options.setdefault("ms", 500)
        if kind == "snapshot":
            options.setdefault("form", _SNAPSHOT_FORMS[0])
        fault = cls(kind, **options)
        fault._check(text)
        return fault

    def _check(self, text: str) -> None:
        wrong = (
            ("rate: expected 0 to 1", self.rate is not None and not 0 <= self.rate <= 1),
            ("n: expected 1 or more", self.n < 1),
            ("at: expected 0 or more", self.at is not None and self.at < 0),
            ("ms: expected 1 or more", self.ms is not None and self.ms < 1),
            ("after and times: expected 1 or more", self.after < 1 or self.times < 1),
            ("mode: expected replace or insert", self.mode not in ("replace", "insert")),
            ("form: expected json, type, field or any", self.kind != "snapshot" and self.form not in (*_FORMS, "any")),
            ("form: expected stale or crossed", self.kind == "snapshot" and self.form not in _SNAPSHOT_FORMS),
            ("symbol: is missing", self.kind in ("list", "delist") and not self.symbol),
            ("s: expected 0 or more", not self.s >= 0),
            ("route: expected public or market", self.route not in (None, "public", "market")),
            ("status: expected 400 to 599", not 400 <= self.status <= 599),
        )
        for problem, found in wrong:
            if found:
                raise ValueError(f"fault: {problem} in {text!r}")

    def concerns(self, symbol: str, names: Iterable[str]) -> bool:
        """Return whether the fault applies to a stream. ``names`` are all its names, without the symbol."""
        if self.symbol is not None and self.symbol != symbol:
            return False
        return self.stream is None or self.stream in names


def _names(stream: str) -> tuple[str, ...]:
    return stream, stream.partition("@")[0]


def _draw(seed: int, place: int, symbol: str, stream: str, ordinal: int) -> float:
    """Return a number in [0, 1) that depends only on its arguments."""
    text = f"{seed}|{place}|{symbol}|{stream}|{ordinal}".encode()
    return int.from_bytes(blake2b(text, digest_size=7).digest(), "big") / (1 << 56)


class _Active:
    """A fault on one stream."""

    def __init__(self, fault: Fault, place: int) -> None:
        self.fault = fault
        self.place = place
        self.start = fault.at  # None: the first message that it sees
        self._left = 0
        self._until: int | None = None

    def hits(self, seed: int, symbol: str, stream: str, ordinal: int, clock: int) -> bool:
        fault = self.fault
        if self._until is not None:  # a silence measured in venue time
            if clock < self._until:
                return True
            self._until = None
        if self._left:
            self._left -= 1
            return True
        if fault.rate is not None:
            if _draw(seed, self.place, symbol, stream, ordinal) >= fault.rate or (fault.at is not None and ordinal < fault.at):
                return False
            run = fault.n if fault.kind in _RUNS else 1
        else:
            if self.start is None:
                self.start = ordinal
            if ordinal != self.start:
                return False
            run = fault.n
        if fault.kind == "silence" and fault.ms is not None:
            self._until = clock + fault.ms
        else:
            self._left = run - 1
        return True


class _Stream:
    """The faults of one stream, and their held messages."""

    def __init__(self, seed: int, symbol: str, stream: str, vital: tuple[str, ...]) -> None:
        self.seed = seed
        self.vital = vital
        self.symbol = symbol
        self.stream = stream
        self.active: list[_Active] = []
        self.release: int | None = None  # venue time at which a held stream continues
        self._held: list[bytes] = []
        self._swapped: list[bytes] = []

    def take(self, ordinal: int, clock: int, data: bytes, applied: dict[str, int]) -> list[bytes]:
        """Return the messages to send in place of one."""
        out = [data]
        swap = False
        for active in self.active:
            if not active.hits(self.seed, self.symbol, self.stream, ordinal, clock):
                continue
            fault = active.fault
            applied[fault.kind] = applied.get(fault.kind, 0) + 1
            if fault.kind in ("drop", "gap", "silence"):
                out = []
            elif fault.kind == "duplicate":
                out = out * 2
            elif fault.kind == "reorder":
                swap = True
            elif fault.kind == "delay":
                self.release = max(self.release or 0, clock + (fault.ms or 0))
            elif out:
                broken = _broken(data, self.vital, fault.form, _draw(self.seed, active.place, self.symbol, self.stream, ~ordinal))
                out = [broken, *out] if fault.mode == "insert" else [broken]
        if swap:
            self._swapped += out
            out = []
        elif self._swapped and out:
            out += self._swapped
            self._swapped = []
        if self.release is not None:
            self._held += out
            return []
        return out

    @property
    def holds(self) -> bool:
        return bool(self._held or self._swapped)

    def due(self) -> list[bytes]:
        """Return the messages of a delay that is over."""
        held, self._held, self.release = self._held, [], None
        return held

    def end(self) -> list[bytes]:
        """Return all held messages at the end of the recording."""
        rest = self._held + self._swapped
        self._held, self._swapped, self.release = [], [], None
        return rest


def _broken(data: bytes, vital: tuple[str, ...], form: str, draw: float) -> bytes:
    """Return a message corrupted in one of three ways: truncated JSON, time and price of the wrong type, all vital fields missing."""
    if form == "any":
        form = _FORMS[int(draw * len(_FORMS))]
    if form == "json":
        return data[: max(1, len(data) * 2 // 3)]
    body = orjson.loads(data)
    spoiled = _spoiled(body, vital, form)
    if spoiled == body:  # a message without time and price loses its other vital fields
        spoiled = _spoiled(body, vital, "field")
    return orjson.dumps(spoiled)


def _spoiled(value: Any, vital: tuple[str, ...], form: str) -> Any:
    if isinstance(value, list):
        return [_spoiled(one, vital, form) for one in value]
    if not isinstance(value, dict):
        return value
    if form == "field":
        return {name: _spoiled(one, vital, form) for name, one in value.items() if name not in vital}
    time, price, *_ = vital
    wrong = {time: lambda one: {"not": "a time"}, price: lambda one: [one]}
    return {name: wrong[name](one) if name in wrong else _spoiled(one, vital, form) for name, one in value.items()}


class FaultPlan:
    """The active faults, for all symbols.

    Args:
        faults: Faults, or their text.
        seed: Seed of every draw.
        vital: Fields that garbage corrupts at any depth of a message; the first two are time and price. names: Returns all names of a
        stream.

    Raises:
        ValueError: a text is not a fault.
    """

    def __init__(
        self,
        faults: list[Fault | str] | tuple[Fault | str, ...] = (),
        seed: int = 0,
        vital: tuple[str, ...] = ("E", "p", "b"),
        names: Callable[[str], Iterable[str]] = _names,
    ) -> None:
        self.seed = seed
        self._vital = vital
        self._names = names
        self.faults: list[Fault] = []
        self.applied: dict[str, int] = {}
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._holding: dict[tuple[str, str], _Stream] = {}  # those that hold messages back, in the order in which they began to
        self._cuts: list[tuple[Fault, dict[tuple[str, str], list[int]]]] = []  # (symbol, route) -> [next count, times left]
        self._rest: list[list[Any]] = []  # [fault, requests left]
        self._snapshots: list[list[Any]] = []  # [fault, snapshots left]
        self.listings: list[Fault] = []  # for the venue, which takes them out
        self.add(faults)

    def add(self, faults: list[Fault | str] | tuple[Fault | str, ...]) -> None:
        """Activate more faults. Raises ValueError, without adding any, if a text is not a fault."""
        for fault in [Fault.parse(fault) if isinstance(fault, str) else fault for fault in faults]:
            if fault.kind in ("list", "delist"):
                self.listings.append(fault)
                continue
            place = len(self.faults)
            self.faults.append(fault)
            if fault.kind == "snapshot":
                self._snapshots.append([fault, fault.n])
            elif fault.kind == "cut":
                self._cuts.append((fault, {}))
            elif fault.kind == "rest":
                self._rest.append([fault, fault.n])
            else:
                for (symbol, name), stream in self._streams.items():
                    if fault.concerns(symbol, self._names(name)):
                        stream.active.append(_Active(fault, place))

    def clear(self) -> None:
        """Deactivate every fault. Messages held by a delay or a reorder are sent with the next message."""
        self.faults, self._cuts, self._rest, self._snapshots = [], [], [], []
        for stream in self._streams.values():
            stream.active = []

    @property
    def active(self) -> bool:
        """Whether messages must pass through the faults: one is active, or messages are held."""
        return bool(self.faults) or self.holding

    @property
    def holding(self) -> bool:
        """Whether any stream holds messages back."""
        return bool(self._holding)

    def _stream(self, symbol: str, name: str) -> _Stream:
        stream = self._streams.get((symbol, name))
        if stream is None:
            stream = self._streams[symbol, name] = _Stream(self.seed, symbol, name, self._vital)
            stream.active = [
                _Active(fault, place)
                for place, fault in enumerate(self.faults)
                if fault.kind in _FRAME_KINDS and fault.concerns(symbol, self._names(name))
            ]
        return stream

    def frames(self, symbol: str, name: str, ordinal: int, clock: int, data: bytes) -> list[bytes]:
        """Return the messages to send in place of one, in order.

        Args:
            symbol: Owner of the stream.
            name: Stream without its symbol.
            ordinal: Place of the message in its stream, from 0.
            clock: Venue time of the playback, ms.
            data: The message.
        """
        stream = self._stream(symbol, name)
        sent = stream.take(ordinal, clock, data, self.applied)
        self._note(symbol, name, stream)
        return sent

    def _note(self, symbol: str, name: str, stream: _Stream) -> None:
        if stream.holds:
            self._holding[symbol, name] = stream
        elif self._holding:
            self._holding.pop((symbol, name), None)

    def due(self, symbol: str, clock: int) -> list[tuple[str, bytes]]:
        """Return (stream, message) of the due delayed messages."""
        due = [
            (name, stream)
            for (owner, name), stream in self._holding.items()
            if owner == symbol and stream.release is not None and clock >= stream.release
        ]
        sent = [(name, data) for name, stream in due for data in stream.due()]
        for name, stream in due:
            self._note(symbol, name, stream)
        return sent

    def end(self, symbol: str) -> list[tuple[str, bytes]]:
        """Return (stream, message) of all held messages of a symbol at the end of its recording."""
        ended = [(name, stream) for (owner, name), stream in self._holding.items() if owner == symbol]
        sent = [(name, data) for name, stream in ended for data in stream.end()]
        for name, stream in ended:
            self._note(symbol, name, stream)
        return sent

    def cut(self, symbol: str, route: str, count: int) -> Fault | None:
        """Return the cut at message number ``count`` (from 1) of a symbol's route, if any."""
        for fault, state in self._cuts:
            if (fault.symbol is not None and fault.symbol != symbol) or (fault.route is not None and fault.route != route):
                continue
            planned = state.setdefault((symbol, route), [count - 1 + fault.after, fault.times])
            if planned[1] and count == planned[0]:
                planned[0] += fault.after
                planned[1] -= 1
                self.applied["cut"] = self.applied.get("cut", 0) + 1
                return fault
        return None

    def rest(self, path: str) -> Fault | None:
        """Return the active fault of a REST request, if any."""
        for entry in self._rest:
            fault: Fault = entry[0]
            if entry[1] > 0 and (fault.path is None or path.endswith(fault.path)):
                entry[1] -= 1
                self.applied["rest"] = self.applied.get("rest", 0) + 1
                return fault
        return None

    def snapshot(self, symbol: str, top: Top) -> Top:
        """Return a book snapshot, corrupted if a fault is active."""
        for entry in self._snapshots:
            fault: Fault = entry[0]
            if entry[1] > 0 and fault.symbol in (None, symbol):
                entry[1] -= 1
                self.applied["snapshot"] = self.applied.get("snapshot", 0) + 1
                if fault.form == "stale":
                    return top._replace(last=max(1, top.last - _STALE))
                return top._replace(bids=top.asks[:1] + top.bids, asks=top.bids[:1] + top.asks)
        return top
