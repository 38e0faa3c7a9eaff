"""``perpflow worker``: market data to features, scores and signals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import settings as surroundings
from schemas.errors import UserError
from schemas.process.memory import return_large_buffers, spare_collector
from stream_apps.agents.runner import BACKLOG, Limits
from stream_apps.agents.worker import SESSION_TIMEOUT_S, WorkerError, run
from stream_apps.engines import engine_of


def default_app_id(engine: str) -> str:
    """Return the consumer group of an engine's workers: the first engine's has no name in it."""
    return "perpflow-worker" if engine == "signals" else f"perpflow-worker-{engine}"


def worker(
    engine: Annotated[str, typer.Option(help="Which engine runs. Each has a consumer group and a state changelog of its own.")] = "signals",
    app_id: Annotated[
        str | None,
        typer.Option(
            help="Consumer group and name of the state changelog; workers of one id share the partitions. Default: perpflow-worker, "
            "for other engines than signals perpflow-worker-ENGINE."
        ),
    ] = None,
    datadir: Annotated[Path | None, typer.Option(help="Faust's data directory; default: a temporary one. No state is kept in it.")] = None,
    checkpoint_interval: Annotated[float, typer.Option(min=0.05, help="Seconds between two checkpoints of a partition.")] = 1.0,
    backlog: Annotated[
        int, typer.Option(min=1000, help="Records of a topic and partition read ahead of the marks before it is paused.")
    ] = BACKLOG,
    session_timeout: Annotated[
        float, typer.Option(min=6, help="Seconds without a heartbeat after which the group gives the partitions to others.")
    ] = SESSION_TIMEOUT_S,
    instance_id: Annotated[
        str | None,
        typer.Option(
            help="The same at every start, different for each worker: a killed worker takes its place again at once instead of after the "
            "session timeout; a stopped one keeps it so long.",
        ),
    ] = None,
) -> None:
    """Run an engine over the market-data topics, until SIGTERM or Ctrl-C. `signals` writes features, bars, scores and signals.

    State is kept in the changelog topic and recovered from it: a worker can be killed at any moment. Leaves with 0 after a clean stop
    and with 1 after a failure that a restart mends. KAFKA_BOOTSTRAP_SERVERS says where Kafka is (`perpflow stack env`);
    /health and /metrics are on PERPFLOW_HTTP_PORT.

    Examples:

        perpflow worker

        perpflow worker --app-id research --checkpoint-interval 5

        PERPFLOW_ENGINES=my_engine:register perpflow worker --engine mine
    """
    settings = surroundings()
    try:
        spec = engine_of(engine)
        config = spec.config(settings)
    except ValueError as error:
        raise UserError(f"worker: {error}") from error
    spec.compile(settings.codec)  # before the group is joined: compiling would hold up its heartbeats
    spare_collector()
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
