"""Readers of recordings: any file becomes a stream of ``Event``s in recorded order.

The content decides the format, not the name: raw websocket lines here, the CSV families in ``csv_formats``. Plain, gzip and zip files are
read line by line in constant memory. A fault with the form of a message (a price of -1, a wrong update id) is data and passes. Only a line
that cannot be a message is an error.
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import orjson

from producers.simulated.recording import csv_formats
from producers.simulated.recording.events import SNAPSHOT, Event, Events, FormatError, kind_of_stream

_RAW_LINE = re.compile(rb"^\d{13,19} \{")


def recording_files(path: str | Path) -> list[Path]:
    """Return the files of a recording in playback order.

    ``path`` is a file, a folder (its files by name), a glob, or a comma-separated list of these.

    Raises:
        FileNotFoundError: a part matches no file.
    """
    files: list[Path] = []
    for part in str(path).split(","):
        target = Path(part.strip()).expanduser()
        if target.is_dir():
            found = sorted(entry for entry in target.iterdir() if entry.is_file() and not entry.name.startswith("."))
        elif target.is_file():
            found = [target]
        else:
            found = sorted(entry for entry in Path(target.anchor or ".").glob(_relative(target)) if entry.is_file())
        if not found:
            raise FileNotFoundError(f"recording: no file at {part.strip()!r}")
        files += found
    return files


def _relative(target: Path) -> str:
    return str(target.relative_to(target.anchor)) if target.anchor else str(target)


@contextmanager
def _opened(path: Path) -> Iterator[list[tuple[str, BinaryIO]]]:
    """Open a plain, gzip or zip file (by its first bytes) as a list of named binary streams."""
    with path.open("rb") as head:
        magic = head.read(4)
    if magic[:2] == b"\x1f\x8b":
        with gzip.open(path, "rb") as stream:
            # The buffer finds line ends in C. GzipFile.readline alone costs more than the parsing of a line.
            yield [(path.name, cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), 1 << 18)))]
    elif magic == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            members = sorted(name for name in archive.namelist() if not name.endswith("/"))
            yield [(f"{path.name}/{name}", cast(BinaryIO, io.BufferedReader(archive.open(name)))) for name in members]
    else:
        with path.open("rb") as stream:
            yield [(path.name, cast(BinaryIO, stream))]


def read_events(path: str | Path, symbol: str) -> Events:
    """Yield the events of ``symbol`` in a recording, file after file.

    Lines of other symbols in the same files are skipped.

    Args:
        path: See ``recording_files``.
        symbol: The venue's symbol, e.g. ``BTCUSDT``. Files without a symbol count as this one.

    Raises:
        FileNotFoundError: no such file.
        FormatError: a file has an unknown format, or a line cannot be read.
    """
    for file in recording_files(path):
        with _opened(file) as streams:
            for name, stream in streams:
                yield from _read_stream(name, stream, symbol)


def _read_stream(name: str, stream: BinaryIO, symbol: str) -> Events:
    first, number, skipped = b"", 0, []
    try:
        for first in stream:
            number += 1
            if first.strip() and not first.startswith(b"#"):
                break
            skipped.append(first)
        else:
            raise FormatError(name, number or 1, "content", "the file has no line of data")
        if _RAW_LINE.match(first):
            yield from _read_raw(name, _chain(first, stream), number, symbol)
            return
        reader = csv_formats.reader_for(first.decode("utf-8", "replace").strip())
        if reader is None:
            known = "raw websocket lines '<local stamp> <json>', or a CSV with " + " or ".join(csv_formats.KNOWN)
            raise FormatError(name, number, "format", f"not a known recording format; the line starts {first[:80]!r}; known: {known}")
        text = (line.decode("utf-8", "replace") for line in _chain(first, stream))
        yield from reader(name, text, number, symbol)
    except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise FormatError(name, number, "compression", f"{type(error).__name__}: {error}") from error


def _chain(first: bytes, rest: BinaryIO) -> Iterator[bytes]:
    yield first
    yield from rest


def _read_raw(name: str, lines: Iterator[bytes], number: int, symbol: str) -> Events:
    """Read ``<local stamp> <json>`` lines: combined websocket frames, and recorded REST depth snapshots."""
    prefix = symbol.lower()
    clock = 0
    for number, line in enumerate(lines, number):  # noqa: B020 - the count goes on from the header
        stamp, _, payload = line.rstrip().partition(b" ")
        if not stamp:
            continue
        if not stamp.isdigit():
            raise FormatError(name, number, "local stamp", f"expected an integer, got {stamp[:40]!r}")
        try:
            message = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise FormatError(name, number, "json", str(error)) from error
        if not isinstance(message, dict):
            raise FormatError(name, number, "json", "expected an object")
        stream = message.get("stream")
        if stream is None:
            if "lastUpdateId" not in message:
                raise FormatError(name, number, "stream", "missing, and the line is not a depth snapshot (lastUpdateId)")
            _integer(name, number, message, "lastUpdateId")
            for side in ("bids", "asks"):
                if not isinstance(message.get(side), list):
                    raise FormatError(name, number, side, "expected a list of [price, quantity]")
            yield Event(SNAPSHOT, message.get("E", clock), "", payload, message)
            continue
        if not isinstance(stream, str):
            raise FormatError(name, number, "stream", f"expected text, got {stream!r}")
        owner, _, suffix = stream.partition("@")
        if owner != prefix:
            continue
        body = message.get("data")
        if not isinstance(body, dict):
            raise FormatError(name, number, "data", "expected an object")
        event_time = body.get("E")
        clock = event_time if type(event_time) is int else _integer(name, number, body, "E")
        kind = kind_of_stream(suffix)
        for field in _REQUIRED.get(kind, ()):
            if field not in body:
                raise FormatError(name, number, field, f"missing in a {kind} message")
        yield Event(kind, clock, suffix, _recorded_bytes(payload, body), body)


_REQUIRED = {
    "depth": ("U", "u", "b", "a"),
    "bookTicker": ("b", "B", "a", "A"),
    "trade": ("t", "p", "q", "T", "m"),
    "aggTrade": ("a", "p", "q", "f", "l", "T", "m"),
    "markPrice": ("p",),
}


def _recorded_bytes(payload: bytes, body: dict[str, object]) -> bytes:
    """Return the recorded text of ``data``. It is rewritten only if the frame's layout is not the venue's."""
    if payload.startswith(b'{"stream":"'):
        start = payload.find(b'"data":{')
        if start > 0 and payload.endswith(b"}}"):
            return payload[start + 7 : -1]
    return orjson.dumps(body)


def _integer(name: str, number: int, body: dict[str, object], field: str) -> int:
    value = body.get(field)
    if type(value) is not int:
        raise FormatError(name, number, field, "missing" if value is None else f"expected an integer, got {value!r}")
    return value
