"""Results of a run in the database, as plain values.

Times are ms UTC. Sums and prices of market data are exact decimals: the tables' doubles carry the venue's decimals exactly. None means that
there is no value; it is never replaced by a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from typing import Any

from deploy.report.formatting import bounded
from deploy.report.series import Silence
from stream_apps.core.performance.intervals import wilson


@dataclass(frozen=True)
class Top:
    """The best prices of a book or a quote at a time."""

    event_time: int
    bid_price: Decimal
    bid_quantity: Decimal
    ask_price: Decimal
    ask_quantity: Decimal

    @property
    def values(self) -> tuple[Decimal, Decimal, Decimal, Decimal]:
        """Prices and quantities without the time, to compare two sources of one book."""
        return (self.bid_price, self.bid_quantity, self.ask_price, self.ask_quantity)


@dataclass(frozen=True)
class InstrumentFacts:
    """Stored data of one instrument.

    Attributes:
        recorded: Whether its producer labels the data as a recording. None: no ``instruments`` row.
        author: Its producer; None: no ``instruments`` row.
        first_time, last_time: Event times of the first and the last trade.
        agg_trades: Rows; repeated_trades: of these, repeats of an aggregate id (expected: 0).
        missing_agg_ids: Aggregate ids between the first and the last that have no row.
        backfilled: Rows fetched over REST after a gap.
        trades: Single trades by id range: sum of ``last_trade_id - first_trade_id + 1``.
        buy, sell: Taker quantity, exact.
        low, high: Price range. largest: Largest aggregate trade, base quantity.
        silences: Longest periods without a trade, longest first.
        book: Best prices of the last valid ``depth`` row; None: there is none. book_state, book_epoch: of the very last row.
        quote: Last ``quotes`` row.
        gap_rows: Rows of ``gaps``; gap_rows_open: of these not repaired.
        features: Evaluated instants. first_instant, last_instant: event times of the first and the last.
        late_trades: Trades that arrived after their instant had fired, counted at the last instant. None: no instant.
        missing_inputs, stale_inputs: Input -> number of instants at which it was missing or stale.
    """

    instrument: str
    recorded: bool | None = None
    author: str | None = None
    first_time: int | None = None
    last_time: int | None = None
    agg_trades: int = 0
    repeated_trades: int = 0
    missing_agg_ids: int = 0
    backfilled: int = 0
    trades: int | None = None
    buy: Decimal | None = None
    sell: Decimal | None = None
    first_price: Decimal | None = None
    last_price: Decimal | None = None
    low: Decimal | None = None
    high: Decimal | None = None
    largest: Decimal | None = None
    silences: tuple[Silence, ...] = ()
    book: Top | None = None
    book_state: str | None = None
    book_epoch: int | None = None
    quote: Top | None = None
    gap_rows: int = 0
    gap_rows_open: int = 0
    features: int = 0
    first_instant: int | None = None
    last_instant: int | None = None
    late_trades: int | None = None
    missing_inputs: Mapping[str, int] = field(default_factory=dict)
    stale_inputs: Mapping[str, int] = field(default_factory=dict)

    @property
    def cvd(self) -> Decimal | None:
        """Taker buy minus taker sell quantity; None without trades."""
        return None if self.buy is None or self.sell is None else self.buy - self.sell

    @property
    def book_equals_quote(self) -> bool | None:
        """Whether the last book equals the last quote. None if one of them does not exist."""
        return None if self.book is None or self.quote is None else self.book.values == self.quote.values


@dataclass(frozen=True)
class StrategyFacts:
    """The newest revision of a strategy: settings that explain its scores.

    Attributes:
        gates_off: Names of the disabled gates.
    """

    strategy_id: str
    instrument: str
    display_name: str
    revision: int
    model: str
    cvd_fast_window: str
    cvd_slow_window: str
    entry_score: float
    flip_threshold: float
    gates_off: tuple[str, ...]
    description: str | None


@dataclass(frozen=True)
class EvaluationFacts:
    """Outcomes of one strategy's evaluations. ``evaluations = not_warm + blocked + passed``.

    Attributes:
        below_entry: Passed all gates, but the score has no tier.
        cooling: An entry that the cooldown blocked.
        signalled: Emitted a signal.
        best_score: Highest score of those that passed; None when none passed.
        blocks: Reason (without measured values) -> evaluations that it blocked.
        missing_inputs, stale_inputs: Input -> evaluations without it.
        regimes: Regime -> evaluations.
    """

    instrument: str
    strategy_id: str
    evaluations: int
    not_warm: int
    blocked: int
    passed: int
    below_entry: int
    cooling: int
    signalled: int
    best_score: float | None
    blocks: Mapping[str, int]
    missing_inputs: Mapping[str, int]
    stale_inputs: Mapping[str, int]
    regimes: Mapping[str, int]


@dataclass(frozen=True)
class SignalCount:
    """Signals of one kind. entry: may open a position; flip: closes an opposite position."""

    instrument: str
    strategy_id: str
    direction: str
    tier: str
    entry: bool
    flip: bool
    count: int


@dataclass(frozen=True)
class OrderCount:
    """Orders of one leg in one status, with the reason of a rejection or cancellation."""

    instrument: str
    leg: str
    status: str
    reason: str | None
    count: int


@dataclass(frozen=True)
class PaperFacts:
    """Statistics of closed paper trades (DECISIONS D23).

    Attributes:
        wins: Trades with net_pnl > 0.
        win_rate: wins / trades; None without trades.
        profit_factor: Gross profit / |gross loss|, money; None without a loss.
        profit_factor_bounds: Its 95 % interval; None without a win or a loss.
        net_r, net_pnl: Sums, in R and in quote units. fees, funding: sums in quote units.
        max_drawdown_r: Largest fall of the cumulative net R from its previous peak (start included), >= 0. None without trades.
        max_drawdown_pnl: The same for net P&L.
        exits: Exit reason -> trades.
    """

    trades: int
    wins: int
    win_rate: float | None
    profit_factor: float | None
    profit_factor_bounds: tuple[float | None, float | None]
    net_r: float | None
    net_pnl: float | None
    fees: float | None
    funding: float | None
    best_r: float | None
    worst_r: float | None
    max_drawdown_r: float | None
    max_drawdown_pnl: float | None
    mean_hold_ms: float | None
    exits: Mapping[str, int]


@dataclass(frozen=True)
class StrategyPaper:
    """Paper trades of one strategy on one instrument."""

    instrument: str
    strategy_id: str
    paper: PaperFacts


@dataclass(frozen=True)
class OpenPosition:
    """A position that was open or pending at the end of the data. It is in no statistic."""

    instrument: str
    strategy_id: str
    position_id: str
    status: str
    direction: str
    entry_time: int | None
    entry_price: Decimal | None
    open_quantity: Decimal
    realised_pnl: float


@dataclass(frozen=True)
class DeadLetterCount:
    """Dead letters of one service, source and reason."""

    service: str
    source: str
    instrument: str | None
    field: str | None
    reason: str
    count: int


@dataclass(frozen=True)
class GapCount:
    """Gaps of one kind in one stream of an instrument."""

    instrument: str
    stream: str
    kind: str
    certain: bool
    repaired: bool
    count: int


@dataclass(frozen=True)
class DemoFacts:
    """All results of a run.

    Attributes:
        rows: Topic -> rows of its table.
    """

    rows: Mapping[str, int]
    instruments: tuple[InstrumentFacts, ...]
    strategies: tuple[StrategyFacts, ...]
    evaluations: tuple[EvaluationFacts, ...]
    signals: tuple[SignalCount, ...]
    orders: tuple[OrderCount, ...]
    paper: PaperFacts
    papers: tuple[StrategyPaper, ...]
    open_positions: tuple[OpenPosition, ...]
    dead_letters: tuple[DeadLetterCount, ...]
    gaps: tuple[GapCount, ...]

    def instrument(self, name: str) -> InstrumentFacts | None:
        """Return the data of one instrument. None if nothing is stored."""
        return next((one for one in self.instruments if one.instrument == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; see ``as_json``."""
        plain: dict[str, Any] = as_json(self)
        return plain


