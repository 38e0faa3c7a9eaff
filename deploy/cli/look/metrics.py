"""``perpflow metrics``: list the Prometheus metrics of all processes."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from schemas import metrics as catalogue


class Form(StrEnum):
    """Output format."""

    text = "text"
    markdown = "markdown"
    json = "json"


def metrics(
    word: Annotated[str, typer.Argument(help="Only metrics whose name, process or meaning contains this text.")] = "",
    form: Annotated[Form, typer.Option("--form", "-f", help="Output format: text, markdown or json.")] = Form.text,
) -> None:
    """List every metric: name, type, unit, labels, meaning, and the process that exports it.

    Example: perpflow metrics lag
    """
    found = [one for one in catalogue.catalogue() if word.lower() in f"{one.name} {one.process} {one.meaning}".lower()]
    if form is Form.json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=1))
        return
    if form is Form.markdown:
        typer.echo(catalogue.markdown(found))
        return
    for one in found:
        labels = f"{{{', '.join(one.labels)}}}" if one.labels else ""
        typer.echo(f"{one.name}{labels}\n    {one.kind}, {one.unit}; {one.process}. {one.meaning}")
