"""The report of a replay as one JSON document: statistics with units, breakdowns, curves, data quality, configuration, hashes (pure)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

from schemas.catalogue import field_names
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.paper.position import PaperSettings
from stream_apps.core.performance import BREAKDOWNS, Ledger, Statistic, breakdown, evaluate, listed, reason_of
from stream_apps.core.performance.breakdowns import FIELDS
from stream_apps.core.performance.registry import Value
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from stream_apps.replay.collect import SCORE_STEP, Collector, StrategyResults
from stream_apps.replay.data_gaps import LEAST_GAP_MS, marked

Json = dict[str, Any]
VERSION = 1
# Columns of trades.csv that trades_closed lacks.
TRADE_EXTRAS = ("maker_notional", "notional", "void")


@dataclass(frozen=True)
class Run:
    """The request of a replay, and facts of its run.

    Attributes:
        source: As given. files: name, bytes and sha256 of each.
        since, until: Bounds of the period, ms UTC, as given. None: those of the data.
        warm_up_ms: Length of the market data before ``since`` that warms the engine up.
        strategies: The strategies that ran. seconds: Wall clock. checks: Results of --twice and --future-shift.
    """

    source: Sequence[str]
    engine: EngineConfig
    paper: PaperSettings
    strategies: Sequence[StrategyConfig]
    files: Sequence[Json] = ()
    file_reports: Sequence[Json] = ()
    since: int | None = None
    until: int | None = None
    warm_up_ms: int = 0
    seconds: float = 0.0
    checks: Mapping[str, Any] = field(default_factory=dict)


def build(collected: Collector, run: Run) -> Json:
    """Return the report. Money is in quote units, times are ms UTC, undefined values are null."""
    gaps = collected.trade_gaps.found()
    trades = all_trades(collected, run)
    strategies = [_strategy(one, collected, [row for row in trades if row["strategy_id"] == one.strategy_id]) for one in run.strategies]
    spans = [one["period"] for one in strategies if one["period"] is not None]
    together = None
    if spans:
        period = {"since": min(span["since"] for span in spans), "until": max(span["until"] for span in spans)}
        together = _account(trades, sum(one.balance for one in run.strategies), period)
    return {
        "report": "perpflow replay",
        "version": VERSION,
        "definitions": {one.name: {"unit": one.unit, "group": one.group, "meaning": one.meaning} for one in listed()},
        "breakdown_units": FIELDS,
        "source": list(run.source),
        "files": list(run.files),
        "since": run.since,
        "until": run.until,
        "warm_up_ms": run.warm_up_ms,
        "instruments": [_instrument(name, collected) for name in sorted(collected.markets)],
        "strategies": strategies,
        "all": together,
        "inputs": dict(sorted(collected.inputs.items())),
        "outputs": dict(sorted(collected.outputs.items())),
        "quality": {
            "trade_gaps": [gap._asdict() for gap in gaps],
            "least_gap_ms": LEAST_GAP_MS,
            "gaps": len(collected.trade_gaps.gaps),
            "files": list(run.file_reports),
            "dead_letters": [
                {"source": source, "field": name, "reason": reason, "records": count}
                for (source, name, reason), count in collected.dead_letters.most_common()
            ],
            "refused_entries": dict(collected.refused.most_common()),
        },
        "checks": dict(run.checks),
        "engine": _plain(asdict(run.engine)),
        "paper": _plain(asdict(run.paper)),
        "hashes": collected.hashes(),
        "seconds": round(run.seconds, 3),
    }


def all_trades(collected: Collector, run: Run) -> list[Json]:
    """Return the closed trades in order of exit, each with ``void``."""
    windows = {one.strategy_id: (one.cvd_fast_window, one.cvd_slow_window) for one in run.strategies}
    return marked(collected.closed_trades(), windows.__getitem__, collected.trade_gaps.found())


def _strategy(config: StrategyConfig, collected: Collector, trades: list[Json]) -> Json:
    markets = [collected.markets[name] for name in config.all_instruments if name in collected.markets]
    seen = collected.strategies.get(config.strategy_id, StrategyResults())
    period = {"since": int(min(seen.times)), "until": int(max(seen.times))} if len(seen.times) else None
    entered = len({row["position_id"] for row in collected.fills if row["strategy_id"] == config.strategy_id})
    return {
        "strategy_id": config.strategy_id,
        "display_name": config.display_name,
        "instrument": config.instrument,
        "instruments": list(config.all_instruments),
        "model": config.model,
        "config_hash": config_hash(config),
        "config": config.to_record(),
        "initial_balance": config.balance,
        "period": period,
        **_account(trades, config.balance, period),
        "open_at_end": entered - len(trades),
        "evaluations": {
            "all": len(seen.times),
            "states": _counted(seen, collected.states),
            "missing_inputs": dict(seen.missing.most_common()),
            "regimes": dict(seen.regimes.most_common()),
        },
        "scores": _histogram(seen),
        "signals": sum(row["strategy_id"] == config.strategy_id for row in collected.signals),
        "instants_without_features": max(0, sum(market.instants for market in markets) - len(seen.times)),
    }


def _account(trades: Iterable[Json], balance: float, period: Json | None) -> Json:
    """Return statistics, breakdowns and curve of the trades that can be judged, and which trades were left out."""
    listed_ = list(trades)
    sound = [row for row in listed_ if row["void"] is None]
    void = [row for row in listed_ if row["void"] is not None]
    since, until = (0, 0) if period is None else (period["since"], period["until"])
    ledger = Ledger.of(
        sound, balance, min([since, *(row["entry_time"] for row in sound)]), max([until, *(row["event_time"] for row in sound)])
    )
    values = evaluate(ledger)
    return {
        "statistics": {one.name: _stated(one, values[one.name], ledger) for one in listed()},
        "breakdowns": {name: breakdown(sound, name) for name in BREAKDOWNS},
        "curve": [list(point) for point in zip(ledger.curve_times, ledger.curve_r, ledger.curve_money, strict=True)] if period else [],
        "void": {
            "trades": len(void),
            "net_r": math.fsum(row["net_r"] for row in void),
            "net_pnl": math.fsum(row["net_pnl"] for row in void),
            "reasons": {reason: sum(row["void"] == reason for row in void) for reason in sorted({row["void"] for row in void})},
        },
    }


def _stated(statistic: Statistic, value: Value, ledger: Ledger) -> Json:
    """Return a value with its unit, or null with its reason."""
    if value is None:
        return {"value": None, "unit": statistic.unit, "reason": reason_of(statistic.name, ledger)}
    return {"value": value, "unit": statistic.unit}


def _counted(seen: StrategyResults, states: Sequence[str]) -> dict[str, int]:
    counts = [0] * len(states)
    for state in seen.states:
        counts[state] += 1
    return {name: count for name, count in zip(states, counts, strict=True) if count}


def _histogram(seen: StrategyResults) -> list[Json]:
    """Return warm evaluations by score before gates: from, to, how many, and how many of these passed all gates."""
    places = sorted({place for _, place in seen.ungated})
    return [
        {
            "from": place * SCORE_STEP,
            "to": (place + 1) * SCORE_STEP,
            "warm": sum(count for (_, at), count in seen.ungated.items() if at == place),
            "passed": sum(count for (_, at), count in seen.passed.items() if at == place),
        }
        for place in places
    ]


def _instrument(name: str, collected: Collector) -> Json:
    market = collected.markets[name]
    return {
        "instrument": name,
        "instants": market.instants,
        "first": market.first,
        "last": market.last,
        "trades": market.trades,
        "late_trades": market.late,
        "missing_inputs": dict(market.missing.most_common()),
        "stale_inputs": dict(market.stale.most_common()),
        "silences": [{"since": since, "until": until} for since, until in market.silences],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(one) for one in value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


# --- tables ------------------------------------------------------------------------------------------------------------


def write_trades(file: TextIO, trades: Iterable[Json]) -> None:
    """Write closed trades as CSV: the fields of ``trades_closed``, then ``TRADE_EXTRAS``. Times are ISO 8601, UTC."""
    _write(file, (*field_names("trades_closed"), *TRADE_EXTRAS), trades)


def write_signals(file: TextIO, signals: Iterable[Json]) -> None:
    """Write signals as CSV: the fields of ``signals``. Times are ISO 8601, UTC."""
    _write(file, tuple(field_names("signals")), signals)


def _write(file: TextIO, names: Sequence[str], rows: Iterable[Json]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([iso(row[name]) if name.endswith(("_time", "decided_at")) else _cell(row[name]) for name in names])


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else value


def iso(time: int) -> str:
    """Return a time (ms UTC) as ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(time // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{time % 1000:03d}Z"
