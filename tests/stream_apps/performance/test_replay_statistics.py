"""Statistics of closed trades against a recomputation in exact arithmetic, against a library's figures, and at their edges."""

from __future__ import annotations

import math
import random
import statistics as plain
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from stream_apps.core.performance import BREAKDOWNS, STATISTICS, Ledger, breakdown, evaluate, reason_of
from stream_apps.core.performance.intervals import profit_factor_bounds, wilson
from stream_apps.core.performance.registry import GROUPS, statistic
from tests.support.trading.statistics_oracle import oracle

DAY = 86_400_000
SINCE = 20_000 * DAY + 7_000_000  # Friday 2024-10-04 (1970-01-01 was a Thursday, and 20,000 = 1 mod 7), in the second hour
UNITS = {"count", "fraction", "%", "R", "money", "ms", "ms UTC", "ratio", "1/day"}


def trade(number: int, entry: int, hold: int, net_r: float, **more: Any) -> dict[str, Any]:
    risk = 200.0
    row = {
        "trade_id": f"t{number:04d}", "instrument": "BINANCE:LTCUSDT", "entry_time": entry, "event_time": entry + hold, "hold_ms": hold,
        "direction": "LONG", "tier": "standard", "regime": "range", "exit_reason": "stop", "net_r": net_r, "net_pnl": net_r * risk,
        "gross_r": net_r + 0.25, "fee_r": 0.2, "funding_r": 0.05, "slippage_r": 0.03, "fees": 40.0, "funding": 10.0, "risk_amount": risk,
        "risk_multiple": 1.0, "mfe_r": max(net_r, 0.0) + 0.5, "mae_r": max(-net_r, 0.0) + 0.25, "entry_price": 100.0, "exit_price": 101.0,
        "quantity": 3.0, "notional": 603.0, "maker_notional": 150.0,
    }  # fmt: skip
    return {**row, **more}


def made_up(seed: int, count: int, days: int = 40) -> Ledger:
    source = random.Random(seed)
    rows = []
    for number in range(count):
        entry = SINCE + source.randrange((days - 1) * DAY)
        multiple = source.choice([0.5, 1.0, 1.5])
        net_r = source.choice([round(source.gauss(0.05, 1.1), 4), -1.0, 0.0])
        fee_r, funding_r, slippage_r = round(source.random() / 4, 4), round(source.uniform(-0.02, 0.02), 4), round(source.random() / 20, 4)
        rows.append(trade(
            number, entry, source.randrange(1, 14_400_000), net_r, risk_multiple=multiple, net_pnl=net_r * 200.0 * multiple, fee_r=fee_r,
            funding_r=funding_r, slippage_r=slippage_r, gross_r=net_r + fee_r + funding_r, fees=fee_r * 200 * multiple, funding=funding_r * 200 * multiple,
            direction=source.choice(["LONG", "SHORT"]), tier=source.choice(["light", "standard", "heavy"]), regime=source.choice(["range", "trend"]),
            exit_reason=source.choice(["stop", "tp2", "timeout"]), mfe_r=round(source.random() * 2, 4), mae_r=round(source.random(), 4),
            entry_price=round(source.uniform(80, 90), 2), exit_price=round(source.uniform(80, 90), 4), quantity=round(source.uniform(1, 500), 3),
            notional=round(source.uniform(1e3, 1e5), 2), maker_notional=round(source.uniform(0, 1e3), 2),
        ))  # fmt: skip
    source.shuffle(rows)
    return Ledger.of(rows, 100_000.0, SINCE, SINCE + days * DAY)


@pytest.mark.parametrize(("seed", "count"), [(1, 60), (2, 90), (3, 250), (4, 120), (5, 31)])
def test_every_statistic_equals_its_recomputation_in_exact_fractions(seed: int, count: int) -> None:
    ledger = made_up(seed, count)
    found, wanted = evaluate(ledger), oracle(list(ledger.trades), ledger.initial_balance, ledger.since, ledger.until)
    assert found.keys() == wanted.keys() == STATISTICS.keys()
    for name, value in wanted.items():
        if value is None:
            assert found[name] is None, name
        elif STATISTICS[name].unit in ("count", "ms UTC") and name != "minimum_track_record_days":
            assert found[name] == value, name
        else:
            assert found[name] == pytest.approx(float(value), rel=1e-9, abs=1e-12), name


