"""Endpoints of risk: what the guard allows now; halt, block new entries, close all, resume."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, ConfigDict, Field

from sinks.commands import risk
from sinks.commands.risk import CommandReceipt
from sinks.console.api.commanding import command
from sinks.console.auth.identity import Identity, needs
from sinks.console.context import Contextual
from sinks.console.data.records import shown
from sinks.console.http.json import json_response
from sinks.console.http.problems import Problem

Operator = Annotated[Identity, Depends(needs("operator"))]


class RiskRequest(BaseModel):
    """A command to the risk guard."""

    model_config = ConfigDict(extra="forbid")

    account: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00]+$", description="VENUE-mode, or * for every account")
    confirm: str = Field(max_length=64, description="The account's name again, as the person typed it")
    reason: str = Field(min_length=1, max_length=500, pattern=r"^[^\x00]+$", description="Reason, for the record")
    acknowledge_loss: bool = Field(False, description="For a resume: the day's loss no longer counts")


def router() -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/risk", tags=["risk"], dependencies=[Depends(needs("viewer"))])

    @routes.get("", summary="What the guard of each account allows now, and the switches that hold")
    async def state(context: Contextual) -> Response:
        async with context.database.reading() as connection:
            states = await (await connection.execute("SELECT * FROM risk_state_current ORDER BY account")).fetchall()
            switches = await (
                await connection.execute("SELECT * FROM risk_switch WHERE lifted_at IS NULL ORDER BY given_at DESC")
            ).fetchall()
        return json_response({"accounts": [shown(row) for row in states], "switches": [shown(row) for row in switches]})

    @routes.post("/{name}", summary="Halt, block new entries, close all positions, or resume")
    async def give(
        context: Contextual, operator: Operator, name: Literal["halt", "block_new", "close_all", "resume"], request: RiskRequest
    ) -> Response:
        if request.confirm != request.account:
            raise Problem(422, "body.confirm: type the account's name", errors={"body.confirm": "is not the account's name"})
        settings = context.settings.model_copy(update={"database_url": context.settings.role_url("console")})

        def call() -> CommandReceipt:
            return risk.give(settings, request.account, name, request.reason, by=operator.name, acknowledge_loss=request.acknowledge_loss)

        def after(receipt: CommandReceipt) -> dict[str, object]:
            return {
                "command_id": receipt.command.command_id,
                "database": receipt.database,
                "kafka": receipt.kafka,
                "arrived": receipt.arrived,
            }

        receipt = await command(context, operator, f"risk.{name}", request.account, call, None, after)
        if not receipt.arrived:
            raise Problem(503, "the command reached neither the database nor Kafka", extra=after(receipt))
        return json_response(after(receipt))

    return routes
