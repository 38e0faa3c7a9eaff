"""What every endpoint needs: settings, options, database. One object a process, held by the application."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from fastapi import Depends, Request

from schemas.settings import Settings
from sinks.console.auth.service import Auth
from sinks.console.data.backtests.jobs import Backtests
from sinks.console.database import Database
from sinks.console.live.live import Live
from sinks.console.options import ConsoleOptions


@dataclass(frozen=True)
class Context:
    """The parts of one console process."""

    settings: Settings
    options: ConsoleOptions
    database: Database

    @cached_property
    def auth(self) -> Auth:
        """Return the logins of this process. Raises UserError if the secret of the environment is unusable."""
        return Auth(self.options, self.database)

    @cached_property
    def live(self) -> Live:
        """Return the live stream of this process. The application starts and stops it."""
        return Live(self.settings)

    @cached_property
    def backtests(self) -> Backtests:
        """Return the backtests of this process. The application starts and stops them."""
        return Backtests(self.settings, self.options, self.database)


def context_of(request: Request) -> Context:
    """Return the context of the application that answers ``request``."""
    found = request.app.state.context
    assert isinstance(found, Context)
    return found


Contextual = Annotated[Context, Depends(context_of)]
