"""V5.0 on two assets: the correlation gate against pandas and a bookkeeping of its own, from the trades and the signals of the log."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from schemas.partition import AssetGroups
from stream_apps.core.log.engine_settings import SettingsRevision
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.signals.engine import SignalsEngine
from stream_apps.core.signals.scoring.models.v50 import V50
from stream_apps.core.signals.strategy import StrategyConfig, config_hash
from tests.support.markets.logs import CODEC, Log, Message, decoded, run
from tests.support.markets.scoring_cases import market, of_model
from tests.support.markets.scoring_cases import run as plain_run

GRID = 60_000
START = 1_749_945_600_000  # a midnight
MINUTES = 780
FIRST, SECOND = "BINANCE:BTCUSDT-PERP", "BINANCE:ETHUSDT-PERP"
NAMES = (FIRST, SECOND)
CONFIG = EngineConfig(grid_ms=GRID, lateness_ms=250, quantile_history_ms=0, groups=AssetGroups.parse("BTC+ETH"), correlation_bars=24)
PAIR = of_model("v50_rules", strategy_id="pair", instrument=FIRST, instruments=(SECOND,))
PASSING = replace(PAIR, strategy_id="passing", correlation_on_missing="pass", correlation_max=0.5)
OFF = replace(PAIR, strategy_id="off", gate_correlation_enabled=False)
ALONE = tuple(replace(PAIR, strategy_id=f"alone-{n}", instrument=name, instruments=()) for n, name in enumerate(NAMES))
STRATEGIES = (PAIR, PASSING, OFF, *ALONE)
Trades = list[tuple[str, int, float, float]]


@cache
def log_and_trades() -> tuple[Log, Trades]:
    """Thirteen hours: two assets that move as one, then apart, then as one again. Buyers and sellers lead by turns."""
    source = random.Random(3)
    log, trades = Log(grid=GRID), Trades()
    for name in NAMES:
        log.instrument(name)
    for config in STRATEGIES:
        log.strategy({**config.to_record(), "event_time": 1, "receive_time": 1})
    ids, price = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 100_000)
    lean = 1
    for minute in range(MINUTES):
        begin = START + minute * GRID
        if minute % 45 == 0:
            lean = source.choice((1, -1))
        shared = source.gauss(8 * lean, 60)
        for name in NAMES:
            own = shared if not 300 <= minute < 560 else source.gauss(8 * lean, 60)
            price[name] = max(50_000, round(price[name] + own + source.gauss(0, 12)))
            if minute % 7 == 3 and name == SECOND:
                continue  # a minute without a trade
            for time in sorted(source.sample(range(1, GRID), 3)):
                quantity, maker = source.choice((0.5, 1.0, 2.0)), source.random() > 0.5 + 0.3 * lean
                log.trade(begin + time, ids[name], price[name] / 100, quantity, maker, name)
                trades.append((name, begin + time, price[name] / 100, quantity))
                ids[name] += 1
        log.mark(begin + GRID + 250)
    return log, trades


@cache
def records() -> dict[str, list[dict[str, Any]]]:
    outputs, _ = run(log_and_trades()[0], CONFIG)
    found = {topic: decoded(outputs, topic) for topic in ("scores", "signals", "dead_letters")}
    assert not found["dead_letters"]
    return found


@cache
def known_correlations(bars: int = 24, length: int = 300_000) -> dict[int, float]:
    """End of a bar -> correlation, by pandas from the trades: VWAP of each bar, log returns, Pearson. NaN: not enough history."""
    frame = pd.DataFrame(log_and_trades()[1], columns=["name", "time", "price", "quantity"])
    frame["bar"] = -(-frame.time // length) * length  # (end - length, end]
    frame["money"] = frame.price * frame.quantity
    sums = frame.groupby(["name", "bar"])[["money", "quantity"]].sum()
    prices = (
        (sums.money / sums.quantity)
        .unstack(0)
        .reindex(range(START // length * length + length, START + MINUTES * GRID + 1, length))
        .ffill()
    )
    returns = np.log(prices).diff()
    return returns[FIRST].rolling(bars).corr(returns[SECOND]).to_dict()


def gate_of(score: dict[str, Any]) -> dict[str, Any] | None:
    return next((one for one in score["gates"] if one["name"] == "correlation"), None)


def bets_by_book(config: StrategyConfig) -> dict[tuple[str, int], int]:
    """(instrument, instant) -> side of the bet on the other asset when the score was judged, from the strategy's own signals."""
    mine = [one for one in records()["signals"] if one["strategy_id"] == config.strategy_id]
    signals = {(one["instrument"], one["event_time"]): one for one in mine}
    opened: dict[str, tuple[int, int]] = {}  # instrument -> (side, since)
    found = {}
    for at in sorted({one["event_time"] for one in records()["scores"]}):
        for name in NAMES:  # in the order in which an instant judges them
            other = NAMES[1 - NAMES.index(name)]
            side, since = opened.get(other, (0, 0))
            found[name, at] = side if at - since < config.timeout_minutes * 60_000 else 0
            signal = signals.get((name, at))
            if signal is not None and signal["entry"]:
                opened[name] = (1 if signal["direction"] == "LONG" else -1, at)
            elif signal is not None:
                opened.pop(name, None)
    return found


