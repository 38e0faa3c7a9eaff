"""V5.4, the strategy factory: the reference scorer (S1 3 with DECISIONS D6, D8, D10-D16).

Where the specification is open or asymmetric, these rules hold:

- Gates are judged in order up to the first that blocks; later ones are skipped. A gate that is switched off never judges.
- A gate with a missing input blocks, or passes if its ``on_missing`` says so. The volatility and the whale gate cannot miss their inputs.
  Without ATR and large-trade quantile the strategy is not warm (D11). No whale trades in 15 minutes is an observation, "nothing adverse",
  with the value None.
- A fast CVD of exactly zero (or undefined) has no direction, even with the resonance gate off. S1 called zero SHORT, so a mirrored market
  did not give the mirrored result. Such an evaluation is blocked by ``no_direction``.
- There is no signal without a risk distance. An ATR or price of zero blocks with ``no_risk_distance`` (S1 3.4, 8.2), even with the
  volatility gate off.
- This model has no tier "light": below entry_score there is no tier.
- Missing inputs of layers get the neutral points and are listed. An undefined acceleration or order-book imbalance earns no bonus.
- The fast variant's ``accel_independent`` rule is left out: no configuration of V5.4 could switch it on (S1 3.9). ``v53_fast`` has it.
"""

from __future__ import annotations

from stream_apps.core.signals.scoring.model import Layer, Model
from stream_apps.core.signals.scoring.models.shared import (
    ACCEL_BONUS,
    COINBASE_PREMIUM,
    CVD_RESONANCE,
    FACTORY_TIERS,
    FIVE_GATES,
    LONG_SHORT_RATIO,
    OBI_BONUS,
    OPEN_INTEREST,
    OPEN_INTEREST_FAST,
    P99_FLOW,
    TOP_TRADERS,
)
from stream_apps.core.signals.scoring.points import Part

# Direction and crowding share the direction and momentum weights, 55 to 25 (S1 3.10).
_SHARED = ("weight_direction", "weight_momentum")


def _model(environment: tuple[Part, ...], variants: dict[str, Model]) -> Model:
    return Model(
        name="v54_factory",
        title="V5.4 strategy factory" if variants else "V5.4 strategy factory, fast variant",
        source="S1 3",
        layers=(
            Layer("direction", (CVD_RESONANCE, P99_FLOW, ACCEL_BONUS), 55.0, weights=_SHARED, share=(55.0, 80.0)),
            Layer("crowding", (LONG_SHORT_RATIO, TOP_TRADERS), 25.0, weights=_SHARED, share=(25.0, 80.0)),
            Layer("environment", environment, 15.0, weights=("weight_env",)),
            Layer("auxiliary", (COINBASE_PREMIUM,), 5.0, weights=("weight_aux",)),
        ),
        gates=FIVE_GATES,
        tiers=FACTORY_TIERS,
        variants=variants,
    )


V54 = _model((OPEN_INTEREST,), {"fast_variant": _model((OPEN_INTEREST_FAST, OBI_BONUS), {})})
