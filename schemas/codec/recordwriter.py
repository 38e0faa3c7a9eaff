"""Encodes one record as Avro with code generated for its schema, several times as fast as walking the schema for every record.

Only flat records are written: numbers, texts, booleans, lists of doubles, maps of longs. All but the last three may be nullable. Only
values of the exact type are written. For all others ``NotPlain`` passes the record to fastavro, which is the reference, also for refusals
and their reasons.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

Write = Callable[[dict[str, Any]], bytes]

_GROUP_BITS = 14
_GROUP = 1 << _GROUP_BITS
# Two groups of seven bits at a time: as the last ones of a number, and with more to follow.
_LAST = [bytes((n,)) if n < 0x80 else bytes((n & 0x7F | 0x80, n >> 7)) for n in range(_GROUP)]
_MORE = [bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(_GROUP)]
# Texts written before: instruments, states. Cleared when there are too many.
_MOST_TEXTS = 10_000
# Times written before: records of a busy second share their milliseconds.
_MOST_TIMES = 4096
# Lists up to this length, such as the levels of a book, have a precompiled format.
_USUAL = 64


class NotPlain(ValueError):
    """A value that this module does not write."""


def long_bytes(value: int) -> bytes:
    """Return an Avro long: zigzag, then seven bits a byte."""
    rest = (value << 1) ^ (value >> 63)
    out = b""
    while rest >= _GROUP:
        out += _MORE[rest & _GROUP - 1]
        rest >>= _GROUP_BITS
    return out + _LAST[rest]


def text_bytes(value: str) -> bytes:
    """Return an Avro string."""
    encoded = value.encode()
    return long_bytes(len(encoded)) + encoded


def _number(value: Any) -> bytes:
    """Return an Avro long or int that is not negative. A time in ms takes three table look-ups."""
    if type(value) is not int or value < 0:
        raise NotPlain
    rest = value << 1
    if rest < _GROUP:
        return _LAST[rest]
    out = _MORE[rest & _GROUP - 1]
    rest >>= _GROUP_BITS
    if rest < _GROUP:
        return out + _LAST[rest]
    out += _MORE[rest & _GROUP - 1]
    rest >>= _GROUP_BITS
    if rest < _GROUP:
        return out + _LAST[rest]
    if value >> 62:
        raise NotPlain
    return long_bytes(value)


class _Times(dict[int, bytes]):
    """Times as Avro longs, cached."""

    def __missing__(self, value: int) -> bytes:
        if len(self) >= _MOST_TIMES:
            self.clear()
        found = self[value] = _number(value)
        return found


def _texts() -> Callable[[Any], bytes]:
    known: dict[str, bytes] = {}

    def text(value: Any) -> bytes:
        if type(value) is not str:
            raise NotPlain
        found = known.get(value)
        if found is None:
            if len(known) >= _MOST_TEXTS:
                known.clear()
            found = known[value] = text_bytes(value)
        return found

    return text


# By length: the begin of a block of so many doubles, and its struct.
_BLOCKS = [(long_bytes(n), struct.Struct(f"<{n}d").pack) for n in range(_USUAL + 1)]


def _doubles(value: Any) -> bytes:
    """Return an Avro array of doubles, in one block."""
    if type(value) is not list:
        raise NotPlain
    if not value:
        return b"\x00"
    if len(value) > _USUAL:
        return b"%b%b\x00" % (long_bytes(len(value)), struct.pack(f"<{len(value)}d", *value))
    count, pack = _BLOCKS[len(value)]
    return b"%b%b\x00" % (count, pack(*value))


def _longs_by(text: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def longs(value: Any) -> bytes:
        """Return an Avro map of longs, in one block."""
        if type(value) is not dict:
            raise NotPlain
        if not value:
            return b"\x00"
        parts = [_number(len(value))]
        for name, number in value.items():
            parts += (text(name), _number(number))
        parts.append(b"\x00")
        return b"".join(parts)

    return longs


# Avro type -> the expression that writes a value {0} of it. Consecutive fields of one struct format are joined.
_CALLS = {"string": "text({0})", "long": "number({0})", "int": "number({0})", "time": "(times[{0}] if type({0}) is int else number({0}))"}
_FORMATS = {"double": "d", "boolean": "?"}


def compiled(schema: dict[str, Any], header: bytes) -> Write | None:
    """Return a function that writes records of a schema without logical types. None if the schema is not flat.

    Args:
        schema: Parsed JSON.
        header: First bytes of every value.

    Returns:
        It raises NotPlain, or another error, for a record that fastavro must handle.
    """
    text = _texts()
    names: dict[str, Any] = {
        "number": _number, "times": _Times(), "text": text, "doubles": _doubles, "longs": _longs_by(text), "NotPlain": NotPlain, "join": b"".join,
        "header": header, "null_double": struct.Struct("<bd").pack,
    }  # fmt: skip
    lines: list[str] = []
    parts = ["header"]
    run: list[tuple[str, str]] = []  # format and variable of consecutive doubles and booleans

    def end_run() -> None:
        if run:
            name = f"pack{len(parts)}"
            names[name] = struct.Struct("<" + "".join(code for code, _ in run)).pack
            parts.append(f"{name}({', '.join(variable for _, variable in run)})")
            run.clear()

    for index, field in enumerate(schema["fields"]):
        kind, name, v = field["type"], field["name"], f"v{index}"
        nullable = isinstance(kind, list)
        if nullable:
            if len(kind) != 2 or kind[0] != "null" or field.get("default", 0) is not None:
                return None
            kind = kind[1]
        if isinstance(kind, dict) and kind.keys() == {"type"}:
            kind = "time" if kind["type"] == "long" else kind["type"]  # had a logical type
        lines.append(f"{v} = r.get({name!r})" if nullable else f"{v} = r[{name!r}]")
        if not nullable and isinstance(kind, str) and kind in _FORMATS:
            if kind == "boolean":  # struct would write None as False
                lines.append(f"if {v} is not True and {v} is not False: raise NotPlain")
            run.append((_FORMATS[kind], v))
            continue
        end_run()
        if kind == {"type": "array", "items": "double"} and not nullable:
            parts.append(f"doubles({v})")
        elif kind == {"type": "map", "values": "long"} and not nullable:
            parts.append(f"longs({v})")
        elif nullable and kind == "double":
            lines.append(f"if {v} is not None and type({v}) is not float: raise NotPlain")
            parts.append(f"(b'\\x00' if {v} is None else null_double(2, {v}))")
        elif isinstance(kind, str) and kind in _CALLS:
            call = _CALLS[kind].format(v)
            parts.append(f"(b'\\x00' if {v} is None else b'\\x02' + {call})" if nullable else call)
        else:
            return None
    end_run()
    source = "def write(r):\n" + "".join(f"    {line}\n" for line in lines) + f"    return join(({', '.join(parts)},))\n"
    exec(compile(source, f"<writer of {schema['name']}>", "exec"), names)
    write: Write = names["write"]
    return write
