"""What a person asks for, and the command of it. Nothing is decided here: ``perpflow replay`` checks and runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sinks.console.data.records import iso, ms_of
from sinks.console.http.parameters import Moment
from sinks.console.http.problems import Problem

# Of a request: names only, so that nothing that a person types is an option, a path or a URL of the command.
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@:-]*$")]
# FIELD=VALUE,VALUE: fields of a strategy; the command says what is wrong with one.
Variation = Annotated[str, Field(max_length=200, pattern=r"^[a-z][a-z0-9_]*=[^\x00-\x1f]+$", examples=["entry_score=60,65,70"])]
DATABASE, TOPICS, FILE = "db", "topics", "file:"


class BacktestRequest(BaseModel):
    """A replay to start."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(max_length=200, description="db, topics, or file:NAME of GET /backtests/sources", examples=["db"])
    symbols: list[Name] = Field(default_factory=list, max_length=50, description="Instrument ids or symbols of the venue")
    venue: Name = Field("BINANCE", description="Venue of files and symbols that do not name one")
    strategies: list[Name] = Field(
        default_factory=list, max_length=50, description="Own or shipped strategies, or scoring models. Empty: those that the source holds"
    )
    start: Moment | None = Field(None, description="First event time, inclusive; null: the first of the source")
    end: Moment | None = Field(None, description="Event time before which it ends; null: the last of the source")
    assigned: list[Variation] = Field(default_factory=list, max_length=50, description="FIELD=VALUE for every strategy")
    varied: list[Variation] = Field(default_factory=list, max_length=5, description="FIELD=VALUE,VALUE: every combination runs")
    rebind: bool = Field(False, description="Run strategies of other instruments on those of the source")
    note: str = Field("", max_length=200, pattern=r"^[^\x00]*$", description="For the list")


def files(folder: Path | None) -> list[str]:
    """Return the names of the files and folders from which a replay can read, sorted."""
    if folder is None or not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def source_argument(source: str, folder: Path | None) -> str:
    """Return the source as the command names it. Raises Problem (422) for anything but the listed ones."""
    if source == DATABASE:
        return "db:"
    if source == TOPICS:
        return TOPICS
    name = source.removeprefix(FILE)
    if source.startswith(FILE) and folder is not None and name in files(folder):
        return f"{FILE}{folder.resolve() / name}"
    reason = "expected db, topics or one of the files of GET /backtests/sources"
    raise Problem(422, f"body.source: {reason}", errors={"body.source": reason})


def arguments(request: BacktestRequest, source: str, own: dict[str, Path]) -> list[str]:
    """Return the arguments of ``perpflow replay``.

    Args:
        request: The request.
        source: Of ``source_argument``.
        own: Strategy id -> file with the newest revision of a strategy that runs here.
    """
    found = ["--source", source, "--venue", request.venue]
    for option, values in (
        ("--symbol", request.symbols),
        ("--strategy", [str(own.get(name, name)) for name in request.strategies]),
        ("--set", request.assigned),
        ("--vary", request.varied),
    ):
        for value in values:
            found += [option, value]
    for option, at in (("--from", request.start), ("--to", request.end)):
        if at is not None:
            found += [option, iso(ms_of(at))]
    return [*found, *(["--rebind"] if request.rebind else [])]
