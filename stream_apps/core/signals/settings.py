"""The settings of the signals engine, and the configuration that follows from them.

Precedence: the first that names a number gives it. The order is: the instrument's settings in the log, the engine's settings in the log,
the environment, the default. The fields of ``EngineConfig`` and ``AnalyticsConfig`` hold the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from stream_apps.core.labels.rules import LabelRules
from stream_apps.core.log.engine_settings import Setting, SettingsError, SettingsInForce
from stream_apps.core.market.analytics.config import RATES, AnalyticsConfig
from stream_apps.core.market.columns import AHEAD, SLOTS
from stream_apps.core.market.config import DAY_MS, MOST_BOOK_MS, MOST_FUNDING_MS, MOST_HORIZON_MS, MOST_INDICATOR_MS, EngineConfig

_HOUR_MS = 3_600_000
_STATE = "the layout of the state depends on it"
_RECURSION = "the ATR is a recursion over all bars, which the state does not keep"
_SUMS = "the state keeps sums over it, not their terms"
_BOOK = "a book becomes one number when it arrives; books of the other depth would stay in use"
_KEPT = "trades outside it are not kept, so a wider one would miss them"

SETTINGS: tuple[Setting, ...] = (
    Setting("grid_ms", "ms", 1_000, 60_000, "Distance of the evaluation instants; length of a pane.", "DESIGN 3", fixed=_STATE, variable="PERPFLOW_GRID_MS"),
    Setting(
        "lateness_ms", "ms", 0, 60_000, "Instant T fires at the first mark with t >= T + this.", "DESIGN 3",
        fixed="it decides which mark fires an instant, and that mark brings the revision", variable="PERPFLOW_ALLOWED_LATENESS_MS",
    ),
    Setting("stale_book_ms", "ms", 100, MOST_BOOK_MS, "Older quotes, depth and mark prices count as stale.", "D7, D9"),
    Setting("stale_funding_ms", "ms", 1_000, MOST_FUNDING_MS, "An older funding rate counts as stale.", "D9"),
    Setting("stale_indicator_ms", "ms", 1_000, MOST_INDICATOR_MS, "Older open interest, ratios and premium count as stale.", "D9"),
    Setting("oi_horizon_ms", "ms", 1_000, MOST_HORIZON_MS, "Horizon of the open-interest change; a whole number of grid steps.", "D8"),
    Setting("whale_usd", "quote units", 1_000, 1e9, "Smallest notional of a trade in the feature whale_flow; at least print_floor.", "D6", whole=False),
    Setting("p99_floor", "base units", 0, 1e15, "Smallest P99 of the trade quantity; P95 has half of it.", "D5", whole=False, of_instrument=True),
    Setting("atr_percentile_min", "bars", 1, 288, "With fewer ATR values the percentile is undefined.", "S1 2.3"),
    Setting("quantile_min_trades", "trades", 1, 1e9, "With fewer trades in 24 h, P95 and P99 are undefined and the instrument is not warm.", "S1 2.4, D11"),
    Setting("quantile_history_ms", "ms", 0, DAY_MS, "With a shorter trade history the instrument is not warm.", "D11"),
    Setting(
        "own_quantile_history_ms", "ms", 0, DAY_MS, "quantile_history_ms of one instrument, in place of that of the engine.", "D11", of_instrument=True
    ),
    Setting("regime_crash", "", 0.0001, 1, "ATR / price from which the regime is crash.", "D15", whole=False),
    Setting("regime_high_vol", "", 0.0001, 1, "ATR / price from which the regime is high_vol; at most regime_crash.", "D15", whole=False),
    Setting(
        "regime_trend", "", 0, 1, "Absolute acceleration / volume of the fast window above which the regime is trend.", "D15", whole=False
    ),
    Setting("correlation_bar_ms", "ms", 60_000, 3_600_000, "Length of the bars of the correlation; a whole number of grid steps.", "S2 6"),
    Setting("correlation_bars", "bars", 8, 1_000, "Number of returns of the correlation; with the bar before them they fit into a day.", "S2 6"),
    Setting("funding_window_ms", "ms", _HOUR_MS, 168 * _HOUR_MS, "History of the funding z-score.", "S1 4.1"),
    Setting("funding_min", "rates", 2, RATES, "With fewer rates in that history the z-score is undefined.", "S1 4.1"),
    Setting("label_target_atr", "ATR", 0.01, 100, "Distance of the target of the binary labels.", "S1 10.4", whole=False),
    Setting("label_stop_atr", "ATR", 0.01, 100, "Distance of the stop of the binary labels; R of MFE and MAE.", "S1 10.4", whole=False),
    Setting("label_cost", "", 0, 0.1, "Estimated cost of a round trip, fraction of price; the labels' returns are net of it.", "S1 10.4", whole=False),
    Setting("print_window_ms", "ms", 1_000, 3_600_000, "How long large trades are kept.", "D5, D6", fixed=_KEPT),
    Setting("print_floor", "quote units", 0, 1e9, "Smallest notional of a kept trade.", "S1 7.1", whole=False, fixed=_KEPT),
    Setting("atr_length", "bars", 2, 288, "Wilder length of the ATR.", "D4", fixed=_RECURSION),
    Setting("atr_history", "bars", 12, 2_016, "ATR values that the percentile ranks against.", "D4", fixed=_STATE),
    Setting("obi_levels", "levels", 1, 1_000, "Levels of each side in the order-book imbalance.", "D7", fixed=_BOOK),
    Setting("vpin_buckets", "buckets", 1, 1_000, "Buckets that VPIN averages over.", "Easley et al. 2012", fixed=_STATE, variable="PERPFLOW_VPIN_BUCKET_COUNT"),
    Setting("vpin_buckets_per_day", "buckets", 1, 10_000, "Buckets of a day's volume, for assets without vpin_bucket.", "Easley et al. 2012", fixed=_SUMS),
    Setting(
        "vpin_bucket", "base units", 1e-12, 1e15, "Volume of a VPIN bucket.", "Easley et al. 2012", whole=False, of_instrument=True, fixed=_SUMS,
        variable="PERPFLOW_VPIN_BUCKETS",
    ),
    Setting("kyle_window_ms", "ms", 2_000, 24 * _HOUR_MS, "Window of Kyle's lambda and of bulk VPIN.", "Kyle 1985", fixed=_SUMS),
    Setting("divergence_bars", "bars", 1, 1_000, "Number of closed bars with which the newest close and CVD are compared.", "S1 4.1", fixed=_STATE),
)  # fmt: skip
BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}
_OF_ANALYTICS = frozenset(one.name for one in fields(AnalyticsConfig))


def value_of(config: EngineConfig, name: str, asset: str | None = None) -> float | None:
    """Return a number of a configuration. For a number that is set per instrument: that of its base asset. None: it has none."""
    if name == "p99_floor":
        return config.p99_floors.get(asset or "")
    if name == "own_quantile_history_ms":
        return config.quantile_histories_ms.get(asset or "")
    if name == "vpin_bucket":
        return config.analytics.vpin_bucket.get(asset or "")
    value: float = getattr(config.analytics if name in _OF_ANALYTICS else config, name)
    return value


def with_values(config: EngineConfig, values: Mapping[str, float]) -> EngineConfig:
    """Return a configuration with engine-wide numbers replaced.

    Raises:
        SettingsError: a number is out of its bounds, or contradicts another one.
    """
    of_engine: dict[str, Any] = {}
    of_analytics: dict[str, Any] = {}
    for name, value in values.items():
        BY_NAME[name].check(value)
        (of_analytics if name in _OF_ANALYTICS else of_engine)[name] = BY_NAME[name].typed(value)
    try:
        analytics = replace(config.analytics, **of_analytics)
        found = replace(config, analytics=analytics, **of_engine)
    except ValueError as error:
        name, separator, rule = str(error).partition(": ")
        raise SettingsError(name if separator else "values", rule or name) from error
    if found.whale_usd < found.print_floor:
        raise SettingsError("whale_usd", f"must be at least print_floor ({found.print_floor:g}), got {found.whale_usd:g}")
    if found.regime_high_vol > found.regime_crash:
        raise SettingsError("regime_high_vol", f"must be at most regime_crash ({found.regime_crash:g}), got {found.regime_high_vol:g}")
    return found


def label_rules(config: EngineConfig) -> LabelRules:
    """Return the numbers of the labels. The horizons are not set: the fields of the topic have them in their names."""
    return LabelRules(config.label_target_atr, config.label_stop_atr, cost=config.label_cost, stale_ms=config.stale_book_ms)


def check_in_force(config: EngineConfig, settings: SettingsInForce) -> None:
    """Check that settings of the log agree with each other and with the kept state.

    Raises:
        SettingsError: names the setting, its value and the limit.
    """
    found = with_values(config, settings.engine)
    # The state keeps this many panes of slow inputs behind the newest closed one.
    most = (SLOTS - AHEAD - 2) * config.grid_ms
    for name, needed, set_at in (
        ("stale_book_ms", found.stale_book_ms, found.stale_book_ms),
        ("stale_funding_ms", found.stale_funding_ms, found.stale_funding_ms),
        ("stale_indicator_ms", found.stale_indicator_ms + found.oi_horizon_ms, found.stale_indicator_ms),
    ):
        if name in settings.engine and needed > most:
            what = "stale_indicator_ms + oi_horizon_ms" if name == "stale_indicator_ms" else name
            raise SettingsError(
                name, f"{what} must be at most {most} ms on a grid of {config.grid_ms} ms, got {needed} ({name} is {set_at})"
            )


def parse_defaults(text: str) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the defaults of ``PERPFLOW_ENGINE_SETTINGS``: those of the engine, and asset -> those of its instruments.

    The form is ``stale_book_ms=3000,p99_floor.BTC=12``.

    Raises:
        ValueError: names the variable and the part at fault.
    """
    values: dict[str, float] = {}
    of_assets: dict[str, dict[str, float]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        left, separator, right = part.partition("=")
        name, dot, asset = left.strip().partition(".")
        setting = BY_NAME.get(name)
        try:
            if not separator:
                raise SettingsError(part, "is not NAME=VALUE or NAME.ASSET=VALUE")
            if setting is None:
                raise SettingsError(name, f"is not a setting; there are: {', '.join(BY_NAME)}")
            if setting.variable:
                raise SettingsError(name, f"has a variable of its own: {setting.variable}")
            if setting.of_instrument != bool(dot and asset):
                raise SettingsError(
                    name, f"name the base asset: {name}.BTC=VALUE" if setting.of_instrument else "is set for the whole engine"
                )
            try:
                value = float(right)
            except ValueError:
                raise SettingsError(name, f"must be a number, got {right!r}") from None
            setting.check(value)
        except SettingsError as error:
            raise ValueError(f"PERPFLOW_ENGINE_SETTINGS: {error}") from error
        if asset:
            of_assets.setdefault(asset, {})[name] = value
        else:
            values[name] = value
    return values, of_assets


def from_environment(config: EngineConfig, text: str) -> EngineConfig:
    """Return a configuration with the defaults of ``PERPFLOW_ENGINE_SETTINGS``. Raises ValueError as ``parse_defaults``."""
    values, of_assets = parse_defaults(text)
    floors = {asset: found["p99_floor"] for asset, found in of_assets.items() if "p99_floor" in found}
    histories = {asset: found["own_quantile_history_ms"] for asset, found in of_assets.items() if "own_quantile_history_ms" in found}
    try:
        return replace(
            with_values(config, values), p99_floors={**config.p99_floors, **floors},
            quantile_histories_ms={**config.quantile_histories_ms, **histories},
        )  # fmt: skip
    except SettingsError as error:
        raise ValueError(f"PERPFLOW_ENGINE_SETTINGS: {error}") from error
