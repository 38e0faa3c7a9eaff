"""V5.0, the rule engine: three conditions that must all hold, and a bonus that sizes the position (S2 6, S1 4.2).

The plan gives no score from 0 to 100. It has a bonus of 0 to 60 that decides the share of capital. Here the three conditions are worth the
other 40, so that score, tier and flip mean the same as in the other models. Scores 40-55 are light, 60-80 standard, 85-100 heavy; they are
the bonuses 0-15, 20-40 and 45-60. The shares of capital, 2, 5 and 8 %, become multiples of the risk in the same proportion. "Any opposite
signal closes" is flip_threshold = 40.

The plan leaves two points open. How fast must the percentile "move from below 40 to above 60"? Here: within the last 12 closed 5m bars.
Over what period is the mean minute, of which a heavy minute has three times the volume? Here: the day. The two texts differ in the funding
condition; S2 6, "below / above 0.01 %", holds. How far does the stop trail? Here: 1 R.

"BTC+ETH same side total cap 10 % of capital" holds over all instruments of the strategy. An entry that would exceed it is refused and not cut:
the plan knows sizes of 2, 5 and 8 % only, so a cut one would not be of the plan. The share of a position is 5 % times its risk multiple
(D14), so the cap is two standard positions. ``signal_rules.verdict`` applies it, on paper and live.

"Correlation filter between ETH and BTC" has no number in the plan. Here: two entries of one side on assets that move together are one bet,
so the second one is refused. Together means a correlation of at least 0.8 of the returns of 5 min VWAPs over 4 h, the slow window: then
two thirds of the variance of one is that of the other. The scorer judges it, so paper, live and replay follow. It does not know fills: a
position may be open from its entry signal to the time stop, or until an opposite signal closes it. Of two entries at one instant the
instrument that is first by name enters. A correlation that is not known refuses, unless ``correlation_on_missing`` is pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from stream_apps.core.signals.scoring.model import Gate, Judged, Layer, Model, Tier
from stream_apps.core.signals.scoring.models.shared import CORRELATION_INPUT, SAME_BET, on_missing
from stream_apps.core.signals.scoring.points import Steps, every
from stream_apps.core.signals.scoring.view import View
from stream_apps.core.signals.strategy import StrategyConfig


def _sign(name: str) -> Callable[[float, StrategyConfig], str]:
    return lambda value, config: f"{name}({value:.6g})"


def _signed(name: str, value: float | None, view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    """Judge a value that must have the sign of the direction."""
    if value is None:
        return None, f"missing({view.name_of(name)})"
    return value, None if value * view.lean > 0.0 else _sign(name)(value, config)


def _fast(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    return _signed("cvd_fast", view.fast, view, config)


def _slope(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    return _signed("slope_fast", view.slope, view, config)


def _slow(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    return _signed("cvd_slow", view.slow, view, config)


def _vwap(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    vwap = view.snapshot.vwap_30m
    return _signed("vwap_30m", None if vwap is None else view.snapshot.price - vwap, view, config)


def _same_bet(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    """Judge the largest correlation with an asset on which a position of this side may be open."""
    found = [correlation for side, correlation in view.snapshot.bets if side == view.lean]
    known = [correlation for correlation in found if correlation is not None]
    value = max(known, default=None)
    if value is not None and value >= config.correlation_max:
        return value, SAME_BET
    return value, on_missing(config.correlation_on_missing, CORRELATION_INPUT) if len(known) < len(found) else None


CORE = Steps(
    "core",
    (
        every("LONG", 40.0, ("cvd_fast", ">", 0.0), ("slope_fast", ">", 0.0), ("cvd_slow", ">", 0.0), ("price", ">", 1.0, "vwap_30m")),
        every("SHORT", 40.0, ("cvd_fast", "<", 0.0), ("slope_fast", "<", 0.0), ("cvd_slow", "<", 0.0), ("price", "<", 1.0, "vwap_30m")),
    ),
    "S2 6; 40 is ours",
)
ATR_BREAK = Steps("atr_break", (every("any", 25.0, ("atr_percentile", ">", 60.0), ("atr_percentile_low", "<", 40.0)),), "S2 6")
NO_ADVERSE = Steps(
    "no_adverse_large_trade", (every("LONG", 20.0, ("large_sells", "<", 1.0)), every("SHORT", 20.0, ("large_buys", "<", 1.0))), "S2 6"
)
FUNDING_SUPPORT = Steps(
    "funding_support",
    (every("LONG", 15.0, ("estimated_funding_rate", "<", 0.0001)), every("SHORT", 15.0, ("estimated_funding_rate", ">", 0.0001))),
    "S2 6",
)

_ONE = Model(
    name="v50_rules",
    title="V5.0 rule engine",
    source="S2 6, 5.2; S1 4.2",
    layers=(Layer("core", (CORE,), 40.0, 40.0), Layer("bonus", (ATR_BREAK, NO_ADVERSE, FUNDING_SUPPORT), 60.0, 60.0)),
    gates=(
        Gate("cvd_fast", ("cvd_fast",), "the fast CVD is zero", _fast, 0.0, "S2 6 #1", Judged.FAST_SIGN, _sign("cvd_fast"), needs_direction=True),
        Gate("cvd_slope", ("slope_fast",), "its slope does not have the direction's sign", _slope, 0.0, "S2 6 #1", Judged.SLOPE_SIGN, _sign("slope_fast")),
        Gate("cvd_slow", ("cvd_slow",), "the slow CVD does not have the direction's sign", _slow, 0.0, "S2 6 #2", Judged.SLOW_SIGN, _sign("cvd_slow")),
        Gate("vwap", ("price", "vwap_30m"), "price - VWAP does not have the direction's sign", _vwap, 0.0, "S2 6 #3", Judged.VWAP_SIGN, _sign("vwap_30m")),
    ),
    tiers=(Tier("heavy", "entry_score", least=85.0), Tier("standard", "entry_score", least=60.0), Tier("light", "entry_score")),
    fixed={"cvd_fast_window": "30m", "cvd_slow_window": "4h", "fast_variant": False},
    defaults={
        "entry_score": 40.0, "flip_threshold": 40.0, "sl_atr_multiplier": 1.2, "tp1_ratio": 1.0, "tp2_ratio": 2.0, "timeout_minutes": 30,
        "tier_light": 0.4, "tier_standard": 1.0, "tier_heavy": 1.6,
    },
    ranges={"entry_score": (40.0, 100.0), "flip_threshold": (40.0, 100.0)},
    stretch=True,
    two_an_hour=True,
    flip_closes_only=True,
    trail_ratio=1.0,
    capital_share=0.05,
    side_capital=0.10,
    notes=(
        "The fast window is 1h while volume_1m > 3 x volume_24h / 1440 (S2 5.2).",
        "At most two entries within an hour. A signal that only closes does not count.",
        "An opposite signal closes the position; the next entry waits for the cooldown (S2 6).",
        "From the second target on a stop trails the rest (S2 6). Its distance of 1 R is ours: the rest then keeps what the first target earned.",
        "The cap counts all instruments of the strategy: 5 % times the risk multiple of each position (S2 6). An entry beyond it is refused.",
        "The 40 points of the core and the tiers' scores are ours: the plan has a bonus of 0-60 that sizes 2, 5 or 8 % of capital.",
    ),
)  # fmt: skip
_SEVERAL = replace(
    _ONE,
    gates=(
        *_ONE.gates,
        Gate(
            "correlation", (), "a position of this side may be open on another asset that moves with this one", _same_bet, "correlation_max",
            "S2 6; the numbers are ours", Judged.SAME_BET, enabled="gate_correlation_enabled", on_missing="correlation_on_missing", entry_only=True,
        ),
    ),
)  # fmt: skip
V50 = replace(_ONE, variants={"instruments": _SEVERAL})
