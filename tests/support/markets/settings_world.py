"""A made-up market whose settings change, and its features recomputed in plain Python under the settings of each instant."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from schemas.catalogue import schema
from stream_apps.core.log.engine_settings import SettingsRevision
from stream_apps.core.signals.strategy import StrategyConfig
from tests.support.markets import logs

GRID = 15_000
START = 1_750_000_005_000 // 3_600_000 * 3_600_000
PERP = "BINANCE:BTCUSDT-PERP"
DEFAULTS: dict[str, float] = {
    "stale_book_ms": 5_000, "stale_funding_ms": 600_000, "stale_indicator_ms": 900_000, "oi_horizon_ms": 900_000, "whale_usd": 100_000.0,
    "quantile_min_trades": 100, "quantile_history_ms": 0, "atr_percentile_min": 10, "regime_crash": 0.012, "regime_high_vol": 0.008, "regime_trend": 0.02,
    "funding_window_ms": 604_800_000, "funding_min": 10,
}  # fmt: skip
FLOOR = 10.0  # BTC


def record(topic: str, **values: Any) -> dict[str, Any]:
    """A record with plain values where none are given."""
    plain: dict[str, Any] = {"string": "", "long": 0, "int": 0, "double": 1.0, "boolean": False}
    made: dict[str, Any] = {}
    for one in schema(topic)["fields"]:
        kind = one["type"]
        if isinstance(kind, dict):
            made[one["name"]] = [1.0] if kind["type"] == "array" else {} if kind["type"] == "map" else plain[kind["type"]]
        else:
            made[one["name"]] = None if isinstance(kind, list) else plain[kind]
    return {**made, "instrument": PERP, **values}


def revision(number: int, instrument: str = "", effective_time: int = 0, engine: str = "signals", **values: float) -> SettingsRevision:
    return SettingsRevision(
        engine=engine, revision=number, values=values, instrument=instrument, event_time=number, receive_time=number,
        effective_time=effective_time, edited_by="test",
    )  # fmt: skip


@dataclass
class World:
    """The market: every instant has trades and some of the slow inputs; ``write`` puts a revision before the next instant's mark."""

    seed: int
    log: logs.Log = field(default_factory=logs.Log)
    number: int = 0
    trades: list[tuple[int, float, float, bool]] = field(default_factory=list)
    inputs: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    revisions: list[tuple[int, SettingsRevision]] = field(default_factory=list)  # known from that instant on

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.log.instrument(PERP, price_decimals=1, quantity_decimals=0)
        config = StrategyConfig(
            strategy_id="a", instrument=PERP, display_name="a", event_time=1, receive_time=1, cvd_fast_window="5m", cvd_slow_window="30m"
        )
        self.log.strategy(config.to_record())

    def write(self, *revisions: SettingsRevision) -> None:
        for one in revisions:
            self.log.append("engine_settings", one.to_record(), key=one.settings_id)
            self.log.mark(START, "engine_settings", "", {"engine_settings": len(self.log.topics["engine_settings"])})
            self.revisions.append((self.number + 1, one))

    def go(self, instants: int) -> None:
        chance = self.random
        for _ in range(instants):
            self.number += 1
            end = START + self.number * GRID
            for time in sorted(chance.randrange(end - GRID + 1, end + 1) for _ in range(chance.randrange(1, 9))):
                price, quantity, maker = (
                    20_000.0 + chance.randrange(-400, 400) / 10,
                    float(chance.choice((1, 2, 5, 7, 20, 40))),
                    chance.random() < 0.4,
                )
                self.trades.append((time, price, quantity, maker))
                self.log.trade(time, len(self.trades), price, quantity, maker, PERP)
            if chance.random() < 0.7:
                self.input(
                    "quotes",
                    self.within(end),
                    {"bid_price": 19_999.0 + self.number, "ask_price": 20_001.0 + self.number, "update_id": self.number},
                )
            if chance.random() < 0.7:
                bids, asks = [float(chance.randrange(1, 9)) for _ in range(12)], [float(chance.randrange(1, 9)) for _ in range(12)]
                prices = [100.0 + n for n in range(12)]
                self.input(
                    "depth", self.within(end),
                    {"bid_prices": prices[::-1], "ask_prices": prices, "bid_quantities": bids, "ask_quantities": asks, "state": "live", "epoch": 1,
                     "last_update_id": self.number},
                )  # fmt: skip
            if chance.random() < 0.05:
                self.input(
                    "funding", self.within(end), {"estimated_rate": chance.randrange(-99, 99) / 1e6, "mark_price": 20_000.0 + self.number}
                )
            for name in ("open_interest", "long_short_ratio"):
                if chance.random() < 0.02:
                    self.input("market_indicators", self.within(end), {"indicator": name, "value": chance.randrange(500, 1_500) / 1.0})
            self.log.mark(end + 250, "test", "BINANCE")

    def within(self, end: int) -> int:
        """A time within the grid step that ends at a time."""
        return self.random.randrange(end - GRID + 1, end + 1)

    def input(self, topic: str, time: int, values: dict[str, Any]) -> None:
        self.log.append(topic, record(topic, event_time=time, receive_time=time, **values), key=PERP)
        self.inputs.setdefault(values.get("indicator", topic), []).append((time, values))

    # --- the oracle --------------------------------------------------------------------------------------------------
    def held(self, number: int) -> tuple[int, dict[str, float], float]:
        """Revision, numbers and floor of an instant, by reading all revisions from the beginning. Numbers of the instrument replace the engine's."""
        time, best = START + number * GRID, 0
        known = [one for known_from, one in self.revisions if known_from <= number and one.engine == "signals"]
        for place, one in enumerate(known):
            if one.effective_time <= time:
                best = place + 1
        values, floor, own = dict(DEFAULTS), FLOOR, dict[str, float]()
        for one in known[:best]:
            if one.instrument:
                if one.instrument == PERP:
                    floor = one.values.get("p99_floor", FLOOR)
                    own = {"quantile_history_ms": one.values["own_quantile_history_ms"]} if "own_quantile_history_ms" in one.values else {}
            else:
                values = {**DEFAULTS, **one.values}
        return (known[best - 1].revision if best else 0), {**values, **own}, floor

    def newest(self, name: str, time: int, limit: float) -> tuple[str, Any]:
        """State and newest value of an input."""
        seen = sorted((one for one in self.inputs.get(name, ()) if one[0] <= time), key=lambda one: one[0])
        if not seen:
            return "missing", None
        return ("present", seen[-1][1]) if time - seen[-1][0] <= limit else ("stale", None)

    def features(self, number: int) -> dict[str, Any]:
        """What the settings decide of the features of an instant."""
        time = START + number * GRID
        _, values, floor = self.held(number)
        states: dict[str, str] = {}
        states["quotes"], quote = self.newest("quotes", time, values["stale_book_ms"])
        states["obi"], book = self.newest("depth", time, values["stale_book_ms"])
        states["mark_price"], mark = self.newest("funding", time, values["stale_book_ms"])
        states["estimated_funding_rate"], funding = self.newest("funding", time, values["stale_funding_ms"])
        states["open_interest_change"], interest = self.newest("open_interest", time, values["stale_indicator_ms"])
        states["long_short_ratio"], ratio = self.newest("long_short_ratio", time, values["stale_indicator_ms"])
        change = None
        if interest is not None:
            states["open_interest_change"], before = self.newest(
                "open_interest", time - int(values["oi_horizon_ms"]), values["stale_indicator_ms"]
            )
            change = None if before is None else (interest["value"] - before["value"]) / before["value"]
        done = self.trades[: bisect_right([trade[0] for trade in self.trades], time)]
        sizes = sorted(trade[2] for trade in done)
        enough = len(sizes) >= values["quantile_min_trades"]
        # Known are the whole grid steps from that of the first trade on.
        known = time - (self.trades[0][0] - 1) // GRID * GRID
        states["quantity_p99"] = "present" if enough and known >= values["quantile_history_ms"] else "missing"
        whales = [(price * size, maker) for at, price, size, maker in done if at > time - 900_000 and price * size >= values["whale_usd"]]
        total, buys = sum(money for money, _ in whales), sum(money for money, maker in whales if not maker)
        bids, asks = (sum(book[f"{side}_quantities"][:10]) for side in ("bid", "ask")) if book else (0, 0)
        return {
            "best_bid": quote and quote["bid_price"],
            "mark_price": mark and mark["mark_price"],
            "obi": (bids - asks) / (bids + asks) if book else None,
            "estimated_funding_rate": funding and funding["estimated_rate"],
            "open_interest": interest and interest["value"],
            "open_interest_change": change,
            "long_short_ratio": ratio and ratio["value"],
            "trade_quantity_p95": max(sizes[len(sizes) * 95 // 100], floor / 2) if enough else None,
            "trade_quantity_p99": max(sizes[len(sizes) * 99 // 100], floor) if enough else None,
            "whale_flow": (2 * buys - total) / total if whales else None,
            "missing": {name for name, state in states.items() if state == "missing"},
            "stale": {name for name, state in states.items() if state == "stale"},
            "judged": set(states),
        }

    def regime(self, number: int, score: dict[str, Any], feature: dict[str, Any]) -> str:
        """The regime label of a score, of the features and the settings of its instant."""
        _, values, _ = self.held(number)
        if feature["atr"] is None or feature["cvd_30m"] is None or "quantity_p99" in self.features(number)["missing"]:
            return "unknown"
        share = feature["atr"] / feature["price"]
        if share >= values["regime_crash"]:
            return "crash"
        if share >= values["regime_high_vol"]:
            return "high_vol"
        agree = feature["cvd_5m"] * feature["cvd_30m"] > 0
        pressed = abs(feature["acceleration_5m"]) > values["regime_trend"] * feature["volume_5m"]
        return "trend" if agree and pressed else "range"


def same(found: Any, expected: Any) -> bool:
    return found == expected or (found is not None and expected is not None and math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-14))


def own_numbers(chance: random.Random) -> dict[str, float]:
    """Numbers of an instrument of its own, or none."""
    choices = {"p99_floor": (1.0, 7.0, 30.0), "own_quantile_history_ms": (0.0, 1_200_000.0, 5_400_000.0)}
    return {name: chance.choice(numbers) for name, numbers in choices.items() if chance.random() < 0.7}


def random_world(seed: int, instants: int = 420, edits: int = 12) -> World:
    """A market of 105 minutes with edits at random instants, some of them for a later instant."""
    world, chance = World(seed), random.Random(seed + 1_000)
    number = 0
    for edit in range(edits):
        world.go(chance.randrange(1, 2 * instants // edits))
        number += chance.choice((1, 1, 3))
        later = START + (world.number + chance.randrange(1, 40)) * GRID + chance.choice((0, 1, -1)) if chance.random() < 0.5 else 0
        if edit == 3:  # every market has instants whose quantiles have a value but too short a history
            world.write(revision(number, PERP, own_quantile_history_ms=5_400_000.0))
            continue
        if chance.random() < 0.3:
            world.write(revision(number, PERP, later, **own_numbers(chance)))
            continue
        choices: dict[str, tuple[float, ...]] = {
            "stale_book_ms": (1_000, 12_000, 60_000), "stale_funding_ms": (60_000, 1_800_000), "stale_indicator_ms": (300_000, 1_800_000),
            "oi_horizon_ms": (300_000, 1_800_000), "whale_usd": (1_000.0, 130_000.0, 500_000.0), "quantile_min_trades": (1, 700),
            "quantile_history_ms": (600_000, 2_400_000, 3_600_000),
            "atr_percentile_min": (1, 5), "regime_high_vol": (0.0001, 0.01), "regime_crash": (0.011, 0.5), "regime_trend": (0.0, 0.5),
        }  # fmt: skip
        chosen = chance.sample(sorted(choices), chance.randrange(0, 6))
        world.write(revision(number, "", later, **{name: chance.choice(choices[name]) for name in chosen}))
    world.go(30)
    return world
