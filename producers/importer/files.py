"""Reads dump files as lines: zip, gzip or plain. A checksum file beside them is verified."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

# Binance: BTCUSDT-aggTrades-2024-01-01, BTCUSDT-1m-2024-01; Bybit: BTCUSDT2024-01-01, 1000PEPEUSDT_2024-01-01; OKX: BTC-USDT-SWAP-trades-2024-01-01.
_OKX = re.compile(r"([A-Z0-9]+-[A-Z0-9]+(?:-SWAP)?)(?=-(?:trades|aggtrades)|[-_]?\d{4}-\d\d)", re.IGNORECASE)
_JOINED = re.compile(r"([A-Za-z0-9]+?)(?=[-_]|\d{4}-\d\d)")


class ImportFailed(ValueError):
    """The import is not possible as requested. The message names the needed change. Nothing was written, unless it says so."""


class Source(NamedTuple):
    """A dump file and its symbol."""

    path: Path
    symbol: str


def source_of(text: str, symbol: str | None, hyphened: bool) -> Source:
    """Return the file of ``FILE`` or ``FILE=SYMBOL``. Without a symbol, it is taken from the file name.

    Args:
        text: The user's text. symbol: For all files without one.
        hyphened: The venue's symbols have hyphens (OKX).

    Raises:
        ImportFailed: no such file, or no symbol found.
    """
    name, sep, given = text.rpartition("=")
    path = Path(name if sep else text).expanduser()
    if not path.is_file():
        raise ImportFailed(f"import: no file at {str(path)!r}")
    chosen = given if sep else symbol
    if not chosen:
        found = (_OKX if hyphened else _JOINED).match(path.name)
        if found is None:
            raise ImportFailed(f"import: {path.name}: the file name has no symbol: give {path.name}=SYMBOL, or --symbol")
        chosen = found[1].upper()
    return Source(path, chosen)


def verified(path: Path) -> str:
    """Return ``verified`` when the file's SHA-256 equals ``<file>.CHECKSUM`` beside it, ``absent`` without such a file.

    Raises:
        ImportFailed: it differs, or the checksum file cannot be read.
    """
    beside = path.with_name(path.name + ".CHECKSUM")
    if not beside.is_file():
        return "absent"
    wanted = beside.read_text(errors="replace").split()[:1]
    if not wanted or not re.fullmatch(r"[0-9a-fA-F]{64}", wanted[0]):
        raise ImportFailed(f"import: {beside.name}: expected a SHA-256 in hexadecimal")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != wanted[0].lower():
        raise ImportFailed(f"import: {path.name}: its SHA-256 is {digest}, but {beside.name} says {wanted[0].lower()}: fetch it again")
    return "verified"


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without line end) of a dump file; the files of an archive are joined. Empty lines are skipped.

    Raises:
        ImportFailed: the compression is broken, or an archive is empty.
    """
    number = 0
    try:
        for stream in _opened(path):
            for raw in stream:
                number += 1
                text = raw.decode("utf-8", "replace").strip("\r\n\ufeff ")
                if text:
                    yield number, text
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ImportFailed(f"import: {path.name}: cannot be read after line {number}: {type(error).__name__}: {error}") from error


def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file by its first bytes, not by its name."""
    with path.open("rb") as head:
        magic = head.read(4)
    if magic[:2] == b"\x1f\x8b":
        with gzip.open(path, "rb") as stream:
            # The buffer finds line ends in C. GzipFile.readline alone costs more than the parsing of a line.
            yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), 1 << 18))
    elif magic[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            members = sorted(name for name in archive.namelist() if not name.endswith("/"))
            if not members:
                raise ImportFailed(f"import: {path.name}: the archive is empty")
            for name in members:
                with archive.open(name) as member:
                    yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, member), 1 << 18))
    else:
        with path.open("rb") as plain:
            yield cast(BinaryIO, plain)
