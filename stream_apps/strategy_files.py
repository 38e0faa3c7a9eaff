"""Strategy files: one TOML file a strategy, its keys the fields of the ``strategies`` topic (see ``default_strategies``).

A file may name the ``revision`` from which it was exported. Then it is an edit of that revision, and is refused if a newer one exists.
Without it the file replaces the present revision.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stream_apps.core.signals.strategy import BOOKKEEPING, StrategyConfig, StrategyError
from stream_apps.core.signals.strategy_rules import strategy_from_record, validate

_FOLDER = Path(__file__).parent / "default_strategies"
# The writer of the topic sets these.
_WRITERS_OWN = tuple(name for name in BOOKKEEPING if name != "revision")


def default_files() -> list[Path]:
    """Return the files of the default set: one strategy for each symbol of the default universe (D1)."""
    return sorted(_FOLDER.glob("*.toml"))


def recorded_files() -> list[Path]:
    """Return the files of the strategies for the demo's recordings."""
    return sorted((_FOLDER / "recorded").glob("*.toml"))


def generated_files() -> list[Path]:
    """Return the files of the strategies for the demo's made-up market."""
    return sorted((_FOLDER / "generated").glob("*.toml"))


def parse_strategy(text: str, source: str) -> StrategyConfig:
    """Return the valid strategy that a TOML text describes. Omitted fields get the defaults of its model; the revision is 1.

    Args:
        text: TOML.
        source: File name, for the error.

    Raises:
        StrategyError: not TOML, an unknown field, a field that only the writer sets, or a broken rule. It names source and field.
    """
    return _parse(text, source)[0]


def _parse(text: str, source: str) -> tuple[StrategyConfig, bool]:
    """Return the strategy and whether the text names a revision."""
    try:
        record = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StrategyError("(syntax)", f"not TOML: {error}", source) from error
    for name in _WRITERS_OWN:
        if name in record:
            raise StrategyError(name, "is set when the strategy is written, not in a file", source)
    try:
        config = strategy_from_record(record)
        validate(config)
    except StrategyError as error:
        raise StrategyError(error.field, error.rule, source) from error
    return config, "revision" in record


def strategy_text(config: StrategyConfig) -> str:
    """Return a revision as TOML with every field, which ``parse_strategy`` reads."""
    lines = [f"{name} = {_toml(value)}" for name, value in config.to_record().items() if name not in _WRITERS_OWN and value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")  # JSON's escapes are TOML's, except for DEL
    if isinstance(value, list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return repr(value)


def load_strategy_files(paths: Iterable[Path]) -> list[StrategyConfig]:
    """Return the strategies of some files, in their order. They have no time yet.

    Raises:
        StrategyError: as ``parse_strategy``, or two files that describe the same strategy.
        OSError: a file cannot be read.
    """
    return load_strategy_edits(paths)[0]


def load_strategy_edits(paths: Iterable[Path]) -> tuple[list[StrategyConfig], dict[str, int]]:
    """Like ``load_strategy_files``. Also return strategy id -> the revision from which its file was made, if the file names one."""
    found: dict[str, str] = {}
    configs, named = [], {}
    for path in paths:
        config, names_revision = _parse(path.read_text(encoding="utf-8"), str(path))
        if config.strategy_id in found:
            raise StrategyError("strategy_id", f"{config.strategy_id!r} is also in {found[config.strategy_id]}", str(path))
        found[config.strategy_id] = str(path)
        configs.append(config)
        if names_revision:
            named[config.strategy_id] = config.revision
    return configs, named
