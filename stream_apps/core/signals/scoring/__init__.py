"""Scoring: a snapshot and a configuration become a score with its factors, and perhaps a signal.

A model is data (``v50`` to ``v54``: layers of points, gates, tiers), tried by shared code: ``view`` (inputs), ``points``, ``reading`` (layers and
gates), ``decision``. ``batch`` does the same for all strategies of a partition at once, with the compiled ``kernel``, which is what the engine uses;
``tables`` prints a model's data for people. ``registry`` names the models.

``evaluate`` is a pure function of a snapshot, a validated configuration and the strategy's memory. It is not called for paused or
deprecated strategies: whether a strategy runs is the engine's business.
"""

from stream_apps.core.signals.scoring.decision import Evaluation, StrategyMemory, evaluate
from stream_apps.core.signals.scoring.reading import REGIME_LIMITS, RegimeLimits
from stream_apps.core.signals.scoring.registry import MODELS

__all__ = ["MODELS", "REGIME_LIMITS", "Evaluation", "RegimeLimits", "StrategyMemory", "evaluate"]