@pytest.mark.parametrize("config", [PAIR, PASSING, OFF], ids=lambda one: one.strategy_id)
def test_the_gate_is_that_of_pandas_and_of_a_book_of_its_own(config: StrategyConfig) -> None:
    bets, correlations = bets_by_book(config), known_correlations()
    said: dict[str, int] = {"same bet": 0, "missing": 0, "passed with a bet": 0, "no bet": 0}
    for score in (one for one in records()["scores"] if one["strategy_id"] == config.strategy_id and one["warm"]):
        gate, at = gate_of(score), score["event_time"]
        assert gate is not None and gate["limit"] == config.correlation_max and gate["enabled"] == config.gate_correlation_enabled
        if gate["skipped"] or not gate["enabled"]:
            assert gate["value"] is None and gate["passed"]
            continue
        side = {"LONG": 1, "SHORT": -1, "NONE": 0}[score["lean"]]
        wanted = correlations.get(at // 300_000 * 300_000, math.nan)
        if not side or bets[score["instrument"], at] != side:
            assert (gate["value"], gate["passed"], gate["reason"]) == (None, True, None)
            said["no bet"] += 1
        elif math.isnan(wanted):
            blocks = config.correlation_on_missing == "block"
            assert (gate["value"], gate["passed"], gate["reason"]) == (None, not blocks, "missing(correlation)" if blocks else None)
            said["missing"] += 1
        else:
            blocks = wanted >= config.correlation_max
            assert gate["value"] == pytest.approx(wanted, abs=1e-9)
            assert (gate["passed"], gate["reason"]) == (not blocks, "same_bet" if blocks else None)
            said["same bet" if blocks else "passed with a bet"] += 1
        if not gate["passed"]:
            assert score["verdict"] not in ("entry", "entry+flip"), "it refuses entries"
    if config is OFF:
        assert not any(said.values())
    else:
        assert said["same bet"] >= 5 and said["passed with a bet"] >= 5 and said["no bet"] >= 20, said


def test_it_refuses_entries_and_lets_opposite_signals_close() -> None:
    scores = [one for one in records()["scores"] if one["strategy_id"] == "pair" and one["warm"]]
    refused = [one for one in scores if not (gate_of(one) or {"passed": True})["passed"]]
    assert any(one["verdict"] == "no_entry" for one in refused)
    assert all(one["gate_block"] is None for one in refused if one["gate_passed"]), "the score stands"
    # With the gate off the same market enters more often.
    entries = {name: sum(one["entry"] for one in records()["signals"] if one["strategy_id"] == name) for name in ("pair", "off")}
    assert 0 < entries["pair"] < entries["off"], entries


def test_a_strategy_of_one_asset_has_no_such_gate() -> None:
    """Its scores keep their bytes: the four gates of the releases before."""
    scores = [one for one in records()["scores"] if one["strategy_id"].startswith("alone") and one["warm"]]
    assert scores and all([gate["name"] for gate in one["gates"]] == [gate.name for gate in V50.gates] for one in scores)
    # Without the gate, two instruments are judged as two strategies of one.
    off = {(one["instrument"], one["event_time"]): one["verdict"] for one in records()["scores"] if one["strategy_id"] == "off"}
    assert off == {
        (one["instrument"], one["event_time"]): one["verdict"] for one in records()["scores"] if one["strategy_id"].startswith("alone")
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_and_cuts_change_nothing(seed: int) -> None:
    log = log_and_trades()[0]
    killed, _ = run(log, CONFIG, seed=seed, restart_every=40, size=2_000)
    for topic in ("scores", "signals"):
        assert decoded(killed, topic) == records()[topic]


def test_what_comes_later_changes_nothing_before_it() -> None:
    """The future-shift test: other prices after a time leave every score until then as it was."""
    log, at = log_and_trades()[0], START + 640 * GRID
    other = Log(grid=GRID, topics=dict(log.topics))
    rows: list[Message] = []
    for offset, stamp, key, value in log.topics["agg_trades"]:
        record = CODEC.decode("agg_trades", value or b"")
        if record["event_time"] > at:
            record |= {"price": record["price"] * 2, "buyer_is_maker": not record["buyer_is_maker"]}
        rows.append((offset, stamp, key, CODEC.encode("agg_trades", record)))
    other.topics["agg_trades"] = rows
    shifted = decoded(run(other, CONFIG)[0], "scores")
    assert [one for one in shifted if one["event_time"] <= at] == [one for one in records()["scores"] if one["event_time"] <= at]
    assert shifted != records()["scores"]


def test_the_plain_scorer_says_the_same_of_given_bets() -> None:
    """The readable form: the largest known correlation of the side decides, an unknown one follows the rule."""
    cases: list[tuple[tuple[tuple[int, float | None], ...], float | None, str | None]] = [
        ((), None, None),
        (((-1, 0.99),), None, None),
        (((1, 0.79),), 0.79, None),
        (((1, 0.8),), 0.8, "same_bet"),
        (((1, 0.1), (1, 0.9), (-1, 1.0)), 0.9, "same_bet"),
        (((1, None),), None, "missing(correlation)"),
        (((1, None), (1, 0.9)), 0.9, "same_bet"),
        (((1, None), (1, 0.2)), 0.2, "missing(correlation)"),
    ]
    for bets, value, reason in cases:
        gate = gate_of(plain_run(market(instrument=FIRST, bets=bets), PAIR).score)
        assert gate is not None and (gate["value"], gate["reason"], gate["passed"]) == (value, reason, reason is None), bets
    gate = gate_of(plain_run(market(instrument=FIRST, bets=((1, None),)), PASSING).score)
    assert gate is not None and gate["passed"] and gate["reason"] is None


class Set(SignalsEngine):
    """The engine with a revision of the settings, as if the log began with it."""

    def __init__(self, *more: Any) -> None:
        super().__init__(*more)
        self.take_settings(SettingsRevision("signals", 1, {"correlation_bars": 12.0, "correlation_bar_ms": 600_000.0}))


def test_settings_of_the_log_give_the_bars_and_their_number() -> None:
    scores = decoded(run(log_and_trades()[0], CONFIG, kind=Set)[0], "scores")
    gates = [(one["event_time"], gate["value"]) for one in scores if (gate := gate_of(one)) is not None and gate["value"] is not None]
    wanted = known_correlations(12, 600_000)
    assert len(gates) > 10
    for at, value in gates:
        assert value == pytest.approx(wanted[at // 600_000 * 600_000], abs=1e-9)


def test_the_hash_of_a_strategy_without_the_fields_stays() -> None:
    plain = StrategyConfig(strategy_id="s", instrument="BINANCE:BTCUSDT-PERP", display_name="Test")
    assert config_hash(plain) == "5b635ea4b8294c42"
    changes: list[dict[str, Any]] = [{"gate_correlation_enabled": False}, {"correlation_max": 0.7}, {"correlation_on_missing": "pass"}]
    assert len({config_hash(plain), *(config_hash(replace(plain, **change)) for change in changes)}) == 4
