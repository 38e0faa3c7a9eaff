"""A worker says when a partition holds an asset of another grouping."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from structlog.testing import capture_logs

from schemas.settings import Settings
from stream_apps.agents.partitions import Partitions
from stream_apps.core.signals.engine import SignalsEngine

BTC, ETH = "BINANCE:BTCUSDT-PERP", "BINANCE:ETHUSDT-PERP"


def runner(*names: str) -> Any:
    return SimpleNamespace(engine=SimpleNamespace(instruments=SimpleNamespace(names=list(names))))


def said_of(groups: str, runners: dict[int, Any]) -> list[tuple[str, int, int]]:
    """(instrument, its partition, where it belongs) of the errors of two looks."""
    with capture_logs() as logs:
        owner = Partitions(None, SignalsEngine, None, Settings(asset_groups=groups), "changelog", None)  # type: ignore[arg-type]
        owner.runners = runners
        owner._report_misplaced()
        owner._report_misplaced()
    assert all(one["log_level"] == "error" and "PERPFLOW_ASSET_GROUPS" in one["event"] for one in logs)
    return [(one["instrument"], one["partition"], one["belongs_to"]) for one in logs]


def test_each_instrument_of_another_grouping_is_reported_once() -> None:
    alone = Settings()
    btc, eth = alone.partition_of("BTC"), alone.partition_of("ETH")
    assert btc != eth
    assert said_of("", {btc: runner(BTC), eth: runner(ETH)}) == []
    assert said_of("BTC+ETH", {btc: runner(BTC, ETH)}) == []
    assert said_of("BTC+ETH", {btc: runner(BTC), eth: runner(ETH, "no instrument id")}) == [(ETH, eth, btc)]
    assert said_of("", {btc: runner(BTC, ETH)}) == [(ETH, btc, eth)]