# Figures of empyrical-reloaded 0.7.1, quantstats 0.0.86 and scipy 1.17.1 for the returns of ``LIBRARY``; the ulcer index of quantstats divides by n - 1.
LIBRARY = {
    "sharpe": -1.1995463314585024, "sortino": -1.6591123658118414, "annual_growth": -0.4003266492584583, "annual_volatility": 0.36946391457382827,
    "calmar": -1.8365869133272041, "omega": 0.8423748597713285, "tail_ratio": 1.2515748880739923, "value_at_risk_95": -0.022715899999999997,
    "expected_shortfall_95": -0.043592166666666675, "max_drawdown_pct": 21.797315790147775, "ulcer_index": 13.004805445916237 * math.sqrt(119 / 120),
    "gain_to_pain": -0.15762514022867144, "common_sense_ratio": 1.0542952208346459, "skew_daily": 0.012273200691892246,
    "kurtosis_daily": 2.853594343118383, "best_day": 0.06, "worst_day": -0.08,
}  # fmt: skip


def test_daily_statistics_equal_the_figures_of_libraries() -> None:
    source = random.Random(20261122)
    returns = [round(source.gauss(0.001, 0.02), 6) for _ in range(120)]
    returns[7], returns[50], returns[51] = 0.0, -0.08, 0.06
    rows, equity = [], 10_000.0
    for day, value in enumerate(returns):
        rows.append(trade(day, day * DAY + 1, 1000, 0.0, net_pnl=equity * value))
        equity += equity * value
    found = evaluate(Ledger.of(rows, 10_000.0, 0, 120 * DAY - 1))
    for name, value in LIBRARY.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name


