"""Numbers of the labels (S1 10.4)."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_MS = 60_000
# Mark prices come once a second; an older one is not known any more (D9).
STALE_MS = 5_000


@dataclass(frozen=True)
class LabelRules:
    """Numbers of the labels.

    Attributes:
        target_atr, stop_atr: Distances that decide the binary labels.
        binary_minutes: Horizons of the binary labels. return_minutes: of the returns. excursion_minutes: of MFE and MAE.
        cost: Estimated cost of a round trip, fraction of price.
        stale_ms: A path that is silent for longer says nothing beyond.
    """

    target_atr: float = 2.0
    stop_atr: float = 1.0
    binary_minutes: tuple[int, ...] = (30, 60)
    return_minutes: tuple[int, ...] = (15, 30, 60)
    excursion_minutes: int = 60
    cost: float = 0.001
    stale_ms: int = STALE_MS

    def __post_init__(self) -> None:
        """Raise ValueError, naming the number, for a number that is not valid."""
        for name in ("target_atr", "stop_atr", "stale_ms", "excursion_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above zero, got {getattr(self, name)}")
        if self.cost < 0:
            raise ValueError(f"cost: must not be negative, got {self.cost}")

    @property
    def longest_ms(self) -> int:
        """Return the longest horizon, ms."""
        return max(*self.binary_minutes, *self.return_minutes, self.excursion_minutes) * MINUTE_MS
