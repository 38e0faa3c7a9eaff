"""Errors as problem details (RFC 9457): one shape for every error of the API, naming the field and the reason."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from schemas.errors import UserError

MEDIA_TYPE = "application/problem+json"
# A client may ask again after this many seconds when the database is away.
RETRY_AFTER_S = 2

_log = structlog.get_logger(service="console")


class FieldError(BaseModel):
    """One invalid field of a request."""

    field: str = Field(description="Where the value is: query.limit, body.weights.direction")
    reason: str = Field(description="What is wrong with it")


class ProblemDetails(BaseModel):
    """The body of every error (RFC 9457)."""

    type: str = Field("about:blank", description="Kind of the problem")
    title: str = Field(description="The status in words")
    status: int = Field(description="HTTP status")
    detail: str = Field(description="What happened, for a person")
    errors: list[FieldError] = Field(default_factory=list, description="Invalid fields, if fields are the reason")


class Problem(Exception):
    """An error to answer with.

    Args:
        status: HTTP status.
        detail: What happened, for a person.
        errors: Field -> reason.
        headers: Headers of the response.
        extra: Further members of the body, e.g. ``revision`` of a conflict.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.headers, self.extra = status, detail, errors or {}, headers or {}, extra or {}


def response_of(problem: Problem) -> JSONResponse:
    """Return the response of a problem."""
    body = ProblemDetails(
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        errors=[FieldError(field=name, reason=reason) for name, reason in problem.errors.items()],
    ).model_dump()
    return JSONResponse({**body, **problem.extra}, problem.status, {**problem.headers, "Cache-Control": "no-store"}, MEDIA_TYPE)


def _validation(error: RequestValidationError) -> Problem:
    errors = {".".join(str(part) for part in one["loc"]): one["msg"] for one in error.errors()}
    return Problem(422, "; ".join(f"{name}: {reason}" for name, reason in errors.items()), errors=errors)


def database_away(error: Exception) -> Problem:
    """Return the problem of a database that does not answer. Connection details stay in the log."""
    _log.warning("database does not answer", error=f"{type(error).__name__}: {error}".strip())
    return Problem(503, "the database does not answer; live data goes on from Kafka", headers={"Retry-After": str(RETRY_AFTER_S)})


def add_handlers(app: FastAPI) -> None:
    """Answer every error of ``app`` with problem details."""

    async def problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return response_of(error)

    async def validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return response_of(_validation(error))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return response_of(Problem(error.status_code, str(error.detail), headers=dict(error.headers or {})))

    async def user(request: Request, error: Exception) -> JSONResponse:
        return response_of(Problem(422, str(error)))

    async def cancelled(request: Request, error: Exception) -> JSONResponse:
        return response_of(Problem(503, "the query takes too long; ask for a shorter range", headers={"Retry-After": str(RETRY_AFTER_S)}))

    async def away(request: Request, error: Exception) -> JSONResponse:
        return response_of(database_away(error))

    async def behind(request: Request, error: Exception) -> JSONResponse:
        _log.warning("the database lacks a table or column", error=str(error).strip())
        return response_of(Problem(503, "the database is older than this console: run `perpflow db migrate`"))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.error("unexpected error", path=request.url.path, exc_info=error)
        return response_of(Problem(500, "an error of the console; its log has the details"))

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(UserError, user)
    app.add_exception_handler(psycopg.errors.QueryCanceled, cancelled)
    for kind in (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed, TooManyRequests):
        app.add_exception_handler(kind, away)
    for missing in (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction):
        app.add_exception_handler(missing, behind)
    app.add_exception_handler(Exception, unexpected)
