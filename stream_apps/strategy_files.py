"""Strategy files: one TOML file a strategy, its keys the fields of the ``strategies`` topic (see ``default_strategies``)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from stream_apps.core.strategy import StrategyConfig, StrategyError, validate

_FOLDER = Path(__file__).parent / "default_strategies"
# The writer of the topic sets these.
_WRITERS_OWN = ("revision", "event_time", "receive_time")


def default_files() -> list[Path]:
    """Return the files of the default set: one strategy for each symbol of the default universe (D1)."""
    return sorted(_FOLDER.glob("*.toml"))


def recorded_files() -> list[Path]:
    """Return the files of the strategies for the recordings that the demo plays."""
    return sorted((_FOLDER / "recorded").glob("*.toml"))


def parse_strategy(text: str, source: str) -> StrategyConfig:
    """Return the valid strategy that a TOML text describes; what it leaves out takes the default of StrategyConfig.

    Args:
        text: TOML.
        source: File name, for the error.

    Raises:
        StrategyError: not TOML, an unknown field, a field of the writer's, or a broken rule; names source and field.
    """
    try:
        record = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StrategyError("(syntax)", f"not TOML: {error}", source) from error
    for name in _WRITERS_OWN:
        if name in record:
            raise StrategyError(name, "is set when the strategy is written, not in a file", source)
    try:
        config = StrategyConfig.from_record(record)
        validate(config)
    except StrategyError as error:
        raise StrategyError(error.field, error.rule, source) from error
    return config


def load_strategy_files(paths: Iterable[Path]) -> list[StrategyConfig]:
    """Return the strategies of some files, in their order; revision 1, not yet stamped with a time.

    Raises:
        StrategyError: as ``parse_strategy``, or two files that describe the same strategy.
        OSError: a file cannot be read.
    """
    found: dict[str, str] = {}
    configs = []
    for path in paths:
        config = parse_strategy(path.read_text(encoding="utf-8"), str(path))
        if config.strategy_id in found:
            raise StrategyError("strategy_id", f"{config.strategy_id!r} is also in {found[config.strategy_id]}", str(path))
        found[config.strategy_id] = str(path)
        configs.append(replace(config, revision=1, event_time=0, receive_time=0))
    return configs
