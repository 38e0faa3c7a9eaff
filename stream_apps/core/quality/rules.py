"""The kinds of faults, their limits, and their deductions from the score.

The source documents ask for a quality score per stream and an overall one out of 10 (spec M, R000-107, R000-109). They define no formula
(M, Q000-1). The formula here: a stream starts at 10. Each kind of finding within the last ``score_windows`` windows deducts ``first`` for
one and ``more`` for each further one, at most ``most``. The score is never below 0.

An instrument's overall score is the mean of two numbers: the mean of its streams, and its worst stream. So one dead stream among five good
ones stays visible. A venue's score is the mean over its instruments, shown beside the lowest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

INFO, WARNING, ERROR = "info", "warning", "error"


class Kind(NamedTuple):
    """A kind of finding: its name, severity, deductions, and the meaning of a finding's value and limit."""

    name: str
    severity: str
    first: float
    more: float
    most: float
    meaning: str


# The order gives each kind its number in the kernels.
KINDS = (
    Kind("undecodable", ERROR, 2, 0.5, 6, "The record cannot be decoded."),
    Kind("invalid_value", ERROR, 2, 0.5, 6, "A number that cannot be: price or quantity not positive and finite. value: the number."),
    Kind("id_gap", ERROR, 2, 0.5, 6, "Trade ids are missing. value: how many; limit: the first one."),
    Kind("gap_repaired", INFO, 0, 0, 0, "A gap in the trade ids was filled. value: its last id."),
    Kind("altered_id", ERROR, 2, 0.5, 6, "An id that its neighbours contradict. value: the id; limit: what they say."),
    Kind("duplicate", WARNING, 0.5, 0.1, 2, "The record was here before. value: its id."),
    Kind("time_backwards", ERROR, 1, 0.5, 4, "Event time runs back. value: by how many ms."),
    Kind("crossed_book", ERROR, 2, 0.5, 6, "Bid above ask. value: bid; limit: ask."),
    Kind("locked_book", WARNING, 0.5, 0.1, 2, "Bid equals ask. value: bid; limit: ask."),
    Kind("book_order", ERROR, 2, 0.5, 6, "Levels of a book are not in order of price. value: price; limit: the one before it."),
    Kind("price_outlier", WARNING, 1, 0.5, 4, "A price far from its neighbours, not followed. value: price; limit: the edge of the band."),
    Kind("price_jump", INFO, 0, 0, 0, "Prices left the band and stayed away: a move, no fault. value: price; limit: the edge of the band."),
    Kind("one_sided", ERROR, 5, 0, 5, "All trades of a long run have one aggressor side. value: milliseconds with trades; limit: what is allowed."),
    Kind("book_invalid", ERROR, 3, 0.5, 6, "The producer declared the book broken. value: its epoch."),
    Kind("book_resync", WARNING, 0.5, 0.5, 3, "The book began a new epoch: continuity was lost. value: epoch; limit: the one before."),
    Kind("sequence_gap", ERROR, 2, 0.5, 6, "In a file: a book change does not follow the one before. value: the id it follows; limit: the id before it."),
    Kind("split_message", WARNING, 0.5, 0.1, 2, "In a file: a message was declared complete before its last line."),
    Kind("stale", ERROR, 5, 1, 8, "Nothing came for longer than the limit. value, limit: ms."),
    Kind("missing", ERROR, 10, 0, 10, "A stream that is expected of the instrument never came. value: ms waited."),
    Kind("rate_low", WARNING, 2, 1, 4, "Far fewer records than usual. value: in this window; limit: from here on it is low."),
    Kind("clock_skew", WARNING, 2, 0.5, 4, "Received before it happened. value: receive time - event time, ms."),
    Kind("clock_drift", WARNING, 1, 0.5, 3, "The shortest delay moved away from its usual. value: ms now; limit: ms usually."),
    Kind("delay", WARNING, 2, 0.5, 4, "More than half of the records came later than the limit. value: their share; limit: ms."),
    Kind("quote_disagreement", ERROR, 4, 1, 6, "More than half of the trades lie outside the quotes. value: their share; limit: tolerance."),
)  # fmt: skip
NUMBER = {kind.name: number for number, kind in enumerate(KINDS)}

STREAMS = ("agg_trades", "depth", "quotes", "funding", "liquidations", "market_indicators")
OVERALL = "overall"
SCORE = "score"


class Freshness(NamedTuple):
    """Staleness limit of a stream: ``factor`` times its mean interval, but at least ``least_ms`` (D9) and at most ``most_ms``."""

    least_ms: int
    most_ms: int


