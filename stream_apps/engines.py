"""The engines by name. Worker and replay run any of them.

The environment variable ``PERPFLOW_ENGINES`` names functions that register engines of other packages: ``module:function``, several
separated by commas. The command line calls these functions before anything else. Each calls ``register``, and
``schemas.catalogue.register`` for the topics that its engine writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from schemas.codec.avro import Codec
from schemas.settings import Settings
from stream_apps.core.log.engine import PartitionEngine

VARIABLE = "PERPFLOW_ENGINES"


@dataclass(frozen=True)
class EngineSpec:
    """How to run an engine.

    Attributes:
        kind: Returns the class, which is imported only when the engine runs.
        config: Returns the engine's numbers from the environment's settings. Raises ValueError naming the setting at fault.
        results: Topics with a run's results. Replay compares them with the records of the services.
        compile: Compiles the engine's kernels. A worker calls it before it joins its group.
        number: Returns a number of the configuration by the name of its setting. For a setting of instruments it needs the base asset.
        paper: Whether the paper model trades the engine's decisions in a replay.
    """

    kind: Callable[[], type[PartitionEngine]]
    config: Callable[[Settings], Any]
    results: tuple[str, ...]
    compile: Callable[[Codec], None] = lambda codec: None
    number: Callable[[Any, str, str | None], float | None] = lambda config, name, asset: getattr(config, name)
    paper: bool = False


def _signals() -> type[PartitionEngine]:
    from stream_apps.core.signals.engine import SignalsEngine

    return SignalsEngine


def _signals_config(settings: Settings) -> Any:
    from stream_apps.core.market.config import EngineConfig
    from stream_apps.core.signals.settings import from_environment

    return from_environment(EngineConfig.from_settings(settings), settings.engine_settings)


def _signals_compile(codec: Codec) -> None:
    from stream_apps.core.paper.warmup import compile_kernels

    compile_kernels(codec)


def _signals_number(config: Any, name: str, asset: str | None) -> float | None:
    from stream_apps.core.signals.settings import value_of

    return value_of(config, name, asset)


SIGNALS = EngineSpec(
    _signals, _signals_config, ("features", "scores", "signals", "labels", "trades_closed"), _signals_compile, _signals_number, paper=True
)
ENGINES: dict[str, EngineSpec] = {"signals": SIGNALS}


def register(name: str, spec: EngineSpec) -> None:
    """Register an engine under a name. A second registration of the same name replaces the first."""
    ENGINES[name] = spec


def engine_of(name: str) -> EngineSpec:
    """Return an engine by its name. Raises ValueError if there is none; the message lists the engines."""
    if name not in ENGINES:
        load_plugins()  # a pool's process did not pass the command line
    if name not in ENGINES:
        raise ValueError(f"no engine {name!r}; there are: {', '.join(ENGINES)} ({VARIABLE} can add others)")
    return ENGINES[name]


def load_plugins() -> None:
    """Call the functions that ``PERPFLOW_ENGINES`` names.

    Raises:
        ValueError: an entry is not ``module:function``, or there is no such function; the message names the entry.
    """
    for entry in filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))):
        module, separator, function = entry.partition(":")
        try:
            found = getattr(import_module(module), function) if separator else None
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{VARIABLE}: {entry}: {error}") from error
        if not callable(found):
            raise ValueError(f"{VARIABLE}: expected module:function, got {entry!r}")
        found()
