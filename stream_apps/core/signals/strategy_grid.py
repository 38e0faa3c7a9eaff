"""The numbers that the specification recommends by asset, and the bootstrap grid made of them (S1 3.5, 7.6)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.core.signals.strategy_rules import validate

# S1 3.5. Other assets use the factory's defaults.
GATES: dict[str, dict[str, float]] = {
    "BTC": {"vol_atr_pct_min": 0.002, "whale_usd_threshold": 100_000.0, "obi_threshold": 0.30, "spot_perp_threshold": 0.003},
    "ETH": {"vol_atr_pct_min": 0.003, "whale_usd_threshold": 50_000.0, "obi_threshold": 0.35, "spot_perp_threshold": 0.005},
    "SOL": {"vol_atr_pct_min": 0.004, "whale_usd_threshold": 20_000.0, "obi_threshold": 0.45, "spot_perp_threshold": 0.008},
    "XRP": {"vol_atr_pct_min": 0.0025, "whale_usd_threshold": 30_000.0, "obi_threshold": 0.40, "spot_perp_threshold": 0.006},
}
# S1 7.6: direction, environment, auxiliary, momentum; entry score; whether the best trial was one of the fast variant.
_TRIALS: dict[str, tuple[tuple[int, int, int, int], float, bool]] = {
    "BTC": ((38, 32, 28, 2), 71.0, False),  # the running control set (S2 8.6)
    "ETH": ((51, 18, 28, 3), 75.0, False),
    "XRP": ((58, 8, 32, 2), 80.0, False),
    "SOL": ((38, 42, 8, 12), 65.0, True),
}
_WINDOWS = (("5m", "30m"), ("5m", "1h"), ("15m", "1h"), ("15m", "4h"), ("30m", "1h"), ("30m", "4h"))
# In R, with a stop at 2 ATR.
_TARGETS = (("conservative", 0.75, 1.5), ("balanced", 1.0, 2.0), ("aggressive", 1.5, 2.5))
_STOP_ATR = 2.0
ASSETS = tuple(_TRIALS)
# The original had BTC's 18 already; the other three make the 54.
BOOTSTRAPPED = ("ETH", "XRP", "SOL")


def recommended_gates(asset: str) -> dict[str, Any]:
    """Return the recommended gate settings for an asset. Empty for an asset that the specification does not name."""
    return dict(GATES.get(asset, {}))


def grid(assets: Iterable[str] = BOOTSTRAPPED, venue: str = "BINANCE", quote: str = "USDT") -> list[StrategyConfig]:
    """Return the grid: per asset six pairs of windows by three profiles of targets, named ``COIN_CVD{fast minutes}x{slow}_TP{profile}``.

    Args:
        assets: Assets, of ``ASSETS``.
        venue, quote: Venue and quote asset of their perpetuals.

    Raises:
        KeyError: an asset without recommended numbers.
        StrategyError: an invalid instrument.
    """
    strategies = []
    for asset in assets:
        (direction, environment, auxiliary, momentum), entry, fast = _TRIALS[asset]
        for fast_window, slow_window in _WINDOWS:
            for profile, first, second in _TARGETS:
                name = f"{asset}_CVD{fast_window.removesuffix('m')}x{slow_window}_TP{profile}"
                config = StrategyConfig(
                    strategy_id=name,
                    instrument=f"{venue}:{asset}{quote}-PERP",
                    display_name=name,
                    cvd_fast_window=fast_window,
                    cvd_slow_window=slow_window,
                    weight_direction=direction,
                    weight_env=environment,
                    weight_aux=auxiliary,
                    weight_momentum=momentum,
                    entry_score=entry,
                    flip_threshold=80.0,
                    fast_variant=fast,
                    sl_atr_multiplier=_STOP_ATR,
                    tp1_ratio=first,
                    tp2_ratio=second,
                    timeout_minutes=240,
                    tags=("bootstrap",),
                    **recommended_gates(asset),
                )
                validate(config)
                strategies.append(config)
    return strategies
