"""Layers and gates that several models share (S1 3.6, 3.8, 3.9)."""

from __future__ import annotations

from stream_apps.core.signals.scoring.model import Gate, Judged, Tier
from stream_apps.core.signals.scoring.points import Steps, every, with_sign
from stream_apps.core.signals.scoring.view import View, big_money, is_btc
from stream_apps.core.signals.strategy import StrategyConfig

# --- sub-scores ------------------------------------------------------------------------------------------------------
CVD_RESONANCE = Steps("cvd_resonance", with_sign(30.0, "cvd_fast", "cvd_slow"), "S1 3.8")


def large_trades(name: str, aligned: float, none: float, source: str) -> Steps:
    """Return the sub-score of large trades in 15 minutes: on the same side, none at all, or only against."""
    rows = (
        every("LONG", aligned, ("large_buys", ">=", 1.0)),
        every("SHORT", aligned, ("large_sells", ">=", 1.0)),
        every("any", none, ("large_buys", "<", 1.0), ("large_sells", "<", 1.0)),
    )
    return Steps(name, rows, source)


P99_FLOW = large_trades("p99_flow", 20.0, 10.0, "S1 3.8")
ACCEL_BONUS = Steps("accel_bonus", with_sign(5.0, "acceleration_fast"), "S1 3.8")
LONG_SHORT_RATIO = Steps(
    "long_short_ratio",
    (
        every("LONG", 15.0, ("long_short_ratio", "<", 0.5)),
        every("LONG", 10.0, ("long_short_ratio", "<", 0.7)),
        every("LONG", 7.0, ("long_short_ratio", "<", 1.0)),
        every("SHORT", 15.0, ("long_short_ratio", ">", 2.0)),
        every("SHORT", 10.0, ("long_short_ratio", ">", 1.5)),
        every("SHORT", 7.0, ("long_short_ratio", ">", 1.0)),
    ),
    "S1 3.8, S2 7.3",
    missing=7.0,
)
TOP_TRADERS = Steps(
    "top_trader_position",
    (
        every("any", 5.0, ("top_trader_long_share", ">", 0.45), ("top_trader_long_share", "<", 0.55)),
        every("LONG", 10.0, ("top_trader_long_share", ">=", 0.55)),
        every("SHORT", 10.0, ("top_trader_long_share", "<=", 0.45)),
    ),
    "S1 3.8, S2 7.3",
    missing=5.0,
)


def open_interest(strong: float, mild: float, shrinking: float, source: str) -> Steps:
    """Return the sub-score of growing open interest. An unknown change counts as mild (D8)."""
    rows = (every("any", strong, ("open_interest_change", ">=", 0.03)), every("any", mild, ("open_interest_change", ">", 0.0)))
    return Steps("open_interest", rows, source, otherwise=shrinking, missing=mild)


OPEN_INTEREST = open_interest(15.0, 10.0, 5.0, "S1 3.8, D8")
# min(round(raw x 10 / 15) + bonus, 15): 15, 10 and 5 become 10, 7 and 3.
OPEN_INTEREST_FAST = open_interest(10.0, 7.0, 3.0, "S1 3.8, 3.9")
OBI_BONUS = Steps(
    "obi_bonus",
    (
        every("LONG", 5.0, ("obi", ">=", 0.30)),
        every("LONG", 3.0, ("obi", ">=", 0.15)),
        every("SHORT", 5.0, ("obi", "<=", -0.30)),
        every("SHORT", 3.0, ("obi", "<=", -0.15)),
    ),
    "S1 3.9",
)
COINBASE_PREMIUM = Steps(
    "coinbase_premium",
    (
        every("any", 2.0, ("coinbase_premium", "<=", 0.0005), ("coinbase_premium", ">=", -0.0005)),
        every("LONG", 5.0, ("coinbase_premium", ">", 0.0005)),
        every("SHORT", 5.0, ("coinbase_premium", "<", -0.0005)),
    ),
    "S1 3.8",
    missing=2.0,
)
# Fast variant of V5.3: growing pressure with a large trade on its side needs no agreement of the two CVDs (S1 3.9, S2 8.1).
ACCEL_INDEPENDENT = Steps(
    "accel_independent",
    (
        every("LONG", 35.0, ("acceleration_fast", ">", 0.0), ("large_buys", ">=", 1.0)),
        every("SHORT", 35.0, ("acceleration_fast", "<", 0.0), ("large_sells", ">=", 1.0)),
    ),
    "S1 3.9",
)


# --- gates -----------------------------------------------------------------------------------------------------------
# Names in the reason of a missing input.
VOLATILITY_INPUT = "price"
WHALE_INPUT = "whale_flow"


# The correlation gate of V5.0: its reason, and the input that it calls missing.
SAME_BET, CORRELATION_INPUT = "same_bet", "correlation"


def on_missing(rule: str, name: str) -> str | None:
    """Return the reason why a missing input blocks, or None if it may pass (D10)."""
    return f"missing({name})" if rule == "block" else None


