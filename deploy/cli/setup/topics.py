"""``perpflow topics``: create, list and read the topics."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from deploy.cli import settings
from schemas import catalogue

app = typer.Typer(no_args_is_help=True, help="Create, list, read and document the topics; show consumer lag.")


class Start(StrEnum):
    """Where reading starts."""

    beginning = "beginning"
    end = "end"


def _complete_topic(incomplete: str) -> list[str]:
    return [name for name in catalogue.TOPICS if name.startswith(incomplete)]


JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog="Example: perpflow topics create")
def create() -> None:
    """Create the missing topics of the catalogue. Safe to repeat. A topic with a different partition count is an error."""
    from deploy.stack.topics import create_topics

    created = create_topics(settings())
    for name in created:
        typer.echo(f"created {name}")
    typer.echo(f"{len(created)} created, {len(catalogue.TOPICS) - len(created)} already exist")


@app.command("list", epilog="Example: perpflow topics list")
def list_topics(as_json: JsonFlag = False) -> None:
    """List the topics on the cluster with their partitions and retained records."""
    from confluent_kafka import TopicPartition

    from deploy.stack.topics.lags import record_counts
    from schemas.cluster import admin, partition_counts

    chosen = settings()
    client = admin(chosen)
    counts = partition_counts(client, chosen)
    names = {name: chosen.topic(name) for name in catalogue.TOPICS}
    places = [TopicPartition(wire, number) for wire in names.values() for number in range(counts.get(wire, 0))]
    records = record_counts(client, places)
    rows = []
    for name, wire in names.items():
        held = sum(records[wire, number] for number in range(counts[wire])) if wire in counts else None
        rows.append({"topic": name, "wire_name": wire, "partitions": counts.get(wire), "records": held})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    typer.echo(f"{'topic':<34} {'partitions':>10} {'records':>14}")
    for row in rows:
        shown = "missing" if row["records"] is None else f"{row['records']:,}"
        typer.echo(f"{row['wire_name']:<34} {row['partitions'] or '-':>10} {shown:>14}")


@app.command(epilog="Example: perpflow topics tail agg_trades --from beginning --count 5")
def tail(
    topic: Annotated[str, typer.Argument(help="Topic of the catalogue, without the prefix.", autocompletion=_complete_topic)],
    partition: Annotated[int | None, typer.Option("--partition", "-p", help="Only this partition.")] = None,
    start: Annotated[Start, typer.Option("--from", help="beginning: the oldest retained record. end: only new records.")] = Start.end,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Stop after this many records.")] = None,
    exit_at_end: Annotated[
        bool, typer.Option("--exit", "-e", help="Stop at the current end of the topic instead of waiting for new records.")
    ] = False,
) -> None:
    """Print records as JSON lines: key, partition, offset, timestamp (ms UTC) and the decoded value. Ctrl-C stops it."""
    from deploy.stack.topics.reader import read

    records = read(settings(), topic, partition, beginning=start is Start.beginning, follow=not exit_at_end)
    try:
        for number, record in enumerate(records, 1):
            typer.echo(record.as_json())
            if number == count:
                break
    except KeyboardInterrupt:
        pass
    finally:
        records.close()  # type: ignore[attr-defined]  # a generator: closes its consumer now, not at some collection


@app.command(epilog="Example: perpflow topics lag")
def lag(as_json: JsonFlag = False) -> None:
    """Show the lag of every consumer group, and of every sink by its offsets in the database."""
    from deploy.stack.topics.lags import lags

    found = lags(settings())
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=1))
        return
    if not found:
        typer.echo("no consumer group or sink has read anything yet")
        return
    typer.echo(f"{'reader':<30} {'topic':<30} {'partitions':>10} {'lag':>12}")
    for one in found:
        typer.echo(f"{one.reader:<30} {one.topic:<30} {one.partitions:>10} {one.lag:>12,}")


@app.command(epilog="Example: perpflow topics doc agg_trades > agg_trades.md")
def doc(
    topics: Annotated[list[str] | None, typer.Argument(help="Topics. Default: all.", autocompletion=_complete_topic)] = None,
) -> None:
    """Print the catalogue as Markdown: topics, keys, partitions, retention, and every field with its meaning."""
    from schemas.errors import UserError

    unknown = [name for name in topics or [] if name not in catalogue.TOPICS]
    if unknown:
        raise UserError(f"not in the catalogue: {', '.join(unknown)} (it has {', '.join(catalogue.TOPICS)})")
    typer.echo(catalogue.markdown(topics), nl=False)
