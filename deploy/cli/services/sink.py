"""``perpflow sink``: topics into the database."""

from __future__ import annotations

from typing import Annotated

import typer

from schemas import catalogue
from schemas.errors import UserError
from schemas.process.service import Service, configure_logging
from schemas.settings import Settings
from sinks.timescale.sink import Options, Sink


def sink(
    topics: Annotated[str, typer.Option(help="Topics, separated by commas; all of the catalogue otherwise.")] = "",
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows from which a batch is written at once.")] = 20_000,
    batch_seconds: Annotated[float, typer.Option(min=0.0, help="Longest time that a record waits for its batch.")] = 1.0,
    until_idle: Annotated[
        float | None, typer.Option(min=0.0, metavar="SECONDS", help="End when every assigned partition has been at its end for so long.")
    ] = None,
    session_timeout: Annotated[float, typer.Option(min=6.0, help="Seconds after which the partitions of a dead sink go to others.")] = 10.0,
    instance: Annotated[
        str | None, typer.Option(help="Name of this one among several sinks: restarted under it, it has its partitions back at once.")
    ] = None,
) -> None:
    """Write topics into the database: each record once, whatever is killed or restarted. Any number of sinks share the work.

    Tables must be there (perpflow db migrate). Offsets live in the database beside the rows.
    """
    chosen = tuple(name.strip() for name in topics.split(",") if name.strip()) or tuple(catalogue.TOPICS)
    unknown = [name for name in chosen if name not in catalogue.TOPICS]
    if unknown:
        raise UserError(f"no topic {', '.join(unknown)}; there are {', '.join(catalogue.TOPICS)}")
    settings = Settings()
    if not settings.database_url:
        raise UserError("DATABASE_URL is not set; `perpflow stack env` prints it for the local stack")
    configure_logging(settings.log_level)
    options = Options(chosen, batch_rows, batch_seconds, until_idle, int(session_timeout * 1000), instance)
    with Service("sink", settings.http_port) as service:
        Sink(settings, options, service).run()


app = typer.Typer()
app.command(epilog="Example: perpflow sink --topics agg_trades,quotes --batch-rows 50000")(sink)
