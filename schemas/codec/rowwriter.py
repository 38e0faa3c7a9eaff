"""Batch encoding: rows of numbers to Avro, without a Python object per field.

It is for records with one run of numeric fields, many of which are written at a time. A compiled kernel writes that run for all rows. The
fields before and after it (texts, lists) come as bytes. ``schemas.codec.avro`` is the reference, against which the tests compare this
module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from schemas import catalogue
from schemas.codec.recordwriter import long_bytes, text_bytes
from schemas.codec.varints import write_long

LONG, DOUBLE, NULL_DOUBLE = range(3)
_WIDEST = 10  # maximum bytes of a long; a double has 8, a nullable one 9


def _kind(of: Any) -> int | None:
    """Return the encoding of a field; None if it is not a number."""
    if isinstance(of, list):
        return NULL_DOUBLE if of == ["null", "double"] else None
    if isinstance(of, dict):
        of = of["type"]
    return {"long": LONG, "int": LONG, "double": DOUBLE}.get(of) if isinstance(of, str) else None


def texts_bytes(values: Sequence[str]) -> bytes:
    """Return an Avro array of strings, in one block."""
    if not values:
        return b"\x00"
    return long_bytes(len(values)) + b"".join(text_bytes(value) for value in values) + b"\x00"


@njit(cache=True, nogil=True)
def _write(kinds: Any, columns: Any, longs: Any, doubles: Any, out: Any, ends: Any) -> None:
    scratch = np.empty(1, dtype=np.float64)
    as_bytes = scratch.view(np.uint8)
    at = 0
    for row in range(longs.shape[0]):
        for f in range(len(kinds)):
            column = columns[f]
            if kinds[f] == LONG:
                at = write_long(out, at, longs[row, column])
                continue
            value = doubles[row, column]
            if kinds[f] == NULL_DOUBLE:
                if np.isnan(value):
                    out[at] = 0
                    at += 1
                    continue
                out[at] = 2
                at += 1
            scratch[0] = value
            for b in range(8):
                out[at + b] = as_bytes[b]
            at += 8
        ends[row] = at


class RowWriter:
    """Writes a run of numeric fields.

    Args:
        topic: Topic of the catalogue.
        longs: Names of the columns of long and int fields.
        doubles: Names of the columns of double fields. In nullable ones NaN is null.

    Attributes:
        before, after: Names of the fields before and after the run.

    Raises:
        ValueError: the columns are not one run of numeric fields of the schema.
    """

    def __init__(self, topic: str, longs: Sequence[str], doubles: Sequence[str]) -> None:
        fields = {field["name"]: _kind(field["type"]) for field in catalogue.schema(topic)["fields"]}
        names = list(fields)
        wanted = {*longs, *doubles}
        places = sorted(names.index(name) for name in wanted)
        run = names[places[0] : places[0] + len(wanted)]
        if set(run) != wanted:
            raise ValueError(f"{topic}: the columns are not one run of fields: {sorted(wanted ^ set(run))}")
        for name in run:
            if fields[name] is None or (fields[name] == LONG) != (name in longs):
                raise ValueError(f"{topic}.{name}: not a {'long' if name in longs else 'double'}")
        self.before, self.after = names[: places[0]], names[places[0] + len(wanted) :]
        self._kinds = np.array([fields[name] for name in run], dtype=np.int64)
        self._columns = np.array([(longs if name in longs else doubles).index(name) for name in run], dtype=np.int64)

    def write(self, longs: npt.NDArray[np.int64], doubles: npt.NDArray[np.float64]) -> list[bytes]:
        """Return the run's bytes for each row. ``longs`` and ``doubles`` have one row a record and the named columns."""
        out = np.empty(len(longs) * len(self._kinds) * _WIDEST, dtype=np.uint8)
        ends = np.empty(len(longs), dtype=np.int64)
        _write(self._kinds, self._columns, longs, doubles, out, ends)
        stops = ends.tolist()
        buffer = out[: stops[-1]].tobytes() if stops else b""
        return [buffer[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
