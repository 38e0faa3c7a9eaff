"""Annotations: stretches of a chart that a person marked, with label and text. An edit needs the version that it changes; nothing is really deleted."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from sinks.console.auth import audit
from sinks.console.auth.identity import Identity, User, needs
from sinks.console.auth.roles import Role
from sinks.console.context import Contextual
from sinks.console.data import cursor as cursors
from sinks.console.data.records import times
from sinks.console.database import Connection, Row
from sinks.console.http.documented import Iso, Ms
from sinks.console.http.json import json_response
from sinks.console.http.parameters import Cursor, End, Limit, MaybeInstrument, Moment, Start
from sinks.console.http.problems import Problem

# A role that may change the annotations of others.
ANYBODYS: Role = "operator"
_TEXT = r"^[^\x00]*$"
Label = Annotated[str, Field(min_length=1, max_length=40, pattern=_TEXT, description="Kind of stretch", examples=["pre-rise"])]
Note = Annotated[str, Field(max_length=2_000, pattern=_TEXT, description="Text")]
AnnotationId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Version = Annotated[int, Field(ge=1, le=2**31 - 1, description="Version on which the change is based")]
_COLUMNS = "annotation_id, user_name, instrument, from_time, to_time, label, note, version, created_at, updated_at"


class NewAnnotation(BaseModel):
    """A stretch to mark."""

    model_config = ConfigDict(extra="forbid")

    instrument: str = Field(min_length=1, max_length=64, pattern=_TEXT, examples=["BINANCE:BTCUSDT-PERP"])
    start: Moment = Field(description="Start of the stretch, ISO 8601 or ms since 1970, UTC")
    end: Moment = Field(description="Its end; after the start")
    label: Label
    note: Note = ""


class AnnotationEdit(BaseModel):
    """A change of label or text."""

    model_config = ConfigDict(extra="forbid")

    version: Version
    label: Label | None = None
    note: Note | None = None


class Annotation(BaseModel):
    """An annotation."""

    id: int
    author: str
    instrument: str
    start: Iso
    start_ms: Ms
    end: Iso
    end_ms: Ms
    label: str
    note: str
    version: int
    created_at: Iso
    created_at_ms: Ms
    updated_at: Iso
    updated_at_ms: Ms


class Annotations(BaseModel):
    """A page of annotations, by the start of their stretch, newest first."""

    records: list[Annotation]
    next: str | None = Field(description="Cursor of the next page; null: this is the last one")


def _shown(row: Row) -> dict[str, Any]:
    return {
        "id": row["annotation_id"],
        "author": row["user_name"],
        **{name: row[name] for name in ("instrument", "label", "note", "version")},
        **times(start=row["from_time"], end=row["to_time"], created_at=row["created_at"], updated_at=row["updated_at"]),
    }


async def _of_author(connection: Connection, identity: Identity, annotation: int, version: int) -> dict[str, Any]:
    """Return an annotation that ``identity`` may change, locked. Raises Problem: 404, 403 of somebody else, 409 for an old version."""
    row = await (
        await connection.execute(
            f"SELECT {_COLUMNS} FROM console_annotations WHERE annotation_id = %s AND NOT deleted FOR UPDATE", (annotation,)
        )
    ).fetchone()
    if row is None:
        raise Problem(404, f"no annotation {annotation}")
    if row["user_name"] != identity.name and not identity.may(ANYBODYS):
        raise Problem(403, f"this annotation is of {row['user_name']}; its author or an {ANYBODYS} may change it")
    if row["version"] != version:
        raise Problem(409, f"the annotation has version {row['version']} now", extra={"version": row["version"]})
    return _shown(row)


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/annotations", tags=["annotations"])

    @routes.get("", summary="Annotations that touch a range of time", response_model=Annotations, dependencies=[Depends(needs("viewer"))])
    async def listed(
        context: Contextual,
        instrument: MaybeInstrument = None,
        start: Start = None,
        end: End = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        at, _, after = (None, 0, None) if cursor is None else cursors.decode(cursor)
        query = (
            f"SELECT {_COLUMNS} FROM console_annotations WHERE NOT deleted AND (%(of)s::text IS NULL OR instrument = %(of)s)"
            " AND (%(since)s::timestamptz IS NULL OR to_time > %(since)s) AND (%(until)s::timestamptz IS NULL OR from_time < %(until)s)"
            " AND (%(at)s::timestamptz IS NULL OR (from_time, annotation_id) < (%(at)s, %(after)s::bigint))"
            " ORDER BY from_time DESC, annotation_id DESC LIMIT %(limit)s"
        )
        values = {"of": instrument, "since": start, "until": end, "at": at, "after": after, "limit": limit + 1}
        async with context.database.own() as connection:
            rows = await (await connection.execute(query, values)).fetchall()
        more, rows = len(rows) > limit, rows[:limit]
        last = {"event_time": rows[-1]["from_time"], "kafka_partition": 0, "kafka_offset": rows[-1]["annotation_id"]} if more else None
        return json_response({"records": [_shown(row) for row in rows], "next": cursors.encode(last) if last else None})

    @routes.post("", summary="Mark a stretch", status_code=201, response_model=Annotation)
    async def create(context: Contextual, user: User, request: NewAnnotation) -> Response:
        if request.end <= request.start:
            raise Problem(422, "body.end: must be after start", errors={"body.end": "must be after start"})
        async with audit.change(context.database, user, "annotation.create", request.instrument) as (connection, entry):
            row = await (
                await connection.execute(
                    "INSERT INTO console_annotations (user_name, instrument, from_time, to_time, label, note) VALUES (%s, %s, %s, %s, %s, %s)"
                    f" RETURNING {_COLUMNS}",
                    (user.name, request.instrument, _whole_ms(request.start), _whole_ms(request.end), request.label, request.note),
                )
            ).fetchone()
            assert row is not None
            entry.target, entry.after = str(row["annotation_id"]), _shown(row)
        return json_response(entry.after, 201)

    @routes.patch("/{annotation_id}", summary="Change label or text, as its author or an operator", response_model=Annotation)
    async def edit(context: Contextual, user: User, annotation_id: AnnotationId, request: AnnotationEdit) -> Response:
        async with audit.change(context.database, user, "annotation.edit", str(annotation_id)) as (connection, entry):
            entry.before = await _of_author(connection, user, annotation_id, request.version)
            row = await (
                await connection.execute(
                    "UPDATE console_annotations SET label = coalesce(%s, label), note = coalesce(%s, note), version = version + 1, updated_at = now()"
                    f" WHERE annotation_id = %s RETURNING {_COLUMNS}",
                    (request.label, request.note, annotation_id),
                )
            ).fetchone()
            assert row is not None
            entry.after = _shown(row)
        return json_response(entry.after)

    @routes.delete(
        "/{annotation_id}", summary="Remove an annotation, as its author or an operator", status_code=204, response_class=Response
    )
    async def remove(
        context: Contextual,
        user: User,
        annotation_id: AnnotationId,
        version: Annotated[int, Query(ge=1, le=2**31 - 1, description="Version that you saw")],
    ) -> Response:
        async with audit.change(context.database, user, "annotation.delete", str(annotation_id)) as (connection, entry):
            entry.before = await _of_author(connection, user, annotation_id, version)
            await connection.execute(
                "UPDATE console_annotations SET deleted = true, version = version + 1, updated_at = now() WHERE annotation_id = %s",
                (annotation_id,),
            )
        return Response(status_code=204)

    return routes


def _whole_ms(at: datetime) -> datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
