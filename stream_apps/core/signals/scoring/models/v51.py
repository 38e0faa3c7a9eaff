"""V5.1 baseline and V5.2 with eight signals: layers that add up, no vetoes (S1 4.1-4.5, 6.1; S2 7).

The numbers are those of the signal documents, which were deployed. The fast CVD gives the direction. If the slow one disagrees, the score
stands and may close a position, but it opens none (S2 7.1). Confirmation repeats the agreement of the two CVDs, as in the original code (S1
4.3 calls it collinear; V5.3 removed it). V5.2 no longer enters or flips below 75. D17 wants the flip no lower than the entry, so both
default to 75. Heavy begins at entry + 10, at least 85 (S2 7.4), whatever the flip threshold.
"""

from __future__ import annotations

from stream_apps.core.signals.scoring.model import Gate, Judged, Layer, Model, Tier
from stream_apps.core.signals.scoring.models.shared import (
    ACCEL_BONUS,
    COINBASE_PREMIUM,
    LONG_SHORT_RATIO,
    OPEN_INTEREST,
    TOP_TRADERS,
    large_trades,
)
from stream_apps.core.signals.scoring.points import AgainstFunding, Row, Steps, every, with_sign
from stream_apps.core.signals.scoring.view import View
from stream_apps.core.signals.strategy import StrategyConfig

FAST_AGREES = Steps("cvd_fast", with_sign(15.0, "cvd_fast"), "S1 4.3")
SLOW_AGREES = Steps("cvd_mid", with_sign(15.0, "cvd_slow"), "S1 4.3")
P99_FLOW = large_trades("p99_flow", 15.0, 10.0, "S1 4.3")
CONFIRMATION = Steps("cvd_confirmation", with_sign(15.0, "cvd_fast", "cvd_slow"), "S1 4.3, as built")
LONG_SHORT_RATIO_51 = Steps(
    "long_short_ratio",
    (
        every("LONG", 10.0, ("long_short_ratio", "<", 0.5)),
        every("LONG", 5.0, ("long_short_ratio", "<=", 0.67)),
        every("SHORT", 10.0, ("long_short_ratio", ">", 2.0)),
        every("SHORT", 5.0, ("long_short_ratio", ">=", 1.5)),
    ),
    "S1 4.3",
    missing=5.0,
)
FUNDING = AgainstFunding("funding_rate", 5.0, "S1 4.4, signal document")


def _liquidated(side: str, ours: str, theirs: str) -> tuple[Row, ...]:
    return tuple(
        every(side, points, (theirs, ">", 0.0), (theirs, ">=", ratio, ours)) for ratio, points in ((2.0, 5.0), (1.5, 3.0), (1.2, 1.0))
    )


LIQUIDATION = Steps(
    "liquidation",
    (*_liquidated("LONG", "liquidated_long_5m", "liquidated_short_5m"), *_liquidated("SHORT", "liquidated_short_5m", "liquidated_long_5m")),
    "S1 4.5, signal document",
)


def _agreement(view: View, config: StrategyConfig) -> tuple[float | None, str | None]:
    if view.fast is None:
        return None, f"missing({view.name_of('cvd_fast')})"
    return view.fast, None if view.agree else "no_direction_consensus"


AGREEMENT = Gate(
    "cvd_agreement", ("cvd_fast", "cvd_slow"), "the two CVDs do not have the same sign; forbids entries only", _agreement, 0.0, "S2 7.1",
    Judged.AGREEMENT,
    needs_direction=True, entry_only=True,
)  # fmt: skip
TIERS = (Tier("heavy", "entry_score", plus=10.0, least=85.0), Tier("standard", "entry_score"))
WINDOWS = {"cvd_fast_window": "30m", "cvd_slow_window": "4h", "fast_variant": False}
_HEAVY = "Heavy from entry_score + 10, at least 85 (S2 7.4)."

V51 = Model(
    name="v51_baseline",
    title="V5.1 baseline",
    source="S1 4.1, 4.3, 6.1; S2 7",
    layers=(
        Layer("direction", (FAST_AGREES, SLOW_AGREES, P99_FLOW, ACCEL_BONUS), 50.0, 50.0),
        Layer("crowding", (LONG_SHORT_RATIO_51, TOP_TRADERS), 20.0, 20.0),
        Layer("environment", (OPEN_INTEREST,), 15.0, 15.0),
        Layer("confirmation", (CONFIRMATION,), 15.0, 15.0),
        Layer("auxiliary", (COINBASE_PREMIUM,), 5.0, 5.0),
    ),
    gates=(AGREEMENT,),
    tiers=TIERS,
    fixed=WINDOWS,
    defaults={"flip_threshold": 75.0, "sl_atr_multiplier": 1.4, "tp1_ratio": 0.75, "tp2_ratio": 1.5, "timeout_minutes": 60},
    notes=("The layers add up to 105; the score ends at 100. The 5 of the acceleration come on top of the 45 of the direction.", _HEAVY),
)

V52 = Model(
    name="v52_8signals",
    title="V5.2, eight signals",
    source="S1 4.1 (signal document), 4.3-4.5, 6.1; S2 7",
    layers=(
        Layer("direction", (FAST_AGREES, SLOW_AGREES, P99_FLOW), 45.0, 40.0),
        Layer("crowding", (LONG_SHORT_RATIO, TOP_TRADERS), 25.0, 18.0),
        Layer("funding", (FUNDING,), 5.0, 5.0),
        Layer("environment", (OPEN_INTEREST,), 15.0, 12.0),
        Layer("confirmation", (CONFIRMATION,), 15.0, 15.0),
        Layer("liquidation", (LIQUIDATION,), 5.0, 5.0),
        Layer("auxiliary", (COINBASE_PREMIUM,), 5.0, 5.0),
    ),
    gates=(AGREEMENT,),
    tiers=TIERS,
    fixed=WINDOWS,
    defaults={"flip_threshold": 75.0, "sl_atr_multiplier": 2.1, "tp1_ratio": 0.667, "tp2_ratio": 1.5, "timeout_minutes": 60},
    notes=(
        "No acceleration bonus (S1 6.1). Funding and liquidations without a value count nothing.",
        "Crowding has the stepwise points of the code (S2 7.3), 25 raw, weighted to 18.",
        _HEAVY,
    ),
)
