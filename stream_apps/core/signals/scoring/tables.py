"""A model's data as Markdown. The scorer reads the same data."""

from __future__ import annotations

from stream_apps.core.signals.scoring.model import Gate, Layer, Model, Tier

_ANY = "both"


def markdown(model: Model) -> str:
    """Return a model's inputs, points, gates and thresholds, with their sections of the specification."""
    lines = [f"## {model.name}: {model.title}", "", f"Source: {model.source}.", ""]
    lines += _inputs(model)
    lines += ["### Layers", "", "| layer | part | side | when | points | source |", "|---|---|---|---|---|---|"]
    for layer in model.layers:
        lines += _layer(layer)
    lines += ["", "| layer | most raw points | most points after weighting |", "|---|---|---|"]
    lines += [f"| {layer.name} | {layer.raw_max:g} | {_most(layer)} |" for layer in model.layers]
    lines += ["", "The score is the sum of raw / most raw x most of each layer, at most 100, to one decimal; 0 when a gate blocks.", ""]
    lines += [
        "### Gates",
        "",
        "| gate | inputs | blocks when | limit | when an input is missing | switched by | source |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_gate(gate) for gate in model.gates]
    lines += [
        "",
        "Judged in this order up to the first that blocks. Any model: no direction and no risk distance (ATR or price of zero) block.",
        "",
    ]
    lines += ["### Thresholds", "", "| what | from |", "|---|---|"]
    lines += ["| entry | entry_score |", "| flip | flip_threshold |"]
    lines += [f"| tier {tier.name} (risk x tier_{tier.name}) | {_tier(tier)} |" for tier in model.tiers]
    lines.append("| cooldown | cooldown_minutes after an entry |")
    if model.flip_closes_only:
        lines.append("| cooldown | cooldown_minutes after an opposite signal closed; it does not enter |")
    if model.trail_ratio:
        lines.append(f"| trailing stop from tp2_ratio on | {model.trail_ratio:g} R behind the best price |")
    if model.side_capital:
        lines.append(f"| most capital in positions of one side | {model.side_capital:.0%}, {model.capital_share:.0%} for risk multiple 1 |")
    if model.two_an_hour:
        lines.append("| most entries | 2 within an hour |")
    if model.fixed or model.defaults or model.ranges:
        lines += ["", "### Configuration", "", "| field | value | |", "|---|---|---|"]
        lines += [f"| {name} | {value} | always |" for name, value in model.fixed.items()]
        lines += [f"| {name} | {value:g} | unless given |" for name, value in model.defaults.items()]
        lines += [f"| {name} | {least:g} to {most:g} | allowed |" for name, (least, most) in model.ranges.items()]
    lines += ["", *(f"- {note}" for note in model.notes)] if model.notes else []
    for name, variant in model.variants.items():
        if more := [gate for gate in variant.gates if gate not in model.gates]:
            lines += [
                "",
                f"### With {name}",
                "",
                "| gate | inputs | blocks when | limit | missing | switch | source |",
                "|---|---|---|---|---|---|---|",
            ]
            lines += map(_gate, more)
        if [layer.all_parts for layer in variant.layers] == [layer.all_parts for layer in model.layers]:
            continue
        lines += ["", f"### With {name} = true", "", "| layer | part | side | when | points | source |", "|---|---|---|---|---|---|"]
        for layer, plain in zip(variant.layers, model.layers, strict=True):
            if layer.all_parts != plain.all_parts:
                lines += _layer(layer)
    return "\n".join(lines) + "\n"


def summary(models: list[Model]) -> list[tuple[str, str, str, str, str]]:
    """Return name, title, layers with their maximum, gates and source of each model."""
    return [
        (
            model.name,
            model.title,
            ", ".join(f"{layer.name} {_most(layer)}" for layer in model.layers),
            ", ".join(gate.name for gate in model.gates),
            model.source,
        )
        for model in models
    ]


def _inputs(model: Model) -> list[str]:
    readers: dict[str, list[str]] = {name: [] for name in model.inputs}
    for part in model.parts:
        for name in part.inputs:
            readers[name].append(part.name)
    for gate in model.gates:
        for name in gate.inputs:
            readers[name].append(f"gate {gate.name}")
    if model.stretch:
        for name in ("volume_1m", "volume_24h"):
            readers[name].append("length of the fast window")
    rows = [f"| {name} | {', '.join(dict.fromkeys(used)) or 'warm-up'} |" for name, used in readers.items()]
    return ["### Inputs", "", "| input | read by |", "|---|---|", *rows, ""]


def _layer(layer: Layer) -> list[str]:
    rows = []
    for part in layer.all_parts:
        name = f"{part.name} (at least)" if part is layer.floor else part.name
        for side, when, points in part.table():
            rows.append(f"| {layer.name} | {name} | {_ANY if side == 'any' else side} | {_cell(when)} | {points:g} | {part.source} |")
    return rows


def _most(layer: Layer) -> str:
    if layer.most is not None:
        return f"{layer.most:g}"
    weights = " + ".join(layer.weights)
    if layer.share == (1.0, 1.0):
        return weights
    return f"({weights}) x {layer.share[0]:g}/{layer.share[1]:g}"


def _gate(gate: Gate) -> str:
    limit = gate.limit if isinstance(gate.limit, str) else f"{gate.limit:g}"
    if gate.limit_elsewhere is not None:
        limit += f" (BTC), {gate.limit_elsewhere:g} (others)"
    missing = gate.on_missing or "blocks"
    effect = gate.blocks
    return f"| {gate.name} | {', '.join(gate.inputs) or 'prints'} | {_cell(effect)} | {limit} | {missing} | {gate.enabled or 'always on'} | {gate.source} |"


def _tier(tier: Tier) -> str:
    text = tier.field + (f" + {tier.plus:g}" if tier.plus else "")
    return text + (f", at least {tier.least:g}" if tier.least else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
