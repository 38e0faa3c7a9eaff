"""Records of the topic ``labels``, encoded for many at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from schemas.codec.avro import Codec
from schemas.codec.recordwriter import long_bytes, text_bytes
from schemas.codec.rowwriter import RowWriter
from stream_apps.core.labels.path_kernel import UNKNOWN
from stream_apps.core.labels.rules import LabelRules
from stream_apps.core.labels.store import LabelRows
from stream_apps.core.log.outputs import OutputRecord, records_of

I64 = npt.NDArray[np.int64]

_SIDES = ("long", "short")
# Why a label is not known, in order: the first that applies is named.
REASONS = (None, "no_mark_price", "no_atr", "mark_price_gap")
_KNOWN, _NO_MARK, _NO_ATR, _GAP = range(4)
_NULL, _VALUE = b"\x00", b"\x02"


def _doubles(rules: LabelRules) -> tuple[str, ...]:
    returns = [f"{side}_return_{minutes}m" for side in _SIDES for minutes in rules.return_minutes]
    excursions = [f"{side}_{kind}_r_{rules.excursion_minutes}m" for side in _SIDES for kind in ("mfe", "mae")]
    return ("cost", "target_atr", "stop_atr", "entry", "atr", *returns, *excursions)


@cache
def _ends(labels: int) -> tuple[bytes, ...]:
    """Return the last bytes of a record by number of the pattern: so many binary labels, and the reason. Each partition's engine asks."""

    def end(pattern: int) -> bytes:
        rest, reason = divmod(pattern, len(REASONS))
        text = REASONS[reason]
        binary = [rest // 3**place % 3 + UNKNOWN for place in range(labels)]
        found = b"".join(_NULL if one == UNKNOWN else _VALUE + long_bytes(one) for one in binary)
        return found + (_NULL if text is None else _VALUE + text_bytes(text))

    return tuple(end(pattern) for pattern in range(3**labels * len(REASONS)))


class LabelRecords:
    """Encodes records of labels.

    Args:
        codec: Codec of the environment.
        rules: Numbers of the labels; their horizons are those of the schema.
    """

    def __init__(self, codec: Codec, rules: LabelRules) -> None:
        self._head = codec.header("labels")
        self._numbers = _doubles(rules)
        self._write = RowWriter("labels", ("event_time", "receive_time", "evaluated_at"), self._numbers)
        self._keys: list[bytes] = []  # by row of the instrument
        self._heads: list[bytes] = []  # by row of the instrument: the first bytes of a record
        self._powers = 3 ** np.arange(2 * len(rules.binary_minutes))
        self._ends = _ends(len(self._powers))

    def records(self, labels: LabelRows, rules: LabelRules, instants: I64, decided: I64, names: Sequence[str]) -> list[OutputRecord]:
        """Return labels as records.

        Args:
            labels: The labels.
            rules: The numbers that they were made with.
            instants, decided: Instant and time of the mark of each row, ms UTC.
            names: Instruments by row.
        """
        n = len(labels.instruments)
        for name in names[len(self._heads) :]:
            self._keys.append(name.encode())
            self._heads.append(self._head + text_bytes(name))
        width = labels.moves.shape[1]
        numbers = np.empty((n, len(self._numbers)))
        numbers[:, 0], numbers[:, 1], numbers[:, 2] = rules.cost, rules.target_atr, rules.stop_atr
        numbers[:, 3], numbers[:, 4] = labels.entry, labels.atr
        numbers[:, 5 : 5 + width] = labels.moves - rules.cost
        numbers[:, 5 + width : 5 + 2 * width] = -labels.moves - rules.cost
        # R is the distance of the stop: labels judge the evaluation, not the exits of a strategy (S1 10.4).
        ratio = labels.excursion / (rules.stop_atr * labels.atr)[:, None]
        numbers[:, 5 + 2 * width :] = ratio[:, [0, 1, 1, 0]]
        binary = labels.binary.reshape(n, -1)
        reason = np.where(np.isnan(numbers).any(axis=1) | (binary == UNKNOWN).any(axis=1), _GAP, _KNOWN)
        reason[np.isnan(labels.atr)] = _NO_ATR
        reason[np.isnan(labels.entry)] = _NO_MARK
        patterns = ((binary - UNKNOWN) @ self._powers) * len(REASONS) + reason
        written = self._write.write(np.stack([instants, decided, labels.times], axis=1), numbers)
        rows, heads, ends, keys = labels.instruments.tolist(), self._heads, self._ends, self._keys
        values = [heads[i] + middle + ends[pattern] for i, middle, pattern in zip(rows, written, patterns.tolist(), strict=True)]
        return records_of("labels", [keys[i] for i in rows], values, instants)
