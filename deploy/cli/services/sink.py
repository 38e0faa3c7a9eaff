"""``perpflow sink``: write topics to the database."""

from __future__ import annotations

from typing import Annotated

import typer

from schemas import catalogue
from schemas.errors import UserError
from schemas.process.service import Service, configure_logging
from schemas.settings import Settings
from sinks.timescale.sink import Options, Sink


def sink(
    topics: Annotated[str, typer.Option(help="Topics, separated by commas. Default: all topics of the catalogue.")] = "",
    batch_rows: Annotated[int, typer.Option(min=1, help="Write a batch when it has this many rows.")] = 20_000,
    batch_seconds: Annotated[float, typer.Option(min=0.0, help="Write a batch at least this often, seconds.")] = 1.0,
    until_idle: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="Stop when every assigned partition has had no new record for this long."),
    ] = None,
    session_timeout: Annotated[
        float, typer.Option(min=6.0, help="Seconds without a heartbeat until other sinks take over the partitions.")
    ] = 10.0,
    instance: Annotated[
        str | None, typer.Option(help="Fixed name of this sink. Restarted under the same name, it gets its partitions back at once.")
    ] = None,
) -> None:
    """Write topics to the database until stopped. Each record is written exactly once, also after a crash or restart.

    Create the tables first (perpflow db migrate). Offsets are stored in the database with the rows. Several sinks share the partitions.
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
