"""How the console gives a command: in a thread, as the command line's own function, with the author's name, and into the audit log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi.concurrency import run_in_threadpool

from schemas.errors import UserError
from sinks.commands.strategies.revisions import StaleRevision
from sinks.console.auth import audit
from sinks.console.auth.identity import Identity
from sinks.console.context import Context
from sinks.console.http.problems import Problem
from stream_apps.core.signals.strategy import StrategyError

Answer = TypeVar("Answer")


async def command(
    context: Context,
    identity: Identity,
    action: str,
    target: str,
    call: Callable[[], Answer],
    before: Any = None,
    after: Callable[[Answer], Any] = lambda answer: None,
) -> Answer:
    """Run ``call`` in a thread and write the audit log, whatever comes of it.

    Args:
        action: What, e.g. ``strategies.pause``.
        target: Of what.
        before: State before, as JSON values.
        after: Gives the state after, as JSON values.

    Raises:
        Problem: 422 with the field of a broken rule; 409 with the newest revision; 503 when Kafka does not answer.
    """
    async with audit.command(context.database, identity, action, target) as entry:
        entry.before = before
        answer = await run_in_threadpool(valid, call)
        entry.after = after(answer)
    return answer


def valid(call: Callable[[], Answer]) -> Answer:
    """Return what ``call`` returns.

    Raises:
        Problem: 409 for an old revision; 422 with the field of a broken rule.
    """
    try:
        return call()
    except StaleRevision as error:
        raise Problem(409, str(error)) from error
    except StrategyError as error:
        raise Problem(422, str(error), errors={f"body.fields.{error.field}": error.rule}) from error
    except UserError as error:
        raise Problem(422, str(error)) from error