@dataclass(frozen=True)
class Check:
    """One comparison of a found value with the expected value.

    Attributes:
        source: Source of the expected value.
    """

    name: str
    expected: str
    found: str
    ok: bool
    instrument: str = ""
    source: str = ""


def as_json(value: Any) -> Any:
    """Return dataclasses, mappings and sequences as JSON values. Decimals become text, so that they stay exact.

    The computed property ``cvd`` is included.
    """
    if is_dataclass(value) and not isinstance(value, type):
        plain = {one.name: as_json(getattr(value, one.name)) for one in fields(value)}
        if hasattr(value, "cvd"):
            plain["cvd"] = as_json(value.cvd)
        return plain
    if isinstance(value, Decimal):
        return decimal_text(value)
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    return value


def decimal_text(value: Decimal) -> str:
    """Return a decimal without exponent and trailing zeros: ``1E+1`` -> ``10``, ``1.500`` -> ``1.5``, ``-0.0`` -> ``0``."""
    if value == 0:
        return "0"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def win_rate_text(facts: PaperFacts) -> str:
    """Return the win rate, its count and its 95 % interval."""
    return bounded(facts.win_rate, *wilson(facts.wins, facts.trades), facts.trades, ".1%")


def profit_factor_text(facts: PaperFacts) -> str:
    """Return the profit factor, its count and its 95 % interval."""
    reason = "no losing trade" if facts.trades else "no closed trades"
    return bounded(facts.profit_factor, *facts.profit_factor_bounds, facts.trades, ".2f", reason)
