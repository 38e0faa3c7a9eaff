"""``perpflow research features`` and ``labels``: relate the features and signals of a replay to later prices."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from deploy.backtest.job import Opened
from deploy.backtest.research import plain, span
from deploy.report.research import write_features
from schemas.catalogue import schema
from schemas.errors import UserError
from stream_apps.core.labels.rules import LabelRules
from stream_apps.replay.report import iso
from stream_apps.replay.run import Result
from stream_apps.replay.sources.source import Piece
from stream_apps.research.information import Coefficient, coefficient, forward_returns, importance, strongest
from stream_apps.research.labels import NET_HOURS, MarkPath, labels_of, net_labels
from stream_apps.research.trials import false_discovery_control

Json = dict[str, Any]
# Fields that do not describe the market.
_NOT_FEATURES = frozenset(
    {"instrument", "event_time", "receive_time", "late_trades", "pane_trades", "missing_inputs", "stale_inputs", "liquidation_cap_ms"}
)
# Prices and other levels. Their rank drifts with the market, so their coefficient shows a trend, not predictive power.
_LEVELS = frozenset({"price", "vwap_30m", "best_bid", "best_ask", "mark_price", "index_price", "microprice", "weighted_mid", "open_interest",
                     "vpin_bucket_volume", "trade_quantity_p95", "trade_quantity_p99"})  # fmt: skip


def feature_names() -> list[str]:
    """Return the numeric fields of ``features`` with possible predictive power, without price levels and bookkeeping."""
    return [field["name"] for field in schema("features")["fields"] if field["name"] not in _NOT_FEATURES | _LEVELS]


class _Features:
    """Feature columns of each instrument within a period."""

    def __init__(self, opened: Opened, names: Sequence[str]) -> None:
        self._decode = opened.settings.codec.decode
        self._names = ("mark_price", "price", *names)
        period = span(opened)
        self._since, self._until = period
        self._wanted = opened.instruments
        self.times: dict[str, list[int]] = {}
        self.rows: dict[str, list[list[float]]] = {}

    def take(self, partition: int, result: Result) -> None:
        if result.topic != "features":
            return
        record = self._decode("features", result.value)
        name, time = record["instrument"], record["event_time"]
        if self._since <= time < self._until and (self._wanted is None or name in self._wanted):
            self.times.setdefault(name, []).append(time)
            self.rows.setdefault(name, []).append([np.nan if record[one] is None else float(record[one]) for one in self._names])

    def columns(self, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        table = np.array(self.rows[name], dtype=np.float64)
        return np.array(self.times[name], dtype=np.int64), {one: table[:, place] for place, one in enumerate(self._names)}


def features(
    opened: Opened, out: Path, *, names: Sequence[str], horizons_ms: Sequence[int], block_ms: int, folds: int, embargo_ms: int, rate: float, price: str,
    seed: int, on_piece: Callable[[Piece], None] = lambda piece: None,
) -> Json:  # fmt: skip
    """Write features.json and features.html: rank correlations of every feature and horizon, and importance at each horizon.

    Args:
        opened: The source.
        names: Feature fields. horizons_ms: Horizons of the returns.
        block_ms: Length of the blocks whose coefficients form the information ratio.
        folds, embargo_ms: Cross-validation of the importance. rate: False discovery rate. seed: Random seed of the permutations.
        price: ``mark`` or ``trade``: price of the returns. Spot has no mark price.

    Raises:
        UserError: the source has no features, or no such price.
    """
    unknown = set(names) - set(feature_names())
    if unknown:
        raise UserError(f"--feature: unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(feature_names())}")
    taken = _Features(opened, names)
    opened.run(taken.take, on_piece)
    if not taken.rows:
        raise UserError("--from and --to: the source has no evaluation in this period")
    grid = opened.settings.grid_ms
    instruments = []
    for name in sorted(taken.rows):
        times, columns = taken.columns(name)
        prices = columns["mark_price" if price == "mark" else "price"]
        if not np.isfinite(prices).any():
            raise UserError(f"--price: {name} has no mark price here; use --price trade")
        found: list[Coefficient] = []
        models = []
        for horizon in horizons_ms:
            returns = forward_returns(times, prices, horizon, 2 * grid)
            found += [coefficient(one, times, columns[one], returns, horizon, grid, block_ms) for one in names]
            model = importance(times, {one: columns[one] for one in names}, returns, horizon, folds=folds, embargo_ms=embargo_ms, seed=seed)
            models.append({"horizon_ms": horizon, "independent": int(np.isfinite(returns).sum()) * grid // horizon, **plain(model)})
        judged = [one for one in found if one.p is not None]
        kept = {
            id(one) for one, taken_ in zip(judged, false_discovery_control([one.p or 0.0 for one in judged], rate), strict=True) if taken_
        }
        instruments.append({
            "instrument": name,
            "instants": len(times),
            "coefficients": [{**asdict(one), "accepted": id(one) in kept} for one in strongest(found)],
            "models": models,
        })  # fmt: skip
    period = span(opened)
    report: Json = {
        "report": "perpflow research features", "version": 1, "source": list(opened.job.sources), "since": period.begin, "until": period.end,
        "price": "mark price" if price == "mark" else "last trade", "rate": rate, "block_ms": block_ms, "folds": folds, "embargo_ms": embargo_ms,
        "seed": seed, "instruments": instruments,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    (out / "features.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    write_features(out / "features.html", report)
    return report


class _Signals:
    """Signals, fills and price paths of a run."""

    def __init__(self, opened: Opened) -> None:
        self._decode = opened.settings.codec.decode
        self.signals: list[Json] = []
        self.fills: dict[str, list[Json]] = {}
        self.funding: dict[str, list[Json]] = {}
        self.trades: dict[str, list[tuple[int, float]]] = {}

    def on_piece(self, piece: Piece) -> None:
        if piece.topic == "funding":
            for row in range(len(piece.records)):
                record = self._decode("funding", piece.records.value(row))
                self.funding.setdefault(record["instrument"], []).append(record)

    def take(self, partition: int, result: Result) -> None:
        if result.topic == "signals":
            self.signals.append(self._decode("signals", result.value))
        elif result.topic == "fills":
            record = self._decode("fills", result.value)
            self.fills.setdefault(record["position_id"], []).append(record)
        elif result.topic == "features":
            record = self._decode("features", result.value)
            if record["price"] is not None:
                self.trades.setdefault(record["instrument"], []).append((record["event_time"], record["price"]))

    def path(self, instrument: str, price: str) -> MarkPath:
        if price == "mark":
            return MarkPath.of(self.funding.get(instrument, []))
        rows = self.trades.get(instrument, [])
        return MarkPath([time for time, _ in rows], [value for _, value in rows])

    def settlements(self, instrument: str) -> list[tuple[int, float]]:
        rows = self.funding.get(instrument, [])
        return sorted({row["event_time"]: row["settled_rate"] for row in rows if row["settled_rate"] is not None}.items())


def labels(
    opened: Opened, out: Path, rules: LabelRules, price: str, leverage: float, on_piece: Callable[[Piece], None] = lambda piece: None
) -> Mapping[str, int]:
    """Write labels.csv (signals) and net_labels.csv (positions) of a replay. Return the number of rows of each kind.

    Args:
        opened: The source and its strategies.
        out: Output folder.
        rules: Parameters of the labels.
        price: ``mark``, or ``trade``: the last trade at each instant of the grid.
        leverage: Leverage of the margin in the net labels.

    Raises:
        UserError: there are signals, but no such price of their instruments.
    """
    seen = _Signals(opened)

    def both(piece: Piece) -> None:
        seen.on_piece(piece)
        on_piece(piece)

    opened.run(seen.take, both)
    since, until = span(opened)
    signals = [one for one in seen.signals if since <= one["event_time"] < until]
    paths = {name: seen.path(name, price) for name in {one["instrument"] for one in signals}}
    if signals and not any(len(path.times) for path in paths.values()):
        raise UserError("--price: no mark price here; use --price trade")
    out.mkdir(parents=True, exist_ok=True)
    known = 0
    with (out / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("signal_id", "event_time", "instrument", "strategy_id", "config_hash", "direction", "score", "entry",
                         *(f"y_binary_{m}m" for m in rules.binary_minutes), *(f"y_return_{m}m" for m in rules.return_minutes), 
                         f"mfe_r_{rules.excursion_minutes}m", f"mae_r_{rules.excursion_minutes}m"))  # fmt: skip
        for one in signals:
            found = labels_of(paths[one["instrument"]], one, rules)
            known += all(value is not None for value in found.binary.values())
            values = [
                found.entry,
                *(found.binary[m] for m in rules.binary_minutes),
                *(found.returns[m] for m in rules.return_minutes),
                found.mfe_r,
                found.mae_r,
            ]
            writer.writerow((one["signal_id"], iso(one["event_time"]), one["instrument"], one["strategy_id"], one["config_hash"], one["direction"],
                             one["score"],
                             *("" if value is None else value for value in values)))  # fmt: skip
    with (out / "net_labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("position_id", "instrument", "strategy_id", "hours", "pnl", "fees", "funding", "roi", "label"))
        for position, fills in sorted(seen.fills.items()):
            name = fills[0]["instrument"]
            net = net_labels(
                fills, seen.path(name, price), seen.settlements(name), leverage=leverage, hours=NET_HOURS, stale_ms=rules.stale_ms
            )
            for hours, label in net.items():
                cells = (label.pnl, label.fees, label.funding, label.roi, label.label)
                writer.writerow((position, name, fills[0]["strategy_id"], hours, *("" if value is None else value for value in cells)))
    return {"signals": len(signals), "with all binary labels": known, "positions": len(seen.fills)}
