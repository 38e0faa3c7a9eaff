"""The progress of an entry: its slices, the current slice and the reference price."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

ZERO = Decimal(0)
WAITING, MAKER, TAKER, DONE = "waiting", "maker", "taker", "done"


@dataclass(slots=True)
class EntryRun:
    """The entry machine's state: IDLE is the absence of a run; ENTRY_PENDING_MAKER is ``maker``, ENTRY_FALLBACK_TAKER ``taker``, ENTRY_FILL ``done``.

    Attributes:
        slices: Quantities.
        times: Due time of each slice, wall ms.
        wait_ms: How long a maker order of one slice rests.
        maker: Whether maker orders are used.
        index: The current slice.
        base: Entry quantity executed before the current slice.
        slice_started: Start of the current slice, wall ms.
        reprices: Post-only orders of this slice that would have crossed.
        reference: Mid at the first quote after the signal, None before; the slippage of the fallback is measured from it.
        probed: The spread was checked.
        tried, timed_out: Slices that used a maker order, and those whose wait ended.
        abandoned: Why the entry ended early.
    """

    slices: list[Decimal]
    times: list[int]
    wait_ms: int
    maker: bool
    expires_at: int
    index: int = 0
    stage: str = WAITING
    base: Decimal = ZERO
    slice_started: int = 0
    reprices: int = 0
    reference: Decimal | None = None
    probed: bool = False
    tried: int = 0
    timed_out: int = 0
    slice_timed_out: bool = False
    abandoned: str | None = None

    @property
    def is_done(self) -> bool:
        """True when no further entry order will be sent."""
        return self.stage == DONE

    @property
    def target(self) -> Decimal:
        """Quantity of all slices."""
        return sum(self.slices, ZERO)

    def end(self, reason: str | None = None) -> None:
        """End the run; ``reason`` says why it ends early."""
        self.stage = DONE
        self.abandoned = self.abandoned or reason

    def end_slice(self) -> None:
        """Continue with the next slice, or end."""
        self.index += 1
        self.reprices, self.slice_timed_out = 0, False
        self.stage = DONE if self.index >= len(self.slices) else WAITING

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["slices"] = [str(one) for one in self.slices]
        return {name: str(value) if isinstance(value, Decimal) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EntryRun:
        """Return the run that ``to_json`` wrote."""
        read = {**values, "slices": [Decimal(one) for one in values["slices"]], "base": Decimal(values["base"])}
        read["reference"] = None if values["reference"] is None else Decimal(values["reference"])
        return cls(**read)
