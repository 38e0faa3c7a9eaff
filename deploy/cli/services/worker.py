"""``perpflow worker``: compute features, scores and signals from market data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import settings as surroundings
from schemas.errors import UserError
from schemas.process.memory import collect_garbage_rarely, return_large_buffers
from stream_apps.agents.runner import BACKLOG, Limits
from stream_apps.agents.worker import SESSION_TIMEOUT_S, WorkerError, run
from stream_apps.engines import engine_of


def default_app_id(engine: str) -> str:
    """Return the default consumer group of an engine's workers."""
    return "perpflow-worker" if engine == "signals" else f"perpflow-worker-{engine}"


def worker(
    engine: Annotated[str, typer.Option(help="Engine to run. Each engine has its own consumer group and changelog topic.")] = "signals",
    app_id: Annotated[
        str | None,
        typer.Option(
            help="Consumer group and name of the changelog topic. Workers of one group share the partitions. Default: perpflow-worker, "
            "or perpflow-worker-ENGINE for an engine other than signals."
        ),
    ] = None,
    datadir: Annotated[Path | None, typer.Option(help="Faust's data directory. It holds no state. Default: a temporary folder.")] = None,
    checkpoint_interval: Annotated[float, typer.Option(min=0.05, help="Seconds between checkpoints of a partition.")] = 1.0,
    backlog: Annotated[
        int, typer.Option(min=1000, help="Pause a partition when this many of its records wait for their progress mark.")
    ] = BACKLOG,
    session_timeout: Annotated[
        float, typer.Option(min=6, help="Seconds without a heartbeat until other workers take over the partitions.")
    ] = SESSION_TIMEOUT_S,
    instance_id: Annotated[
        str | None,
        typer.Option(
            help="Fixed name of this worker, unique in the group. Restarted under the same name, it gets its partitions back at once. "
            "A stopped worker keeps its partitions until the session timeout.",
        ),
    ] = None,
) -> None:
    """Run an engine over the market-data topics until SIGTERM or Ctrl-C. `signals` writes features, bars, scores and signals.

    The state is in a changelog topic, so a worker can be killed at any moment. Exit code 0: clean stop; 1: a failure, restart it.
    KAFKA_BOOTSTRAP_SERVERS is the address of Kafka (`perpflow stack env` prints it). PERPFLOW_HTTP_PORT serves /health and /metrics.

    Examples:

        perpflow worker

        perpflow worker --app-id research --checkpoint-interval 5

        PERPFLOW_ENGINES=my_engine:register perpflow worker --engine my-engine
    """
    settings = surroundings()
    try:
        spec = engine_of(engine)
        config = spec.config(settings)
    except ValueError as error:
        raise UserError(f"worker: {error}") from error
    spec.compile(settings.codec)  # compile before joining the group: compiling would delay heartbeats
    collect_garbage_rarely()
    return_large_buffers()
    limits = Limits(checkpoint_s=checkpoint_interval, backlog_high=backlog)
    try:
        code = run(
            settings,
            app_id or default_app_id(engine),
            spec.kind(),
            config,
            datadir=datadir,
            limits=limits,
            session_timeout_s=session_timeout,
            instance_id=instance_id,
        )
    except WorkerError as error:
        raise UserError(str(error)) from error
    raise typer.Exit(code)
