"""The factory scorer ``v54_factory``: five gates, four layers, one score (S1 section 3 with DECISIONS D6, D8, D10-D16).

``evaluate`` is a pure function of a snapshot, a validated configuration and the strategy's memory. It is not called for paused or
deprecated strategies: whether a strategy runs is the engine's business.

Where the specification leaves something open or unsymmetric, this holds:

- Gates are judged in order up to the first that blocks; the later ones are skipped. A switched-off gate never judges.
- A gate whose input is missing blocks, or passes if its ``on_missing`` says so. The volatility and the whale gate cannot miss their
  inputs here: without ATR and large-trade quantile the strategy is not warm (D11), and no whale trades in 15 minutes is an
  observation, "nothing adverse", with the value None.
- A fast CVD of exactly zero (or none at all) has no direction, also with the resonance gate off; S1 called zero SHORT, by which a
  mirrored market did not give the mirrored result. Such an evaluation is blocked by ``no_direction``.
- No signal without a risk distance: an ATR or price of zero blocks by ``no_risk_distance`` (S1 3.4, 8.2) even with the volatility gate off.
- There is no tier "light" in this model: below entry_score there is no tier. Its risk multiple is there for models that have one.
- Missing inputs of layers take the neutral points below and are listed; an undefined acceleration or order-book imbalance earns no bonus.
- The fast variant's ``accel_independent`` rule is left out: no configuration of V5.4 could switch it on (S1 3.9).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from schemas.partition import base_of_instrument
from stream_apps.core.snapshot import Prints, Snapshot, whale_flow
from stream_apps.core.strategy import StrategyConfig

Record = dict[str, Any]

LONG, SHORT, NONE = "LONG", "SHORT", "NONE"
_DIRECTION_NAMES = {1: LONG, -1: SHORT, 0: NONE}
_ALLOWED = {"both": (1, -1), "long_only": (1,), "short_only": (-1,)}

# Most raw points of each layer (S1 3.10). Direction and crowding share the direction and momentum weights, 55 to 25.
DIRECTION_RAW_MAX = 55.0
CROWDING_RAW_MAX = 25.0
ENVIRONMENT_RAW_MAX = 15.0
AUXILIARY_RAW_MAX = 5.0
_SHARED_RAW_MAX = DIRECTION_RAW_MAX + CROWDING_RAW_MAX

# Points of layer inputs that are missing (S1 3.8, D8).
LONG_SHORT_RATIO_NEUTRAL = 7.0
TOP_TRADER_NEUTRAL = 5.0
OPEN_INTEREST_NEUTRAL = 10.0
PREMIUM_NEUTRAL = 2.0

# Order-book bonus of the fast variant: |OBI| from which, points (S1 3.9). Part of the model's name: other numbers, other model.
OBI_STRONG = (0.30, 5.0)
OBI_WEAK = (0.15, 3.0)
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class RegimeLimits:
    """Limits of the regime label (D15). The label informs; it decides nothing.

    Attributes:
        crash: ATR/price from which the regime is crash.
        high_vol: ATR/price from which it is high_vol.
        trend: |acceleration| of the fast CVD, as a share of the quantity traded in its window, above which it is a trend. The
            default means that the net flow of a grid step outdid that of the step before by 2 % of the window's trade.
    """

    crash: float = 0.012
    high_vol: float = 0.008
    trend: float = 0.02


REGIME_LIMITS = RegimeLimits()


@dataclass(frozen=True, slots=True)
class StrategyMemory:
    """What one strategy remembers of one instrument between instants; it lives in the worker's state.

    Attributes:
        last_entry_time: Instant of the last entry signal, ms UTC; None before the first.
    """

    last_entry_time: int | None = None

    def to_tuple(self) -> tuple[int | None]:
        """Return the memory as plain values."""
        return (self.last_entry_time,)

    @classmethod
    def from_tuple(cls, values: tuple[int | None] | list[int | None]) -> StrategyMemory:
        """Return the memory that ``to_tuple`` gave."""
        (last_entry_time,) = values
        return cls(last_entry_time)


class Evaluation(NamedTuple):
    """Result of one evaluation.

    Attributes:
        score: Record for the ``scores`` topic.
        signal: Record for the ``signals`` topic, or None.
        memory: The strategy's memory after it.
    """

    score: Record
    signal: Record | None
    memory: StrategyMemory


def evaluate(
    snapshot: Snapshot, config: StrategyConfig, config_hash: str, memory: StrategyMemory, limits: RegimeLimits = REGIME_LIMITS
) -> Evaluation:
    """Judge one instant of one instrument by one strategy.

    Args:
        snapshot: Market state at the instant.
        config: A configuration that passes ``strategy.validate``; its windows are windows of the snapshot.
        config_hash: ``strategy.config_hash(config)``, computed once by the caller.
        memory: The strategy's memory of this instrument.
        limits: Limits of the regime label.

    Raises:
        ValueError: the strategy is for another instrument.
    """
    if snapshot.instrument != config.instrument:
        raise ValueError(f"instrument: strategy {config.strategy_id} is for {config.instrument}, the snapshot is of {snapshot.instrument}")
    fast = snapshot.cvd.get(config.cvd_fast_window)
    slow = snapshot.cvd.get(config.cvd_slow_window)
    acceleration = snapshot.acceleration.get(config.cvd_fast_window)
    atr = snapshot.atr
    missing = _missing_inputs(snapshot, config, fast, slow, acceleration)
    stale = [name for name in missing if name in snapshot.stale_inputs] if snapshot.stale_inputs else []
    warm = atr is not None and slow is not None and snapshot.quantity_p99 is not None

    layers: list[Record] = []
    gates: list[Record] = []
    block: str | None = None
    regime = "unknown"
    total = 0.0
    direction = 0
    if atr is not None and warm:
        would_be = 0 if fast is None or fast == 0.0 else (1 if fast > 0.0 else -1)
        agree = would_be != 0 and slow is not None and slow * would_be > 0.0
        volatility = atr / snapshot.price if snapshot.price > 0.0 else 0.0
        aligned, adverse = _large_trade_sides(snapshot.large_trades, would_be)
        regime = _regime(volatility, agree, acceleration, snapshot.volume.get(config.cvd_fast_window), limits)
        gates, block = _judge_gates(snapshot, config, volatility, fast, agree, would_be)
        if block is None and (atr <= 0.0 or snapshot.price <= 0.0):
            block = "no_risk_distance"
        layers, total = _layers(snapshot, config, would_be, agree, aligned, adverse, acceleration)
        if block is None:
            direction = would_be
        else:
            total = 0.0

    passed = warm and block is None
    tier = "heavy" if total >= config.flip_threshold else "standard" if total >= config.entry_score else None
    allowed = passed and direction in _ALLOWED[config.direction]
    wants_entry = allowed and total >= config.entry_score
    cooling = (
        wants_entry and memory.last_entry_time is not None and snapshot.time - memory.last_entry_time < config.cooldown_minutes * _MINUTE_MS
    )
    entry = wants_entry and not cooling
    flip = allowed and total >= config.flip_threshold
    identity = f"{snapshot.instrument}|{config.strategy_id}|{snapshot.time}"
    score: Record = {
        "score_id": identity,
        "instrument": snapshot.instrument,
        "event_time": snapshot.time,
        "receive_time": snapshot.decided_at,
        "strategy_id": config.strategy_id,
        "strategy_name": config.display_name,
        "strategy_version": config.model,
        "config_revision": config.revision,
        "config_hash": config_hash,
        "direction": _DIRECTION_NAMES[direction],
        "score": total,
        "tier": tier,
        "gate_passed": passed,
        "gate_block": block,
        "warm": warm,
        "regime": regime,
        "cooldown": cooling,
        "signalled": entry or flip,
        "price": snapshot.price,
        "atr": atr,
        "cvd_fast": fast,
        "cvd_slow": slow,
        "cvd_slope": snapshot.slope.get(config.cvd_fast_window),
        "cvd_acceleration": acceleration,
        "layers": layers,
        "gates": gates,
        "missing_inputs": missing,
        "stale_inputs": stale,
        "late_trades": snapshot.late_trades,
    }
    if atr is None or tier is None or not (entry or flip):
        return Evaluation(score, None, memory)
    signal: Record = {
        "signal_id": identity,
        "instrument": snapshot.instrument,
        "event_time": snapshot.time,
        "receive_time": snapshot.decided_at,
        "strategy_id": config.strategy_id,
        "strategy_name": config.display_name,
        "strategy_version": config.model,
        "config_revision": config.revision,
        "config_hash": config_hash,
        "decided_at": snapshot.decided_at,
        "direction": _DIRECTION_NAMES[direction],
        "score": total,
        "tier": tier,
        "entry": entry,
        "flip": flip,
        "regime": regime,
        "price": snapshot.price,
        "atr": atr,
        "risk_distance": config.sl_atr_multiplier * atr,
        "tp1_ratio": config.tp1_ratio,
        "tp2_ratio": config.tp2_ratio,
        "timeout_minutes": config.timeout_minutes,
        "initial_balance": config.initial_balance,
        "risk_per_trade": config.risk_per_trade,
        "risk_multiple": config.tier_heavy if tier == "heavy" else config.tier_standard,
        "max_positions": config.max_positions,
    }
    return Evaluation(score, signal, StrategyMemory(snapshot.time) if entry else memory)


def _missing_inputs(
    snapshot: Snapshot, config: StrategyConfig, fast: float | None, slow: float | None, acceleration: float | None
) -> list[str]:
    """Return the names of the inputs that this strategy uses and that have no value, stale ones included (D10)."""
    missing = []
    if snapshot.atr is None:
        missing.append("atr")
    if snapshot.quantity_p99 is None:
        missing.append("quantity_p99")
    if fast is None:
        missing.append(f"cvd_{config.cvd_fast_window}")
    if slow is None:
        missing.append(f"cvd_{config.cvd_slow_window}")
    if acceleration is None:
        missing.append(f"acceleration_{config.cvd_fast_window}")
    if snapshot.obi is None and (config.gate_obi_enabled or config.fast_variant):
        missing.append("obi")
    if snapshot.spot_perp_divergence is None and config.gate_spot_perp_enabled:
        missing.append("spot_perp_divergence")
    if snapshot.open_interest_change is None:
        missing.append("open_interest_change")
    if snapshot.long_short_ratio is None:
        missing.append("long_short_ratio")
    if snapshot.top_trader_long_share is None:
        missing.append("top_trader_long_share")
    if snapshot.coinbase_premium is None:
        missing.append("coinbase_premium")
    return missing


def _large_trade_sides(large: Prints, would_be: int) -> tuple[bool, bool]:
    """Return (an aligned large trade exists, an adverse one exists). Without a direction every large trade is adverse."""
    if large.taker_buy.shape[0] == 0:
        return False, False
    if would_be == 0:
        return False, True
    bought = bool(large.taker_buy.any())
    sold = not bool(large.taker_buy.all())
    return (bought, sold) if would_be > 0 else (sold, bought)


def _regime(volatility: float, agree: bool, acceleration: float | None, volume: float | None, limits: RegimeLimits) -> str:
    """Return the regime label, first match (S1 3.7 with D15)."""
    if volatility >= limits.crash:
        return "crash"
    if volatility >= limits.high_vol:
        return "high_vol"
    if agree and acceleration is not None and volume is not None and volume > 0.0 and abs(acceleration) > limits.trend * volume:
        return "trend"
    return "range"


@lru_cache(maxsize=4096)
def _is_btc(instrument: str) -> bool:
    return base_of_instrument(instrument) == "BTC"


def _flow(prints: Prints, whale_usd: float) -> float | None:
    """Return ``whale_flow``, without its array work when there is nothing to add up."""
    return None if prints.price.shape[0] == 0 else whale_flow(prints, whale_usd)


def _judge_gates(
    snapshot: Snapshot, config: StrategyConfig, volatility: float, fast: float | None, agree: bool, would_be: int
) -> tuple[list[Record], str | None]:
    """Return the five gate records in order, and the reason of the first block (S1 3.6)."""
    # 1. Volatility: enough movement to pay the costs.
    block: str | None = None
    value: float | None = None
    if config.gate_vol_enabled:
        value = volatility
        if volatility < config.vol_atr_pct_min:
            block = f"low_vol({volatility:.6g}<{config.vol_atr_pct_min:.6g})"
    gates = [_gate("volatility", config.gate_vol_enabled, False, value, config.vol_atr_pct_min, block)]

    # 2. Resonance: both CVDs point the same way.
    skipped = block is not None
    reason: str | None = None
    value = None
    if config.gate_cvd_enabled and not skipped:
        value = fast
        if fast is None:
            reason = _on_missing(config.cvd_on_missing, f"cvd_{config.cvd_fast_window}")
        elif not agree:
            reason = "no_direction_consensus"
    gates.append(_gate("cvd_resonance", config.gate_cvd_enabled, skipped, value, 0.0, reason))
    if block is None:
        block = reason
    if block is None and would_be == 0:
        block = "no_direction"

    # 3. Whales: big money against the direction. BTC by the balance of whale trades; elsewhere they are too few for a
    # balance, so all of them must be adverse, which is a flow of -1 (S1 3.6; each trade at its own price, S1 16.2 #19).
    btc = _is_btc(config.instrument)
    limit = config.whale_flow_pct if btc else 1.0
    skipped = block is not None
    reason = None
    value = None
    if config.gate_whale_enabled and not skipped:
        value = _flow(snapshot.whale_prints if btc else snapshot.large_trades, config.whale_usd_threshold)
        if value is not None:
            if btc and value * would_be < -limit:
                reason = f"whale_cvd_veto({value:.4f})"
            elif not btc and value * would_be <= -limit:
                reason = f"whale_adverse(>${config.whale_usd_threshold / 1000.0:g}k)"
    gates.append(_gate("whale", config.gate_whale_enabled, skipped, value, limit, reason))
    block = block or reason

    # 4 and 5. The book and the spot market must not contradict the direction.
    for name, enabled, observed, limit, on_missing, source, veto in (
        ("obi", config.gate_obi_enabled, snapshot.obi, config.obi_threshold, config.obi_on_missing, "obi", "obi_veto"),
        (
            "spot_perp",
            config.gate_spot_perp_enabled,
            snapshot.spot_perp_divergence,
            config.spot_perp_threshold,
            config.spot_perp_on_missing,
            "spot_perp_divergence",
            "spd_veto",
        ),
    ):
        skipped = block is not None
        reason = None
        value = None
        if enabled and not skipped:
            value = observed
            if value is None:
                reason = _on_missing(on_missing, source)
            elif value * would_be < -limit:
                reason = f"{veto}({value:.6g})"
        gates.append(_gate(name, enabled, skipped, value, limit, reason))
        block = block or reason
    return gates, block


def _on_missing(rule: str, name: str) -> str | None:
    return f"missing({name})" if rule == "block" else None


def _gate(name: str, enabled: bool, skipped: bool, value: float | None, limit: float, reason: str | None) -> Record:
    return {
        "name": name,
        "enabled": enabled,
        "passed": reason is None,
        "skipped": enabled and skipped,
        "value": value,
        "limit": limit,
        "reason": reason,
    }


def _layers(
    snapshot: Snapshot, config: StrategyConfig, would_be: int, agree: bool, aligned: bool, adverse: bool, acceleration: float | None
) -> tuple[list[Record], float]:
    """Return the four layers with their points for the would-be direction, and the score before gates (S1 3.8-3.10)."""
    resonance = 30.0 if agree else 0.0
    p99_flow = 20.0 if aligned else 0.0 if adverse else 10.0
    accel_bonus = 5.0 if acceleration is not None and acceleration * would_be > 0.0 else 0.0
    ratio_points = _long_short_points(snapshot.long_short_ratio, would_be)
    top_points = _top_trader_points(snapshot.top_trader_long_share, would_be)
    interest = _open_interest_points(snapshot.open_interest_change)
    environment_parts = {"open_interest": interest}
    environment = interest
    if config.fast_variant:
        base = float(round(interest * 10.0 / 15.0))
        bonus = _obi_bonus(snapshot.obi, would_be)
        environment_parts = {"open_interest": base, "obi_bonus": bonus}
        environment = min(base + bonus, ENVIRONMENT_RAW_MAX)
    premium = _premium_points(snapshot.coinbase_premium, would_be)

    shared = float(config.weight_direction + config.weight_momentum)
    direction = _layer(
        "direction",
        min(resonance + p99_flow + accel_bonus, DIRECTION_RAW_MAX),
        DIRECTION_RAW_MAX,
        shared * DIRECTION_RAW_MAX / _SHARED_RAW_MAX,
        {"cvd_resonance": resonance, "p99_flow": p99_flow, "accel_bonus": accel_bonus},
    )
    crowding = _layer(
        "crowding",
        min(ratio_points + top_points, CROWDING_RAW_MAX),
        CROWDING_RAW_MAX,
        shared * CROWDING_RAW_MAX / _SHARED_RAW_MAX,
        {"long_short_ratio": ratio_points, "top_trader_position": top_points},
    )
    layers = [
        direction,
        crowding,
        _layer("environment", environment, ENVIRONMENT_RAW_MAX, float(config.weight_env), environment_parts),
        _layer("auxiliary", premium, AUXILIARY_RAW_MAX, float(config.weight_aux), {"coinbase_premium": premium}),
    ]
    total = layers[0]["score"] + layers[1]["score"] + layers[2]["score"] + layers[3]["score"]
    return layers, round(min(total, 100.0), 1)


def _layer(name: str, raw: float, raw_max: float, most: float, parts: dict[str, float]) -> Record:
    # Multiplied before divided: 40 x 41.25 / 55 is 30 exactly, 40 / 55 x 41.25 is not.
    return {"name": name, "raw": raw, "raw_max": raw_max, "score": min(raw * most / raw_max, most), "max": most, "parts": parts}


def _long_short_points(ratio: float | None, would_be: int) -> float:
    """Points for going against the crowd of accounts (S1 3.8)."""
    if ratio is None:
        return LONG_SHORT_RATIO_NEUTRAL
    if would_be > 0:
        return 15.0 if ratio < 0.5 else 10.0 if ratio < 0.7 else 7.0 if ratio < 1.0 else 0.0
    if would_be < 0:
        return 15.0 if ratio > 2.0 else 10.0 if ratio > 1.5 else 7.0 if ratio > 1.0 else 0.0
    return 0.0


def _top_trader_points(long_share: float | None, would_be: int) -> float:
    """Points for going with the top traders (S1 3.8)."""
    if long_share is None or 0.45 < long_share < 0.55:
        return TOP_TRADER_NEUTRAL
    if would_be == 0:
        return 0.0
    return 10.0 if (long_share >= 0.55) == (would_be > 0) else 0.0


def _open_interest_points(change: float | None) -> float:
    """Points for money coming in (D8)."""
    if change is None:
        return OPEN_INTEREST_NEUTRAL
    return 15.0 if change >= 0.03 else 10.0 if change > 0.0 else 5.0


def _obi_bonus(obi: float | None, would_be: int) -> float:
    """Bonus of the fast variant for a book that leans the same way (S1 3.9)."""
    if obi is None or obi * would_be <= 0.0:
        return 0.0
    for least, points in (OBI_STRONG, OBI_WEAK):
        if abs(obi) >= least:
            return points
    return 0.0


def _premium_points(premium: float | None, would_be: int) -> float:
    """Points for the Coinbase premium on the same side (S1 3.8)."""
    if premium is None or abs(premium) <= 0.0005:
        return PREMIUM_NEUTRAL
    return 5.0 if premium * would_be > 0.0 else 0.0
