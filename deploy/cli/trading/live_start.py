"""Start live execution: read the policy, check the account, ask for approval, run the executor."""

from __future__ import annotations

import asyncio
import os
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import psycopg
import typer
from confluent_kafka import KafkaException

from deploy.cli.trading.preflight import show
from schemas.errors import UserError
from schemas.process.service import Service, configure_logging
from schemas.secret import SecretError, Secrets
from schemas.settings import Settings
from sinks.executor.journal import FencedError
from sinks.guard.preflight import AccountRequirements, CheckResult, passed, preflight
from sinks.live.service import LiveExecutor
from sinks.venues.account_login import LIVE, SPOT, AccountError, account_id, open_venue
from sinks.venues.common.adapter import TradingVenue, VenueError
from stream_apps.core.execution.settings.policy import LivePolicy
from stream_apps.core.execution.settings.policy_values import policy_of
from stream_apps.core.execution.state.records import Account

# Set this variable to the account id to approve without a prompt, e.g. in a container.
APPROVAL = "PERPFLOW_LIVE_APPROVED"


def read_policy(path: Path | None, symbols: Sequence[str], strategies: Sequence[str]) -> LivePolicy:
    """Return the policy of a TOML file (None: the defaults) with the symbols and strategies of the command line.

    Raises:
        UserError: the file cannot be read, or a setting is invalid; the error names it.
    """
    try:
        policy = policy_of(tomllib.loads(path.read_text(encoding="utf-8")) if path is not None else {})
    except (OSError, ValueError) as error:
        raise UserError(f"execute: policy: {path}: {error}") from error
    return replace(policy, symbols=tuple(symbols) or policy.symbols, strategies=tuple(strategies) or policy.strategies)


def approve(mode: str, account: str, live: bool, policy: LivePolicy) -> None:
    """Approve trading with real money: require --live and either the typed account id or the approval variable (D24).

    Raises:
        UserError: not approved, or --symbols or --strategies is missing.
    """
    if mode != LIVE:
        return
    if not live:
        raise UserError("execute: mode live trades real money; add --live to confirm")
    if policy.symbols is None or policy.strategies is None:
        raise UserError("execute: mode live needs --symbols and --strategies")
    if os.environ.get(APPROVAL) == account:
        return
    if typer.prompt(f"This trades real money. Type the account id ({account}) to go on") != account:
        raise UserError("execute: not approved")


def run_live(settings: Settings, mode: str, venue: str, base_url: str, policy: LivePolicy) -> None:
    """Check the account, then trade it until SIGTERM.

    Raises:
        UserError: the account cannot be opened, or a check failed.
    """
    secrets = Secrets()
    account = Account(mode, SPOT.get(venue, venue), account_id(venue, mode), settings.topic_prefix, is_spot=venue in SPOT)
    configure_logging(settings.log_level)
    try:
        trading = open_venue(venue, mode, secrets, base_url)
        if policy.symbols is not None:
            found = asyncio.run(_checked(open_venue(venue, mode, secrets, base_url), policy, account.is_spot, mode == LIVE))
            if not passed(found, mode == LIVE):
                show(found)
                raise UserError("execute: preflight failed; no order was sent")
        with Service("live", settings.http_port) as service:
            asyncio.run(LiveExecutor(settings, service, account, trading, policy).run())
    except (AccountError, SecretError, VenueError, KafkaException, psycopg.Error, FencedError) as error:
        raise UserError(secrets.redact(f"execute: {type(error).__name__}: {error}")) from error


async def _checked(venue: TradingVenue, policy: LivePolicy, spot: bool, strict: bool) -> list[CheckResult]:
    least = 2 * policy.sizing.risk_usd if policy.sizing.risk_usd is not None else policy.sizing.margin_base
    budget = policy.budget.max_spot_notional if spot else policy.budget.max_margin
    await venue.open()
    try:
        return await preflight(
            venue, AccountRequirements(policy.symbols or (), policy.sizing.leverage, Decimal(least), strict=strict, budget=budget)
        )
    finally:
        await venue.close()
