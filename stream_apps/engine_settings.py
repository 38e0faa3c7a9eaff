"""An engine's settings for people: the numbers that hold and their origins, the table of all settings, files of revisions.

A settings file is TOML. Replay of files uses it in place of the log:

    [[revision]]
    stale_book_ms = 3000

    [[revision]]
    from = 2026-11-02T00:00:00Z
    whale_usd = 250000
    instruments."BINANCE:BTCUSDT-PERP".p99_floor = 12

A later revision keeps what an earlier one set. ``from`` is the first instant that uses a revision; the first one needs none.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.partition import base_of_instrument
from schemas.settings import Settings
from stream_apps.core.log.engine_settings import Setting, SettingsError, SettingsInForce, SettingsLog, SettingsRevision
from stream_apps.engines import engine_of

_OTHERS = "PERPFLOW_ENGINE_SETTINGS"


@dataclass(frozen=True)
class Number:
    """One number that holds.

    Attributes:
        name, unit, fixed: Of its setting.
        value: The number. None: the state computes it.
        origin: ``log (instrument)``, ``log``, ``environment`` or ``default``.
    """

    name: str
    unit: str
    fixed: str
    value: float | None
    origin: str


def rules_of(settings: Settings, engine: str) -> SettingsLog:
    """Return an empty log of revisions: an engine and the rules of its settings. Raises ValueError if there is no such engine."""
    spec = engine_of(engine)
    return spec.kind()(0, spec.config(settings), settings.codec).settings


def numbers(settings: Settings, engine: str, in_force: SettingsInForce, instrument: str = "") -> list[Number]:
    """Return the numbers that hold for an engine, or for one of its instruments, in the order of its settings.

    Raises:
        ValueError: no such engine, no such instrument, or a variable of the environment that does not fit; the message names it.
    """
    spec = engine_of(engine)
    config, plain = spec.config(settings), spec.config(Settings.model_construct())
    asset = base_of_instrument(instrument) if instrument else None
    found = []
    for setting in spec.kind().SETTINGS:
        if setting.of_instrument and asset is None:
            continue
        value = in_force.instruments.get(instrument, {}).get(setting.name) if setting.of_instrument else in_force.engine.get(setting.name)
        if value is not None:
            found.append(Number(setting.name, setting.unit, setting.fixed, value, "log"))
            continue
        default, shipped = spec.number(config, setting.name, asset), spec.number(plain, setting.name, asset)
        found.append(Number(setting.name, setting.unit, setting.fixed, default, "default" if default == shipped else "environment"))
    return found


def markdown(engine: str) -> str:
    """Return all settings of an engine as a Markdown table. Raises ValueError when there is no such engine."""
    spec = engine_of(engine)
    config = spec.config(Settings.model_construct())
    lines = ["| setting | default | unit | bounds | changes | variable | source | meaning |", "|---|---|---|---|---|---|---|---|"]
    reasons = []
    for setting in spec.kind().SETTINGS:
        changes = "instrument, next instant" if setting.of_instrument else "next instant"
        if setting.fixed:
            changes = "new state only"
            reasons.append(f"- {setting.name}: {setting.fixed}.")
        lines.append(
            f"| {setting.name} | {_default(spec.number, config, setting)} | {setting.unit or '-'} | {setting.least:.15g} to {setting.most:.15g} |"
            f" {changes} | {setting.variable or _OTHERS} | {setting.source} | {setting.meaning} |"
        )
    if reasons:
        lines += ["", "Settings that hold for the life of a state, and why:", "", *reasons]
    return "\n".join(lines) + "\n"


def _default(number: Any, config: Any, setting: Setting) -> str:
    if not setting.of_instrument:
        return f"{number(config, setting.name, None):.15g}"
    named = {asset: number(config, setting.name, asset) for asset in ("BTC", "ETH", "SOL", "XRP")}
    return ", ".join(f"{asset} {value:.15g}" for asset, value in named.items() if value is not None) or "-"


def parse_file(text: str, source: str, engine: str, settings: Settings) -> list[SettingsRevision]:
    """Return the revisions that a settings file describes, oldest first.

    Args:
        text: TOML, as in the module's text.
        source: File name, for the error.
        engine: Name of the engine.
        settings: Of the environment.

    Raises:
        ValueError: names the file, the revision and the setting at fault.
    """
    rules = rules_of(settings, engine)
    try:
        listed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source}: not TOML: {error}") from error
    if set(listed) - {"revision"} or not isinstance(listed.get("revision", []), list):
        raise ValueError(f"{source}: expected tables [[revision]] only, got {', '.join(sorted(listed))}")
    found: list[SettingsRevision] = []
    values: dict[str, float] = {}
    of_instruments: dict[str, dict[str, float]] = {}
    for place, table in enumerate(listed.get("revision", []), 1):
        where = f"{source}: revision {place}"
        since = _time(table.pop("from", None), where)
        if found and since <= found[-1].effective_time:
            raise ValueError(f"{where}: from: must lie after that of the revision before")
        instruments = table.pop("instruments", {})
        values = {**values, **_numbers(table, where)}
        changed = [("", values)] if table or not instruments else []
        for name, given in instruments.items():
            of_instruments[name] = {**of_instruments.get(name, {}), **_numbers(given, where)}
            changed.append((name, of_instruments[name]))
        for instrument, all_values in changed:
            one = SettingsRevision(rules.engine, len(found) + 1, dict(all_values), instrument, effective_time=since)
            try:
                rules.take(one)
            except SettingsError as error:
                raise ValueError(f"{where}: {error}") from error
            found.append(one)
    return found


def load_file(path: Path, engine: str, settings: Settings) -> list[SettingsRevision]:
    """Return the revisions of a settings file. Raises ValueError as ``parse_file``, and when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return parse_file(text, str(path), engine, settings)


def _time(value: Any, where: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, datetime):
        raise ValueError(f"{where}: from: must be a time such as 2026-11-02T00:00:00Z, got {value!r}")
    return round((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)


def _numbers(table: Any, where: str) -> dict[str, float]:
    if not isinstance(table, dict):
        raise ValueError(f"{where}: expected NAME = NUMBER, got {table!r}")
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{where}: {name}: must be a number, got {value!r}")
    return {name: float(value) for name, value in table.items()}
