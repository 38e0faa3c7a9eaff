"""Scoring: a snapshot and a configuration give a score with its factors, and perhaps a signal.

A model is data (``models``: layers of points, gates, tiers). Shared code evaluates it: ``view`` (inputs), ``points``, ``reading`` (layers
and gates), ``decision``. The engine uses ``batch``, which evaluates all strategies of a partition at once with the compiled ``kernel``.
``tables`` prints a model for people. ``registry`` names the models.

``evaluate`` is a pure function of a snapshot, a validated configuration and the strategy's memory. The engine does not call it for paused
or deprecated strategies.
"""

from stream_apps.core.signals.scoring.decision import Evaluation, StrategyMemory, evaluate
from stream_apps.core.signals.scoring.reading import REGIME_LIMITS, RegimeLimits
from stream_apps.core.signals.scoring.registry import MODELS

__all__ = ["MODELS", "REGIME_LIMITS", "Evaluation", "RegimeLimits", "StrategyMemory", "evaluate"]