# The minimum is D9's. Venues send quotes and books only when they change, so a quiet contract gets a longer limit from its own rate.
FRESHNESS: Mapping[str, Freshness | None] = {
    "agg_trades": Freshness(60_000, 6 * 3_600_000),
    "depth": Freshness(5_000, 600_000),
    "quotes": Freshness(5_000, 600_000),
    "funding": Freshness(5_000, 600_000),
    "liquidations": None,  # silence is normal
    "market_indicators": Freshness(900_000, 900_000),
}


@dataclass(frozen=True)
class QualityRules:
    """Settings of the monitor. Times in ms of event time.

    Attributes:
        check_ms: Grid of the freshness checks. Each runs at the first mark at or after its instant.
        window_ms: Length of a window. Counts, rates and delays are per window, and each window ends with a score. A whole number of checks.
        score_windows: Number of windows in a score.
        findings_per_window: Number of findings of one kind, stream and instrument written in a window. Further ones are only counted.
        freshness: Staleness limit by stream; None: silence is normal.
        stale_factor: See ``Freshness``.
        expected: Streams that every trading perpetual must have.
        missing_ms: Time within which an expected stream must appear.
        outlier_band: A price is suspect when it is further from the median of the last 64 than this share of it, and further than
            ``outlier_mads`` x 1.4826 x their median absolute deviation. It is an outlier unless 8 prices in a row stay outside; then it was
            a move.
        outlier_mads: See ``outlier_band``.
        outlier_wait_ms: A suspect that waits longer than this for its successors is an outlier.
        side_run: Smallest length of a one-sided run of trades. It counts distinct milliseconds, because one order may take many levels.
        side_run_ms: Smallest duration of a one-sided run.
        skew_ms: Time by which receive time may lie before event time.
        delay_ms: Time by which receive time may lie after event time.
        drift_ms: Distance by which the shortest delay of a window may differ from the median of the windows before it.
        rate_share: A window with fewer records than this share of the median window has a low rate.
        rate_least: Smallest median for which the rate is judged.
        quote_tolerance: Share of the price by which a trade may lie outside the newest quote (one order may take many levels).
        quote_age_ms: Older quotes are not compared.
        quote_least: Smallest number of compared trades in a window.
    """

    check_ms: int = 1_000
    window_ms: int = 60_000
    score_windows: int = 5
    findings_per_window: int = 20
    freshness: Mapping[str, Freshness | None] = field(default_factory=lambda: dict(FRESHNESS))
    stale_factor: float = 30.0
    expected: tuple[str, ...] = ()
    missing_ms: int = 120_000
    outlier_band: float = 0.02
    outlier_mads: float = 10.0
    outlier_wait_ms: int = 10_000
    side_run: int = 200
    side_run_ms: int = 60_000
    skew_ms: int = 100
    delay_ms: int = 3_000
    drift_ms: int = 500
    rate_share: float = 0.02
    rate_least: int = 120
    quote_tolerance: float = 0.002
    quote_age_ms: int = 5_000
    quote_least: int = 50

    def __post_init__(self) -> None:
        if self.check_ms <= 0 or self.window_ms <= 0 or self.window_ms % self.check_ms:
            raise ValueError(f"window_ms: {self.window_ms} must be a whole number of checks of {self.check_ms} ms")
        if self.score_windows < 1 or self.findings_per_window < 1:
            raise ValueError("score_windows and findings_per_window: must be at least 1")
        for stream in (*self.expected, *self.freshness):
            if stream not in STREAMS:
                raise ValueError(f"expected: no stream {stream!r}; there are {', '.join(STREAMS)}")


def deduction(kind: Kind, count: int) -> float:
    """Return the deduction for ``count`` findings of a kind."""
    return 0.0 if count <= 0 else min(kind.most, kind.first + kind.more * (count - 1))


def stream_score(counts: Mapping[str, int]) -> tuple[float, dict[str, float]]:
    """Return a stream's score, 0 to 10, and its deductions by kind."""
    deductions = {kind.name: off for kind in KINDS if (off := deduction(kind, counts.get(kind.name, 0))) > 0}
    return max(0.0, 10.0 - sum(deductions.values())), deductions


def overall_score(scores: Mapping[str, float]) -> float | None:
    """Return the overall score of an instrument: the mean of its streams' mean and its worst stream. None without streams."""
    if not scores:
        return None
    return (sum(scores.values()) / len(scores) + min(scores.values())) / 2
