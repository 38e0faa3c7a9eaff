"""Every statistic of closed trades once more, plainly, in exact fractions; for trades of which some win and some lose, on two days or more."""

from __future__ import annotations

import math
import statistics as plain
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

DAY = 86_400_000


def F(value: float) -> Fraction:
    return Fraction(value)


def root(value: Fraction) -> Fraction:
    with localcontext() as context:
        context.prec = 60
        return Fraction((Decimal(value.numerator) / Decimal(value.denominator)).sqrt())


def oracle(trades: list[dict[str, Any]], initial_balance: float, since: int, until: int) -> dict[str, Any]:
    """Return every statistic."""
    rows = sorted(trades, key=lambda row: (row["event_time"], row["trade_id"]))
    n, period, balance = len(rows), F(until - since), F(initial_balance)
    r = [F(row["net_r"]) for row in rows]
    money = [F(row["net_pnl"]) for row in rows]
    won = [row for row in rows if row["net_pnl"] > 0]
    lost = [row for row in rows if row["net_pnl"] < 0]

    def total(name: str, some: list[dict[str, Any]] = rows) -> Fraction:
        return sum((F(row[name]) for row in some), Fraction(0))

    profit, loss = total("net_pnl", won), total("net_pnl", lost)
    payoff = (profit / len(won)) / (-loss / len(lost))
    win_rate = Fraction(len(won), n)
    # 1.959963984540054: the 97.5th percentile of the normal distribution, from scipy. Wilson's bounds are the roots of (p - w)^2 = z^2 w (1 - w) / n.
    z = 1.959963984540054
    roots = np.roots([1 + z * z / n, -(2 * float(win_rate) + z * z / n), float(win_rate) ** 2])
    wilson = sorted(float(root) for root in roots.real)
    # The variance of w / mean(w) - l / mean(l) over all trades, whose mean is 0.
    gains, pains = [max(F(row["net_pnl"]), F(0)) for row in rows], [max(-F(row["net_pnl"]), F(0)) for row in rows]
    scaled = [gain * n / sum(gains) - pain * n / sum(pains) for gain, pain in zip(gains, pains, strict=True)]
    error = math.sqrt(sum(one**2 for one in scaled) / (n - 1) / n)
    factors = [float(profit / -loss) * math.exp(sign * z * error) for sign in (-1, 1)]
    mean_r = sum(r) / n
    deviation_r = root(sum((x - mean_r) ** 2 for x in r) / (n - 1))

    def moments(values: list[Fraction]) -> tuple[Fraction, Fraction]:
        centre = sum(values) / len(values)
        second, third, fourth = (sum((x - centre) ** k for x in values) / len(values) for k in (2, 3, 4))
        return third / (second * root(second)), fourth / second**2

    longest_win = longest_loss = wins_now = losses_now = 0
    for x in money:
        wins_now, losses_now = (wins_now + 1, 0) if x > 0 else (0, losses_now + 1)
        longest_win, longest_loss = max(longest_win, wins_now), max(longest_loss, losses_now)
    busy = 0
    intervals = sorted((row["entry_time"], row["event_time"]) for row in rows)
    marks = sorted({t for pair in intervals for t in pair})
    for low, high in pairwise(marks):
        if any(start <= low and high <= end for start, end in intervals):
            busy += high - low

    # Curves: every peak and trough by brute force over pairs.
    times = [since, *(row["event_time"] for row in rows)]

    def curve(start: Fraction, steps: list[Fraction]) -> list[Fraction]:
        out = [start]
        for step in steps:
            out.append(out[-1] + step)
        return out

    def episodes(values: list[Fraction]) -> list[tuple[int, int, int | None]]:
        """(last index of the peak, first index of the trough, index of the recovery)."""
        found, at = [], 0
        while at < len(values) - 1:
            if values[at + 1] >= values[at]:
                at += 1
                continue
            back = next((j for j in range(at + 1, len(values)) if values[j] >= values[at]), None)
            stretch = range(at + 1, len(values) if back is None else back)
            found.append((at, min(stretch, key=lambda j: (values[j], j)), back))
            if back is None:
                break
            at = back
        return found

    in_r, in_money = curve(Fraction(0), r), curve(balance, money)
    falls_r, falls_money = episodes(in_r), episodes(in_money)
    deep = max(falls_r, key=lambda e: (in_r[e[0]] - in_r[e[1]], -e[0]))
    deep_money = max(falls_money, key=lambda e: (in_money[e[0]] - in_money[e[1]], -e[0]))
    share = max(falls_money, key=lambda e: ((in_money[e[0]] - in_money[e[1]]) / in_money[e[0]], -e[0]))
    under, peak = 0, in_r[0]
    for j, value in enumerate(in_r):
        peak = max(peak, value)
        if value < peak:
            under += (times[j + 1] if j + 1 < len(times) else until) - times[j]

    # Days.
    first, last = since // DAY, until // DAY
    returns, equity = [], balance
    for day in range(first, last + 1):
        made = sum((F(row["net_pnl"]) for row in rows if row["event_time"] // DAY == day), Fraction(0))
        returns.append(made / equity)
        equity += made
    d = len(returns)
    mean = sum(returns) / d
    deviation = root(sum((x - mean) ** 2 for x in returns) / (d - 1))
    sharpe = mean / deviation
    year = root(Fraction(365))
    gains, pains = sum(x for x in returns if x > 0), -sum((x for x in returns if x < 0), Fraction(0))
    ordered = sorted(returns)

    def percentile(k: Fraction) -> Fraction:
        place = (d - 1) * k
        low = place.numerator // place.denominator
        high = min(low + 1, d - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    low5, high5 = percentile(Fraction(1, 20)), percentile(Fraction(19, 20))
    growth = Decimal(1)
    with localcontext() as context:
        context.prec = 50
        for x in returns:
            growth *= 1 + Decimal(x.numerator) / Decimal(x.denominator)
        growth = growth ** (Decimal(365) / Decimal(d)) - 1
    growth = Fraction(growth)
    level = top = Fraction(1)
    falls = []
    for x in returns:
        level *= 1 + x
        top = max(top, level)
        falls.append(1 - level / top)
    ulcer = root(sum(x * x for x in falls) / d)
    skew, kurtosis = moments(returns)
    spread = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    tail = abs(high5) / abs(low5)
    quantity = sum((F(row["entry_price"]) + F(row["exit_price"])) * F(row["quantity"]) for row in rows)
    gross = total("net_pnl") + total("fees") + total("funding")
    skew_r, kurtosis_r = moments(r)
    return {
        "trades": n, "wins": len(won), "losses": len(lost), "win_rate": win_rate,
        "win_rate_low": wilson[0], "win_rate_high": wilson[1], "profit_factor_low": factors[0], "profit_factor_high": factors[1],
        "long_share": Fraction(sum(row["direction"] == "LONG" for row in rows), n), "trades_per_day": n / (period / DAY),
        "longest_win_streak": longest_win, "longest_loss_streak": longest_loss, "net_r": sum(r), "net_pnl": sum(money),
        "net_return": 100 * sum(money) / balance, "gross_profit": profit, "gross_loss": loss, "best_trade_r": max(r), "worst_trade_r": min(r),
        "profit_factor": profit / -loss, "expectancy_r": mean_r, "expectancy_money": sum(money) / n, "average_win_r": total("net_r", won) / len(won),
        "average_loss_r": total("net_r", lost) / len(lost), "payoff": payoff, "break_even_win_rate": 1 / (1 + payoff),
        "kelly_fraction": win_rate - (1 - win_rate) / payoff, "sqn": root(Fraction(n)) * mean_r / deviation_r, "median_r": plain.median(r),
        "deviation_r": deviation_r, "skew_r": skew_r, "kurtosis_r": kurtosis_r - 3, "average_mfe_r": total("mfe_r") / n,
        "average_mae_r": total("mae_r") / n, "edge_ratio": total("mfe_r") / total("mae_r"), "winners_mae_r": total("mae_r", won) / len(won),
        "losers_mfe_r": total("mfe_r", lost) / len(lost), "exposure": busy / period, "average_hold_ms": total("hold_ms") / n,
        "median_hold_ms": plain.median(row["hold_ms"] for row in rows), "longest_hold_ms": max(row["hold_ms"] for row in rows),
        "gross_r": total("gross_r"), "fees_r": total("fee_r"), "funding_r": total("funding_r"), "slippage_r": total("slippage_r"),
        "fees": total("fees"), "funding": total("funding"),
        "slippage": sum(F(row["slippage_r"]) * F(row["risk_amount"]) * F(row["risk_multiple"]) for row in rows),
        "cost_per_trade_r": (total("fee_r") + total("funding_r") + total("slippage_r")) / n,
        "cost_share": (total("fees") + total("funding")) / gross if gross > 0 else None, "maker_ratio": total("maker_notional") / total("notional"),
        "traded_notional": quantity, "turnover": quantity / balance / (period / DAY),
        "max_drawdown_r": in_r[deep[0]] - in_r[deep[1]], "max_drawdown_r_peak": times[deep[0]], "max_drawdown_r_trough": times[deep[1]],
        "max_drawdown_r_recovered": None if deep[2] is None else times[deep[2]],
        "max_drawdown_money": in_money[deep_money[0]] - in_money[deep_money[1]],
        "max_drawdown_pct": 100 * (in_money[share[0]] - in_money[share[1]]) / in_money[share[0]], "max_drawdown_pct_peak": times[share[0]],
        "max_drawdown_pct_trough": times[share[1]], "max_drawdown_pct_recovered": None if share[2] is None else times[share[2]],
        "drawdowns": len(falls_r), "average_drawdown_r": sum(in_r[a] - in_r[b] for a, b, _ in falls_r) / len(falls_r),
        "longest_drawdown_ms": max((until if c is None else times[c]) - times[a] for a, _, c in falls_r),
        "drawdown_recovery_ms": max((times[c] - times[b] for _, b, c in falls_r if c is not None), default=None),
        "time_under_water": under / period, "recovery_factor": sum(money) / (in_money[deep_money[0]] - in_money[deep_money[1]]),
        "sharpe": sharpe * year, "sortino": mean / root(sum(min(x, Fraction(0)) ** 2 for x in returns) / d) * year if pains else None, "annual_growth": growth,
        "annual_volatility": deviation * year, "calmar": growth / max(falls) if pains else None, "omega": gains / pains if pains else None,
        "gain_to_pain": sum(returns) / pains if pains else None,
        "tail_ratio": tail, "common_sense_ratio": tail * gains / pains if pains else None, "ulcer_index": 100 * ulcer,
        "martin_ratio": growth / ulcer if pains else None,
        "value_at_risk_95": low5, "expected_shortfall_95": sum(x for x in returns if x <= low5) / sum(x <= low5 for x in returns),
        "skew_daily": skew, "kurtosis_daily": kurtosis - 3,
        "probabilistic_sharpe": (1 + math.erf(float(sharpe * root(Fraction(d - 1)) / root(spread)) / math.sqrt(2))) / 2,
        # 1.6448536269514722 is the 95th percentile of the normal distribution.
        "minimum_track_record_days": 1 + spread * (Fraction("1.6448536269514722") / sharpe) ** 2 if sharpe > 0 else None,
        "up_days": Fraction(sum(x > 0 for x in returns), d), "best_day": max(returns), "worst_day": min(returns),
    }  # fmt: skip
