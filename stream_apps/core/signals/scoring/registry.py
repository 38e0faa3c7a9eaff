"""All scoring models by name. A new model is a file with its data and a line here."""

from __future__ import annotations

from stream_apps.core.signals.scoring.model import Model
from stream_apps.core.signals.scoring.models.v50 import V50
from stream_apps.core.signals.scoring.models.v51 import V51, V52
from stream_apps.core.signals.scoring.models.v53 import V53_FAST, V53_MIDDLE, V53_STANDARD
from stream_apps.core.signals.scoring.models.v54 import V54

MODELS: dict[str, Model] = {model.name: model for model in (V50, V51, V52, V53_STANDARD, V53_MIDDLE, V53_FAST, V54)}