def test_four_trades_by_hand() -> None:
    hour = 3_600_000
    rows = [
        trade(1, SINCE, hour, 2.0),
        trade(2, SINCE + 2 * hour, hour, -1.0, direction="SHORT"),
        trade(3, SINCE + DAY, hour, -0.5, exit_reason="timeout"),
        trade(4, SINCE + DAY + hour // 2, hour, 1.5, exit_reason="tp2"),
    ]
    found = evaluate(Ledger.of(rows, 10_000.0, SINCE, SINCE + 2 * DAY))
    expected = {
        "net_r": 2.0, "net_pnl": 400.0, "win_rate": 0.5, "profit_factor": 700 / 300, "payoff": 350 / 150, "expectancy_r": 0.5,
        "max_drawdown_r": 1.5, "max_drawdown_r_peak": SINCE + hour, "max_drawdown_r_trough": SINCE + DAY + hour,
        "max_drawdown_r_recovered": SINCE + DAY + 3 * hour // 2, "max_drawdown_money": 300.0, "max_drawdown_pct": 100 * 300 / 10_400,
        "exposure": (1 + 1 + 1.5) / 48, "average_hold_ms": hour, "longest_loss_streak": 2, "longest_win_streak": 1, "fees": 160.0,
        "cost_per_trade_r": 0.28, "gross_r": 3.0, "drawdown_recovery_ms": hour // 2, "longest_drawdown_ms": DAY + hour // 2,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    # Three days: a ratio of three returns says nothing.
    ledger = Ledger.of(rows, 10_000.0, SINCE, SINCE + 2 * DAY)
    assert found["sharpe"] is None and reason_of("sharpe", ledger) == "too few daily returns: 3 of 20"
    # Day 1: +200 on 10,000; day 2: +200 on 10,200; then nothing until the twentieth day.
    found = evaluate(Ledger.of(rows, 10_000.0, SINCE, SINCE + 19 * DAY))
    returns = [0.02, 200 / 10_200, *([0.0] * 18)]
    assert found["sharpe"] == pytest.approx(plain.mean(returns) / plain.stdev(returns) * math.sqrt(365))
    assert evaluate(Ledger.of(rows, 10_000.0, SINCE, SINCE + 18 * DAY))["sharpe"] is None
    assert found["sortino"] is None and found["omega"] is None  # no day lost: undefined, not infinite and not zero


def test_undefined_is_none_and_sums_of_nothing_are_zero() -> None:
    found = evaluate(Ledger.of([], 10_000.0, SINCE, SINCE + DAY))
    assert {name for name, value in found.items() if value is not None} == {
        "trades", "wins", "losses", "net_r", "net_pnl", "net_return", "gross_profit", "gross_loss", "gross_r", "fees_r", "funding_r", "slippage_r",
        "fees", "funding", "slippage", "traded_notional", "turnover", "trades_per_day",
    }  # fmt: skip
    assert all(found[name] == 0 for name in found if found[name] is not None)
    same = [trade(n, SINCE + n * DAY, 1000, 0.1) for n in range(3)]
    one = evaluate(Ledger.of(same, 10_000.0, SINCE, SINCE + 3 * DAY))
    # No loss and no spread: what divides by them is undefined, also where rounding leaves a spread of 1e-17.
    for name in ("profit_factor", "payoff", "sqn", "skew_r", "kurtosis_r", "recovery_factor", "sortino", "omega", "calmar"):
        assert one[name] is None, name
    assert one["max_drawdown_r"] == 0 and one["max_drawdown_r_peak"] is None and one["drawdowns"] == 0
    unknown = evaluate(Ledger.of([{**same[0], "maker_notional": None}, same[1]], 10_000.0, SINCE, SINCE + 3 * DAY))
    assert unknown["maker_ratio"] is None and one["maker_ratio"] == pytest.approx(150 / 603)
    ruined = evaluate(Ledger.of([trade(1, SINCE, 1, -60.0), trade(2, SINCE + DAY, 1, 1.0)], 10_000.0, SINCE, SINCE + 2 * DAY))
    assert ruined["sharpe"] is None and ruined["net_pnl"] == -11_800 and ruined["max_drawdown_pct"] == 120
    instant = evaluate(Ledger.of([], 10_000.0, SINCE, SINCE))
    assert instant["exposure"] is None and instant["turnover"] is None


@given(st.lists(st.tuples(st.integers(0, 30 * DAY), st.integers(0, DAY), st.floats(-3, 3)), max_size=40), st.randoms())
def test_properties(made: list[tuple[int, int, float]], source: random.Random) -> None:
    rows = [trade(n, SINCE + at, hold, net) for n, (at, hold, net) in enumerate(made)]
    found = evaluate(Ledger.of(rows, 10_000.0, SINCE, SINCE + 32 * DAY))
    source.shuffle(rows)
    assert evaluate(Ledger.of(rows, 10_000.0, SINCE, SINCE + 32 * DAY)) == found
    assert all(value is None or math.isfinite(value) for value in found.values())
    for name in ("win_rate", "exposure", "time_under_water", "probabilistic_sharpe", "up_days", "maker_ratio", "break_even_win_rate"):
        assert found[name] is None or 0 <= found[name] <= 1 + 1e-12, name
    for name in BREAKDOWNS:
        groups = breakdown(rows, name)
        assert sum(group["trades"] for group in groups) == len(rows)
        assert math.fsum(group["net_pnl"] for group in groups) == pytest.approx(found["net_pnl"], abs=1e-6)


def test_what_is_undefined_says_why() -> None:
    none = Ledger.of([], 10_000.0, SINCE, SINCE + DAY)
    won = Ledger.of([trade(1, SINCE, 10, 1.0)], 10_000.0, SINCE, SINCE + 30 * DAY)
    ruined = Ledger.of([trade(1, SINCE, 1, -60.0)], 10_000.0, SINCE, SINCE + 30 * DAY)
    assert reason_of("win_rate", none) == "no closed trades" and reason_of("profit_factor", won) == "no losing trade"
    assert reason_of("profit_factor_low", ruined) == "no winning trade" and reason_of("sharpe", ruined) == "the equity was used up"
    for ledger in (none, won, ruined):
        assert all(reason_of(name, ledger) for name, value in evaluate(ledger).items() if value is None)


def test_intervals_are_those_of_the_libraries_and_hold_the_truth_as_often_as_they_say() -> None:
    """Wilson against statsmodels; the profit factor's coverage against markets whose true factor is known."""
    for wins, trades in ((0, 1), (1, 1), (7, 10), (50, 99), (3, 400)):
        low, high = proportion_confint(wins, trades, 0.05, "wilson")
        assert wilson(wins, trades) == (pytest.approx(max(low, 0.0), abs=1e-12), pytest.approx(min(high, 1.0)))
    source = np.random.default_rng(7)
    # Wins are 1.5 on the mean with probability 0.45, losses 1 with 0.55: a true factor of 0.675 / 0.55.
    truth, held = 0.45 * 1.5 / 0.55, 0
    for _ in range(1_000):
        won = source.random(80) < 0.45
        low, high = profit_factor_bounds(np.where(won, source.exponential(1.5, 80), -source.exponential(1.0, 80)).tolist())
        held += low is not None and high is not None and low <= truth <= high
    assert 920 <= held <= 980, held


def test_breakdowns_by_hand() -> None:
    rows = [
        trade(1, SINCE, 10, 1.0), trade(2, SINCE + DAY, 10, -1.0, direction="SHORT", tier="heavy", exit_reason="tp2"),
        trade(3, SINCE + 4 * DAY + 3_600_000, 30, 0.5, tier="light", regime="trend"),
    ]  # fmt: skip
    assert [group["group"] for group in breakdown(rows, "tier")] == ["light", "standard", "heavy"]
    assert [group["group"] for group in breakdown(rows, "weekday")] == ["Tuesday", "Friday", "Saturday"]
    assert [(group["group"], group["trades"]) for group in breakdown(rows, "hour")] == [("01", 2), ("02", 1)]
    (stop, tp2) = breakdown(rows, "exit_reason")
    assert stop == {
        "group": "stop", "trades": 2, "win_rate": 1.0, "net_r": 1.5, "expectancy_r": 0.75, "profit_factor": None, "net_pnl": 300.0, "fees": 80.0,
        "funding": 20.0, "slippage": 12.0, "average_hold_ms": 20.0,
        "win_rate_low": pytest.approx(0.3423802275), "win_rate_high": 1.0, "profit_factor_low": None, "profit_factor_high": None,
    }  # fmt: skip
    assert tp2["group"] == "tp2" and tp2["win_rate"] == 0.0 and tp2["profit_factor"] == 0.0
    with pytest.raises(KeyError):
        breakdown(rows, "moon")


def test_every_statistic_says_what_it_is() -> None:
    assert len(STATISTICS) >= 26 + 15
    for one in STATISTICS.values():
        assert one.unit in UNITS and one.group in GROUPS and len(one.meaning) > 10, one.name
    with pytest.raises(ValueError, match="sharpe"):

        @statistic("Result", "R")
        def sharpe(ledger: Ledger) -> float:
            """Twice."""
            return 0.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"balance": 0.0}, "initial_balance"),
        ({"until": SINCE - 1}, "until"),
        ({"since": SINCE + 5}, "t0001"),
        ({"until": SINCE + 5}, "t0001"),
    ],
)
def test_a_ledger_refuses_what_cannot_be(change: dict[str, Any], named: str) -> None:
    settings = {"balance": 10_000.0, "since": SINCE, "until": SINCE + DAY, **change}
    with pytest.raises(ValueError, match=named):
        Ledger.of([trade(1, SINCE, 10, 1.0)], settings["balance"], settings["since"], settings["until"])


@pytest.mark.parametrize("failure", [ValueError, ZeroDivisionError, OverflowError])
def test_a_statistic_without_a_value_is_undefined_with_a_reason(failure: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """A root of a negative number or a fit without spread raises ValueError: it is no error of the whole report."""
    ledger = made_up(1, 60)

    def fails(of: Ledger) -> float:
        raise failure("math domain error")

    monkeypatch.setitem(STATISTICS, "payoff", replace(STATISTICS["payoff"], function=fails))
    found = evaluate(ledger)
    assert found["payoff"] is None and found["win_rate"] is not None
    assert reason_of("payoff", ledger) == "not defined for these trades"
