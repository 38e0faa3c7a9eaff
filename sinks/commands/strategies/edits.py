"""What a person may change of a strategy, for the command line and the console alike. Each function returns the configuration to publish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from schemas.errors import UserError
from schemas.partition import base_of_instrument
from sinks.commands.strategies.log import StrategyLog
from stream_apps.core.signals.strategy import StrategyConfig
from stream_apps.core.signals.strategy_grid import recommended_gates
from stream_apps.core.signals.strategy_rules import strategy_from_record

# Fields that have their own command or cannot change, and what to do instead.
NOT_BY_EDIT: Mapping[str, str] = {
    "status": "use pause, resume, deprecate or restore",
    "initial_balance": "use add-balance",
    "added_balance": "use add-balance",
    "strategy_id": "make a new strategy",
    "instrument": "make a new strategy",
    **dict.fromkeys(("revision", "event_time", "receive_time", "effective_time", "edited_by", "note"), "is set by the command"),
}


@dataclass(frozen=True)
class StatusChange:
    """A change of status.

    Attributes:
        to: Status before -> status after.
        refused: Status before -> why the change is not possible.
    """

    to: Mapping[str, str]
    refused: Mapping[str, str]


STATUS_CHANGES: Mapping[str, StatusChange] = {
    "pause": StatusChange({"running": "paused"}, {"deprecated": "is deprecated"}),
    "resume": StatusChange({"paused": "running"}, {"deprecated": "is deprecated; use restore"}),
    "deprecate": StatusChange({"running": "deprecated", "paused": "deprecated"}, {}),
    "restore": StatusChange({"deprecated": "running"}, {"running": "is not deprecated", "paused": "is not deprecated"}),
}


def known(log: StrategyLog, strategy_id: str) -> StrategyConfig:
    """Return the newest revision of a strategy. Raises UserError for an unknown id."""
    newest = log.newest
    if strategy_id not in newest:
        raise UserError(f"no strategy {strategy_id!r} (known: {', '.join(sorted(newest)) or 'none'})")
    return newest[strategy_id]


def new(strategy_id: str, instrument: str, model: str, given: Mapping[str, Any]) -> StrategyConfig:
    """Return a new strategy. Fields that are not given take the model's defaults, gates the values recommended for the asset.

    Raises:
        StrategyError: a field breaks a rule (D17).
        UserError: the instrument id is invalid.
    """
    record: dict[str, Any] = {"strategy_id": strategy_id, "instrument": instrument, "display_name": strategy_id, "model": model}
    try:
        record |= recommended_gates(base_of_instrument(instrument))
    except ValueError as error:
        raise UserError(f"instrument: {error}") from error
    return strategy_from_record({**record, **given})


def edited(config: StrategyConfig, given: Mapping[str, Any]) -> StrategyConfig:
    """Return ``config`` with changed fields. Raises StrategyError for a broken rule, UserError if nothing is given."""
    if not given:
        raise UserError("nothing to change; add FIELD=VALUE")
    return strategy_from_record({**config.to_record(), **given})


def with_status(config: StrategyConfig, change: str) -> StrategyConfig:
    """Return ``config`` after one of STATUS_CHANGES; unchanged if it already has that status. Raises UserError if that is not possible."""
    rule = STATUS_CHANGES[change]
    if reason := rule.refused.get(config.status):
        raise UserError(f"status: {config.strategy_id} {reason}; cannot {change}")
    return replace(config, status=rule.to.get(config.status, config.status))


def with_added_balance(config: StrategyConfig, amount: float) -> StrategyConfig:
    """Return ``config`` with ``amount`` (quote units) added to its balance. Its config_hash does not change."""
    return replace(config, added_balance=round(config.added_balance + amount, 2))
