"""``perpflow explain``: show how one decision of a strategy came about."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from deploy.cli import settings
from sinks.queries.scores import ScoreId, find, settings_revision

Record = dict[str, Any]

# Verdict -> its meaning. It uses only the record, so scores of an old release can be read too.
_VERDICTS = {
    "entry": "signal: enter {direction}",
    "entry+flip": "signal: enter {direction}, and close the opposite position",
    "flip": "signal: close the position opposite to {direction}; no entry",
    "below_entry": "no signal: {score:g} is below the entry score {entry_score:g}",
    "cooldown": "no signal: cooldown after the strategy's last entry",
    "hourly_limit": "no signal: the strategy entered twice within one hour",
    "no_entry": "no signal: a gate blocks the entry, and there is no opposite position to close",
    "direction_limit": "no signal: the strategy does not trade {direction}",
    "blocked": "no signal: blocked by {gate_block}",
    "not_warm": "not evaluated: the history is too short (warm-up)",
}


def explain(
    score_id: Annotated[str, typer.Argument(help="Id of a score or signal: instrument|strategy|T in ms.", metavar="SCORE_ID")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Show how a strategy decided at one instant: layer scores, gates with value and limit, inputs, and missing, stale or late data.

    Also shows the revision of the engine's settings that held. Both are read from the topics, or from the database.

    Example: perpflow explain "BINANCE:BTCUSDT-PERP|default-btcusdt|1760000010000"
    """
    environment = settings()
    record, place = find(environment, ScoreId.parse(score_id))
    revision = settings_revision(environment, record)
    if as_json:
        typer.echo(json.dumps({**record, "found_in": place, "settings_revision": revision}, indent=1))
    else:
        typer.echo(render(record, place, revision))


def render(record: Record, place: str, revision: int | None = None) -> str:
    """Return a score as text with tables.

    Args:
        record: Record of the ``scores`` topic.
        place: Where it was found.
        revision: Revision of the engine's settings that the instant used. 0: the worker's defaults. None: unknown.
    """
    at = datetime.fromtimestamp(record["event_time"] / 1000.0, UTC)
    known = datetime.fromtimestamp(record["receive_time"] / 1000.0, UTC)
    lines = [
        f"{record['instrument']} at {at:%Y-%m-%d %H:%M:%S} UTC, decided at {known:%H:%M:%S.%f}"[:-3] + f" (from the {place})",
        f"strategy  {record['strategy_name']} ({record['strategy_id']}), model {record['strategy_version']}, "
        f"revision {record['config_revision']}, configuration {record['config_hash']}",
        f"settings  {_settings(revision)}",
        f"market    {_market(record)}",
        f"verdict   {_verdict(record)}",
        f"score     {_score(record)}",
    ]
    for title, table in (("Layers", _layers(record)), ("Gates", _gates(record)), ("Inputs", _inputs(record))):
        if table:
            lines += ["", title, *table]
    lines += ["", f"Missing or stale inputs: {_absent(record)}", f"Late trades of the instrument so far: {record['late_trades']:,}"]
    return "\n".join(lines)


def _settings(revision: int | None) -> str:
    if revision is None:
        return "not known: neither topic nor database has the worker's step"
    return f"revision {revision} of the engine's settings" if revision else "the worker's defaults (no revision of the engine's settings)"


def _market(record: Record) -> str:
    atr, price = record["atr"], record["price"]
    if atr is None:
        volatility = "ATR not known"
    else:
        volatility = f"ATR {atr:.6g}" + (f" ({atr / price:.3%} of it)" if price > 0.0 else "")
    return f"price {price:.10g}, {volatility}, regime {record['regime']}, score direction {record['lean']}"


def _verdict(record: Record) -> str:
    pattern = _VERDICTS.get(record["verdict"])
    if pattern is None:  # an older release did not write a verdict
        return "signal" if record["signalled"] else f"no signal{': ' + record['gate_block'] if record['gate_block'] else ''}"
    shown = {**record, "direction": record["direction"] if record["direction"] != "NONE" else record["lean"]}
    text = pattern.format(**shown)
    if record["cooldown"] and record["verdict"] == "flip":
        text += " (cooldown)"
    return text + (f", tier {record['tier']}" if record["tier"] else "")


def _score(record: Record) -> str:
    text = f"{record['score']:g} of 100"
    if record["ungated_score"] != record["score"]:
        text += f"; the layers alone give {record['ungated_score']:g}"
    if record["entry_score"] is not None:
        text += f"; enters from {record['entry_score']:g}, flips from {record['flip_threshold']:g}"
    return text


def _layers(record: Record) -> list[str]:
    lines = [f"  {'':32}{'points':>8}{'max':>8}{'raw':>8}{'max':>8}"] if record["layers"] else []
    for layer in record["layers"]:
        lines.append(f"  {layer['name']:32}{layer['score']:8.2f}{layer['max']:8.2f}{layer['raw']:8.2f}{layer['raw_max']:8.2f}")
        lines += [f"    {name:46}{points:8.2f}" for name, points in layer["parts"].items()]
    return lines


def _gates(record: Record) -> list[str]:
    lines = []
    for gate in record["gates"]:
        if not gate["enabled"]:
            said = "off"
        elif gate["skipped"]:
            said = "not evaluated: an earlier gate blocked"
        else:
            value = "no value" if gate["value"] is None else f"{gate['value']:.6g}"
            limit = "" if gate["limit"] is None else f", limit {gate['limit']:.6g}"
            said = f"{'passed ' if gate['passed'] else 'BLOCKED'}  {value}{limit}{'' if gate['passed'] else ': ' + gate['reason']}"
        lines.append(f"  {gate['name']:20}{said}")
    return lines


def _inputs(record: Record) -> list[str]:
    return [f"  {name:28}{value:.10g}" for name, value in record["inputs"].items()]


def _absent(record: Record) -> str:
    stale = set(record["stale_inputs"])
    names = [f"{name} ({'stale' if name in stale else 'missing'})" for name in record["missing_inputs"]]
    return ", ".join(names) or "none"
