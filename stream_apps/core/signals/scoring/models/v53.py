"""V5.3 in its three variants: the factory's layers and gates with fixed weights; the raw points are the score (S1 4.1, 4.6-4.8; S2 8).

The point steps are those of the original code (S1 4.6: the design's linear ones were never built). V5.4 scales raw points by the strategy's
weights; V5.3 adds them up: 55 + 25 + 15 + 5. The fast variant has the order-book bonus. It also has a rule: growing pressure with a large
trade needs no agreement of the two CVDs. In the original a gate of its own switched that rule off (S1 3.9, 16.2 #12); here the gate
includes the rule.
"""

from __future__ import annotations

from typing import Any

from stream_apps.core.signals.scoring.model import Gate, Layer, Model
from stream_apps.core.signals.scoring.models.shared import (
    ACCEL_BONUS,
    ACCEL_INDEPENDENT,
    COINBASE_PREMIUM,
    CVD_RESONANCE,
    FACTORY_TIERS,
    FIVE_GATES,
    LONG_SHORT_RATIO,
    OBI,
    OBI_BONUS,
    OPEN_INTEREST,
    OPEN_INTEREST_FAST,
    P99_FLOW,
    RESONANCE_OR_INDEPENDENT,
    SPOT_PERP,
    TOP_TRADERS,
    VOLATILITY,
    WHALE,
)

_DIRECTION = (CVD_RESONANCE, P99_FLOW, ACCEL_BONUS)
_CROWDING = Layer("crowding", (LONG_SHORT_RATIO, TOP_TRADERS), 25.0, 25.0)
_AUXILIARY = Layer("auxiliary", (COINBASE_PREMIUM,), 5.0, 5.0)
_DEFAULTS: dict[str, Any] = {"flip_threshold": 85.0, "sl_atr_multiplier": 2.0, "tp1_ratio": 0.75, "tp2_ratio": 1.5, "timeout_minutes": 60}
_FIXED_WEIGHTS = "The four weights of the configuration do not count: the raw points are the score."


def _model(name: str, title: str, fast_window: str, slow_window: str) -> Model:
    fast = name == "v53_fast"
    environment = (OPEN_INTEREST_FAST, OBI_BONUS) if fast else (OPEN_INTEREST,)
    gates: tuple[Gate, ...] = (VOLATILITY, RESONANCE_OR_INDEPENDENT, WHALE, OBI, SPOT_PERP) if fast else FIVE_GATES
    return Model(
        name=name,
        title=title,
        source="S1 3.9, 4.1, 4.6-4.8; S2 8" if fast else "S1 4.1, 4.6-4.8; S2 8",
        layers=(
            Layer("direction", _DIRECTION, 55.0, 55.0, floor=ACCEL_INDEPENDENT if fast else None),
            _CROWDING,
            Layer("environment", environment, 15.0, 15.0),
            _AUXILIARY,
        ),
        gates=gates,
        tiers=FACTORY_TIERS,
        fixed={"cvd_fast_window": fast_window, "cvd_slow_window": slow_window, "fast_variant": fast},
        defaults=_DEFAULTS,
        notes=(_FIXED_WEIGHTS,),
    )


V53_STANDARD = _model("v53_standard", "V5.3 standard", "30m", "4h")
V53_MIDDLE = _model("v53_middle", "V5.3 middle", "15m", "1h")
V53_FAST = _model("v53_fast", "V5.3 fast", "5m", "30m")
