"""Ask the database and Prometheus what a panel asks, and give it the form that Grafana gives it: tables, and named lines over time."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import psycopg

from deploy.grafana.build import DATABASE, Json
from deploy.grafana.preview.query import duration_ms, expanded, rate_interval, step_ms

Number = float | None
STATEMENT_TIMEOUT_S = 60
NO_PROMETHEUS = "No Prometheus to ask: perpflow stack up --with prometheus, or --prometheus URL"
# How far back a Prometheus is searched for what it has scraped.
SEARCHED_S = 86_400


@dataclass(frozen=True)
class Table:
    """Rows of a query."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Line:
    """One series: times in ms UTC, and numbers, or words in a panel of states."""

    name: str
    times: list[float]
    values: list[Any]


@dataclass
class Answer:
    """What the queries of one panel gave.

    Attributes:
        lines: Of queries of lines.
        tables: Of queries of tables.
        error: What a source answered instead; the panel then shows it.
        note: Why there is nothing to ask.
        span: Range of the time axis, ms UTC.
    """

    lines: list[Line] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    error: str = ""
    note: str = ""
    span: tuple[float, float] = (0.0, 0.0)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        values = [value for line in self.lines for value in line.values]
        values += [value for one in self.tables for row in one.rows for value in row]
        return all(value is None for value in values)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def lines_of(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[Line]:
    """Return the series of a query of lines: a line for each column of numbers, or for each value of ``metric`` (and column, if several)."""
    numbers = [at for at, name in enumerate(columns) if at and name != "metric"]
    by_metric = "metric" in columns[1:2]
    found: dict[str, tuple[list[float], list[Any]]] = defaultdict(lambda: ([], []))
    for row in rows:
        for at in numbers:
            name = columns[at] if not by_metric else row[1] if len(numbers) == 1 else f"{row[1]} {columns[at]}"
            times, values = found[name]
            times.append(row[0].timestamp() * 1000)
            values.append(_plain(row[at]))
    return [Line(name, *series) for name, series in found.items() if any(value is not None for value in series[1])]


class Database:
    """The data source of SQL, over a range of market time.

    Args:
        connection: A session in autocommit; it is made read-only.
        since: Beginning of the range.
        until: Its end.
    """

    def __init__(self, connection: psycopg.Connection[Any], since: datetime, until: datetime) -> None:
        connection.execute(
            f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'; SET timezone = 'UTC'; SET default_transaction_read_only = on"
        )
        self._connection = connection
        self.since, self.until = since.astimezone(UTC), until.astimezone(UTC)

    @property
    def span(self) -> tuple[float, float]:
        """The range, ms UTC."""
        return self.since.timestamp() * 1000, self.until.timestamp() * 1000

    def rows(self, query: str, variables: Mapping[str, Sequence[str]], interval_ms: int = 60_000) -> Table:
        """Return the rows of a panel's, variable's or annotation's query. Raises psycopg.Error."""
        text = expanded(query, self.since.isoformat(), self.until.isoformat(), variables, interval_ms)
        cursor = self._connection.execute(text.encode())
        return Table([column.name for column in cursor.description or ()], [tuple(map(_plain, row)) for row in cursor.fetchall()])

    def choices(self, board: Json, given: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Return the values of a board's variables: those given, else what Grafana shows at first (all, or the first one)."""
        chosen: dict[str, list[str]] = {}
        for variable in board["templating"]["list"]:
            name = variable["name"]
            if name in given:
                chosen[name] = list(given[name])
            elif variable["type"] == "query":
                found = [str(row[0]) for row in self.rows(variable["query"], chosen).rows]
                chosen[name] = found if variable["includeAll"] else found[:1] or [""]
            else:
                chosen[name] = [variable["current"]["value"]]
        return {name: values or [""] for name, values in chosen.items()}


class Prometheus:
    """The data source of metrics, over the time that it has scraped (wall-clock time, also while a recording is played).

    Args:
        client: Its HTTP API.
        url: Its address.

    Raises:
        httpx.HTTPError: it does not answer.
    """

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url.rstrip("/")
        config = self._ask("status/config")["yaml"]
        scrape = re.search(r"scrape_interval: (\w+)", config)
        self.scrape_s = duration_ms(scrape[1]) / 1000 if scrape else 15.0
        self.span = self._scraped()

    def _ask(self, path: str, **parameters: Any) -> Any:
        answer = self._client.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=STATEMENT_TIMEOUT_S)
        if answer.status_code == 400:
            raise ValueError(answer.json()["error"])
        answer.raise_for_status()
        return answer.json()["data"]

    def _scraped(self) -> tuple[float, float]:
        """Return when our processes were scraped, ms UTC: the newest stretch of the last day."""
        now = datetime.now(UTC).timestamp()
        found = self._ask("query_range", query="count(perpflow_up)", start=now - SEARCHED_S, end=now, step=15)["result"]
        times = [time for time, _ in found[0]["values"]] if found else []
        if not times:
            return (now - 900) * 1000, now * 1000
        begin = times[-1]
        for time in reversed(times):
            if begin - time > 600:
                break
            begin = time
        return (begin - 15) * 1000, (times[-1] + 15) * 1000

    def lines(self, target: Json, step_s: float) -> list[Line]:
        """Return the series of a query, each named by its legend; of an instant query, each one's last value.

        Grafana asks for the values of now; what this shows may be over, and its processes may have ended one before the other.
        """
        query = target["expr"].replace("$__rate_interval", rate_interval(step_s, self.scrape_s))
        start, end = (time / 1000 for time in self.span)
        result = []
        for series in self._ask("query_range", query=query, start=start, end=end, step=step_s)["result"]:
            points = series["values"][-1:] if target["instant"] else series["values"]
            name = _legend(target["legendFormat"], series["metric"])
            values: list[Number] = [None if text in ("NaN", "+Inf", "-Inf") else float(text) for _, text in points]
            if any(value is not None for value in values):
                result.append(Line(name, [time * 1000 for time, _ in points], values))
        return result


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda one: labels.get(one[1], ""), form).strip()


def answer(panel: Json, database: Database, prometheus: Prometheus | None, variables: Mapping[str, Sequence[str]]) -> Answer:
    """Return what a panel's queries give. What a source refuses is the answer's ``error``."""
    of_database = panel["datasource"] == DATABASE
    if not of_database and prometheus is None:
        return Answer(note=NO_PROMETHEUS)
    source = database if of_database else prometheus
    assert source is not None
    found = Answer(span=source.span)
    step = step_ms(panel, found.span[1] - found.span[0])
    for target in panel["targets"]:
        try:
            if not of_database:
                assert prometheus is not None
                found.lines += prometheus.lines(target, step / 1000)
                continue
            rows = database.rows(target["rawSql"], variables, step)
        except (psycopg.Error, httpx.HTTPError, ValueError) as error:
            found.error = f"{target['refId']}: {type(error).__name__}: {error}"
            break
        if target["format"] == "time_series":
            found.lines += lines_of(rows.columns, rows.rows)
        else:
            found.tables.append(rows)
    return found