def _low_volatility(value: float, config: StrategyConfig) -> str:
    return f"low_vol({value:.6g}<{config.vol_atr_pct_min:.6g})"


def _volatility(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    v = view.volatility
    if v is None:  # the gates are judged only with an ATR, so the price is at fault
        return None, on_missing(config.vol_on_missing, VOLATILITY_INPUT)
    return v, _low_volatility(v, config) if v < config.vol_atr_pct_min else None


def _resonance(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    if view.fast is None:
        return None, on_missing(config.cvd_on_missing, view.name_of("cvd_fast"))
    return view.fast, None if view.agree else "no_direction_consensus"


def _resonance_or_independent(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    value, reason = _resonance(view, config)
    return value, None if reason is not None and ACCEL_INDEPENDENT.points(view, view.lean) > 0.0 else reason


def _whale_veto(flow: float, config: StrategyConfig) -> str:
    return f"whale_cvd_veto({flow:.4f})"


def whale_adverse(config: StrategyConfig) -> str:
    """Return the reason why big trades block, for instruments where all of them must be adverse."""
    return f"whale_adverse(>${config.whale_usd_threshold / 1000.0:g}k)"


def _whale(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    flow = big_money(view, config.whale_usd_threshold)
    if flow is None:
        return None, on_missing(config.whale_on_missing, WHALE_INPUT)
    if is_btc(view.snapshot.instrument):
        return flow, _whale_veto(flow, config) if flow * view.lean < -config.whale_flow_pct else None
    # One aligned trade of that size outweighs the adverse ones, so all must be adverse.
    return flow, whale_adverse(config) if flow * view.lean <= -1.0 else None


def _obi_veto(obi: float, config: StrategyConfig) -> str:
    return f"obi_veto({obi:.6g})"


def _obi(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    obi = view.snapshot.obi
    if obi is None:
        return None, on_missing(config.obi_on_missing, "obi")
    return obi, _obi_veto(obi, config) if obi * view.lean < -config.obi_threshold else None


def _spot_perp_veto(divergence: float, config: StrategyConfig) -> str:
    return f"spd_veto({divergence:.6g})"


def _spot_perp(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    divergence = view.snapshot.spot_perp_divergence
    if divergence is None:
        return None, on_missing(config.spot_perp_on_missing, "spot_perp_divergence")
    return divergence, _spot_perp_veto(divergence, config) if divergence * view.lean < -config.spot_perp_threshold else None


VOLATILITY = Gate(
    "volatility", ("atr", "price"), "ATR / price < limit", _volatility, "vol_atr_pct_min", "S1 3.6",
    Judged.VOLATILITY, _low_volatility,
    enabled="gate_vol_enabled", on_missing="vol_on_missing",
)  # fmt: skip
RESONANCE = Gate(
    "cvd_resonance", ("cvd_fast", "cvd_slow"), "the two CVDs do not have the same sign", _resonance, 0.0, "S1 3.6",
    Judged.RESONANCE,
    enabled="gate_cvd_enabled", on_missing="cvd_on_missing", needs_direction=True,
)  # fmt: skip
RESONANCE_OR_INDEPENDENT = Gate(
    "cvd_resonance", ("cvd_fast", "cvd_slow", "acceleration_fast", "large_buys", "large_sells"),
    "the two CVDs do not have the same sign, and the rule accel_independent does not hold", _resonance_or_independent, 0.0, "S1 3.6, 3.9",
    Judged.RESONANCE_OR_INDEPENDENT,
    enabled="gate_cvd_enabled", on_missing="cvd_on_missing", needs_direction=True,
)  # fmt: skip
WHALE = Gate(
    "whale", (), "flow of big trades (at least whale_usd_threshold) against the direction: BTC beyond the limit, others all of them",
    _whale, "whale_flow_pct", "S1 3.6, 16.2 #19", Judged.WHALE, _whale_veto,
    enabled="gate_whale_enabled", on_missing="whale_on_missing", settings=("whale_usd_threshold",), limit_elsewhere=1.0,
)  # fmt: skip
OBI = Gate(
    "obi", ("obi",), "order-book imbalance beyond the limit against the direction", _obi, "obi_threshold", "S1 3.6",
    Judged.OBI, _obi_veto,
    enabled="gate_obi_enabled", on_missing="obi_on_missing",
)  # fmt: skip
SPOT_PERP = Gate(
    "spot_perp", ("spot_perp_divergence",), "spot-perp divergence beyond the limit against the direction", _spot_perp, "spot_perp_threshold",
    "S1 3.6", Judged.SPOT_PERP, _spot_perp_veto, enabled="gate_spot_perp_enabled", on_missing="spot_perp_on_missing",
)  # fmt: skip
FIVE_GATES = (VOLATILITY, RESONANCE, WHALE, OBI, SPOT_PERP)

# --- tiers -----------------------------------------------------------------------------------------------------------
FACTORY_TIERS = (Tier("heavy", "flip_threshold"), Tier("standard", "entry_score"))  # D14
