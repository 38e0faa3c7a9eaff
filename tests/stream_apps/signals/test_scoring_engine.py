"""Every model through the engine: what must not matter does not, and nothing knows the future."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from stream_apps.core.log.mark_lookahead import Steps
from stream_apps.core.log.outputs import OutputRecord
from stream_apps.core.log.steps import DECIDED, PANE
from stream_apps.core.market.analytics.store import FEATURES as ANALYTICS
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.signals import engine as engine_module
from stream_apps.core.signals.engine import SignalsEngine
from stream_apps.core.signals.instant_kernel import InstantOutputs
from stream_apps.core.signals.scoring import MODELS, StrategyMemory, evaluate
from stream_apps.core.signals.scoring.batch import Market
from tests.support.markets.logs import CODEC, Log, decoded, run
from tests.support.markets.scoring_cases import of_model
from tests.support.markets.scoring_rows import snapshot_of

NAME = "BINANCE:LTCUSDT-PERP"
GRID = 60_000
START = 1_749_945_600_000  # a midnight
PANES = 330
LATENESS = 250
CONFIG = EngineConfig(grid_ms=GRID, lateness_ms=LATENESS, quantile_history_ms=0)


@dataclass(frozen=True)
class Event:
    """One record: topic, time, its values, and the time at which it reaches the log."""

    topic: str
    time: int
    values: dict[str, Any]
    arrival: int


def market() -> list[Event]:
    """Five and a half hours of every input, times all different; a random walk whose flow turns now and then."""
    source = random.Random(20)
    found: list[Event] = []
    price, lean = 10_000, 0.5
    for pane in range(PANES):
        begin = START + pane * GRID
        if pane % 25 == 0:
            lean = source.choice((0.25, 0.75))
        # Sizes are powers of two of at least 256 lots: the quantile's buckets then scale exactly.
        times = sorted(source.sample(range(1, GRID), 7)) + [GRID, GRID + 1 + source.randrange(LATENESS)][: source.randint(0, 2)]
        for time in times:
            price = min(10_400, max(9_600, price + source.randint(-25, 25)))
            size = source.choices((256, 512, 1024, 65_536), (50, 30, 19, 1))[0]
            values = {"price": price / 100, "quantity": size / 1000, "buyer_is_maker": source.random() > lean}
            found.append(Event("agg_trades", begin + time, values, begin + time))
        slow = {
            "depth": {"bid": source.randint(1, 9), "ask": source.randint(1, 9)},
            "funding": {"rate": source.randint(-4, 4) / 10_000},
            "long_short_ratio": {"value": source.choice((0.25, 0.5, 0.625, 1.0, 1.6, 2.0, 4.0))},
            "top_trader_long_share": {"value": source.choice((0.25, 0.5, 0.75))},
            "coinbase_premium": {"value": source.choice((-0.001, 0.0, 0.001))},
            "open_interest": {"value": 1_000.0 + source.randint(-60, 60)},
            "liquidations": {"side": source.choice(("LONG", "SHORT")), "quantity": float(source.randint(1, 4))},
        }
        for topic, values in slow.items():
            if source.random() < (1.0 if topic == "depth" else 0.4):
                time = begin + GRID - source.randint(-LATENESS, 3_000)  # some just after T, before the mark that fires it
                found.append(Event(topic, time, values, time))
    # No two of a topic at the same time: equal stamps are told apart by their offset, and a shuffle would move it.
    seen: set[tuple[str, int]] = set()
    return [event for event in found if not ((event.topic, event.time) in seen or seen.add((event.topic, event.time)))]  # type: ignore[func-returns-value]


def written(events: list[Event], strategies: dict[str, Any] | None = None, price_decimals: int = 2) -> Log:
    """A log of the events in order of arrival, with a mark a pane, and a strategy of each model."""
    log = Log(grid=GRID, lateness=LATENESS)
    log.instrument(NAME, price_decimals=price_decimals)
    for name in MODELS:
        least = 40.0 if name == "v50_rules" else 60.0
        config = of_model(
            name, strategy_id=name, instrument=NAME, entry_score=least, flip_threshold=least + 15.0, **(strategies or {}),
        )  # fmt: skip
        log.strategy({**config.to_record(), "event_time": 1, "receive_time": 1})
    ids = {event.time: n for n, event in enumerate(sorted((e for e in events if e.topic == "agg_trades"), key=lambda e: e.time))}
    due = events[0].time // GRID * GRID + LATENESS
    for event in sorted(events, key=lambda e: e.arrival):
        while event.arrival > due:
            log.mark(due)
            due += GRID
        append(log, event, ids)
    for _ in range(2):
        log.mark(due)
        due += GRID
    return log


def append(log: Log, event: Event, ids: dict[int, int]) -> None:
    """Write one event as its topic's record."""
    time, values = event.time, event.values
    base = {"instrument": NAME, "event_time": time, "receive_time": time}
    if event.topic == "agg_trades":
        log.trade(time, ids[time], values["price"], values["quantity"], values["buyer_is_maker"], NAME)
    elif event.topic == "depth":
        book = {
            "bid_prices": [99.0],
            "bid_quantities": [float(values["bid"])],
            "ask_prices": [101.0],
            "ask_quantities": [float(values["ask"])],
        }
        log.append("depth", {**base, "epoch": 1, "state": "live", "last_update_id": time, **book})
    elif event.topic == "funding":
        none = dict.fromkeys(("mark_price", "index_price", "estimated_settle_price", "settled_rate", "next_funding_time", "interval_hours"))
        log.append("funding", {**base, **none, "estimated_rate": values["rate"]})
    elif event.topic == "liquidations":
        none = {"average_price": None, "filled_quantity": None, "sampling_cap_ms": None}
        log.append("liquidations", {**base, **none, "side": values["side"], "price": 100.0, "quantity": values["quantity"]})
    else:
        log.append("market_indicators", {**base, "indicator": event.topic, "value": values["value"]})


def results(outputs: list[OutputRecord], *topics: str) -> dict[str, list[dict[str, Any]]]:
    """The decoded records of some topics."""
    return {topic: [CODEC.decode(topic, o.value) for o in outputs if o.topic == topic] for topic in topics}


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return market()


@pytest.fixture(scope="module")
def plain(events: list[Event]) -> dict[str, list[dict[str, Any]]]:
    return results(run(written(events), CONFIG)[0], "features", "scores", "signals", "bars", "dead_letters")


def test_the_market_is_one_in_which_every_model_decides(plain: dict[str, list[dict[str, Any]]]) -> None:
    """Otherwise the other tests would prove nothing."""
    assert plain["dead_letters"] == []
    assert len(plain["scores"]) == len(MODELS) * len(plain["features"])
    for model in MODELS:
        mine = [score for score in plain["scores"] if score["strategy_id"] == model]
        assert {score["lean"] for score in mine} >= {"LONG", "SHORT"}, model
        assert sum(score["warm"] for score in mine) >= 80
        verdicts = {score["verdict"] for score in mine}
        assert verdicts & {"entry", "entry+flip"}, (model, verdicts)
        assert len({score["ungated_score"] for score in mine}) > 5
    assert any(signal["flip"] for signal in plain["signals"])
    last = plain["features"][-1]
    # The 24 h windows are longer than the log, quotes and mark price are not in it; everything else that a model reads is known.
    unknown = {name for score in plain["scores"][-len(MODELS) :] for name in score["missing_inputs"]}
    assert unknown <= {
        "obi",
        "volume_24h",
        "open_interest_change",
        "long_short_ratio",
        "top_trader_long_share",
        "coinbase_premium",
        "estimated_funding_rate",
    }
    assert last["liquidated_long_5m"] is not None and last["atr_percentile_low"] is not None and last["funding_rate_max"] is not None


def test_the_scores_of_the_engine_are_those_of_the_plain_scorer(events: list[Event], plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One instant at a time, because what was there at it is gone after the next; that more at once give the same is test_instants' to say."""
    compiled, memories, scores = SignalsEngine._emit, dict[str, StrategyMemory](), 0

    def both(self: SignalsEngine, steps: Steps, found: InstantOutputs, outputs: list[OutputRecord]) -> None:
        nonlocal scores
        first = len(outputs)
        compiled(self, steps, found, outputs)
        assert len(steps.table) == 1
        written = [o.value for o in outputs[first:] if o.topic == "scores"]
        signals = [CODEC.decode("signals", o.value) for o in outputs[first:] if o.topic == "signals"]
        instant, now = int(steps.table[0, PANE]) * GRID, int(steps.table[0, DECIDED])
        market = Market(found.features, found.states, found.counts, found.prints, self.state.kept, found.instruments, instant, now)
        for (place, row), one in zip(found.asked[: len(written)].tolist(), written, strict=True):
            config, hash_ = self._batch().strategies[place]
            before = memories.get(config.strategy_id, StrategyMemory())
            score, signal, memories[config.strategy_id] = evaluate(snapshot_of(market, row, config.instrument), config, hash_, before)
            assert one == CODEC.encode("scores", score) and (
                signal is None or CODEC.decode("signals", CODEC.encode("signals", signal)) == signals.pop(0)
            )
            scores += 1
        assert signals == []

    monkeypatch.setattr(SignalsEngine, "_emit", both)
    monkeypatch.setattr(engine_module, "_MOST_STEPS", 1)
    assert results(run(written(events), CONFIG)[0], "scores")["scores"] == plain["scores"]
    assert scores == len(plain["scores"]) > 1000


def changed(event: Event, **values: Any) -> Event:
    return replace(event, values={**event.values, **values})


def mirror(event: Event, rest_rate: float) -> Event:
    """Buyers and sellers exchanged, prices mirrored at 100."""
    v = event.values
    if event.topic == "agg_trades":
        return changed(event, price=(20_000 - round(v["price"] * 100)) / 100, buyer_is_maker=not v["buyer_is_maker"])
    if event.topic == "depth":
        return changed(event, bid=v["ask"], ask=v["bid"])
    if event.topic == "funding":
        return changed(event, rate=round(2 * rest_rate * 10_000 - v["rate"] * 10_000) / 10_000)
    if event.topic == "liquidations":
        return changed(event, side={"LONG": "SHORT", "SHORT": "LONG"}[v["side"]])
    mirrored: dict[str, Callable[[float], float]] = {
        "long_short_ratio": lambda x: 1.0 / x,
        "top_trader_long_share": lambda x: 1.0 - x,
        "coinbase_premium": lambda x: -x,
        "open_interest": lambda x: x,
    }
    return changed(event, value=mirrored[event.topic](v["value"]))


@pytest.mark.parametrize("rest_rate", [0.0, 0.0001])
def test_a_mirrored_market_gives_every_score_on_the_other_side(events: list[Event], plain: Any, rest_rate: float) -> None:
    """V5.0 measures funding from 0.01 %, the rate at rest, the others from zero: two mirrors."""
    there = results(run(written([mirror(event, rest_rate) for event in events]), CONFIG)[0], "scores", "signals")
    opposite = {"LONG": "SHORT", "SHORT": "LONG", "NONE": "NONE"}

    def seen(record: dict[str, Any], turned: bool) -> Any:
        turn = opposite if turned else {side: side for side in opposite}
        layers = [(layer["name"], layer["raw"], layer["score"]) for layer in record["layers"]]
        names = ("event_time", "strategy_id", "score", "ungated_score", "tier", "verdict", "gate_passed", "missing_inputs", "cooldown")
        return [turn[record["direction"]], turn[record["lean"]], layers, [record[name] for name in names]]

    def chosen(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [record for record in records if (record["strategy_id"] == "v50_rules") == (rest_rate > 0.0)]

    assert [seen(record, True) for record in chosen(there["scores"])] == [seen(record, False) for record in chosen(plain["scores"])]

    def decision(record: dict[str, Any], turn: dict[str, str]) -> Any:
        return [record["signal_id"], turn[record["direction"]], record["score"], record["tier"], record["entry"], record["flip"]]

    same = {side: side for side in opposite}
    assert [decision(r, opposite) for r in chosen(there["signals"])] == [decision(r, same) for r in chosen(plain["signals"])]


def test_a_market_of_eight_times_the_size_gives_the_same_scores(events: list[Event], plain: Any) -> None:
    grown = [
        changed(e, quantity=e.values["quantity"] * 8) if e.topic in ("agg_trades", "liquidations") else
        changed(e, bid=e.values["bid"] * 8, ask=e.values["ask"] * 8) if e.topic == "depth" else
        changed(e, value=e.values["value"] * 8) if e.topic == "open_interest" else e
        for e in events
    ]  # fmt: skip
    there = results(
        run(written(grown, {"whale_usd_threshold": 400_000.0}), replace(CONFIG, print_floor=8_000.0, whale_usd=800_000.0))[0],
        "features", "scores", "signals",
    )  # fmt: skip
    unscaled = ("price", "vwap_30m", "atr", "atr_percentile", "atr_percentile_low", "obi", "large_buys", "large_sells", "whale_flow",
                "open_interest_change", "funding_rate_max", "missing_inputs", "stale_inputs")  # fmt: skip
    for one, two in zip(plain["features"], there["features"], strict=True):
        assert {name: two[name] for name in unscaled} == {name: one[name] for name in unscaled}
        for name in set(one) - set(ANALYTICS):
            if name.startswith(("cvd_", "volume_", "slope_", "acceleration_")) and one[name] is not None:
                assert two[name] == pytest.approx(8 * one[name], abs=1e-9)
    names = ("score_id", "direction", "lean", "score", "ungated_score", "tier", "verdict", "regime", "layers", "missing_inputs")

    def judged(record: dict[str, Any]) -> Any:
        # A reason names the value, which may be a quantity.
        return [record[name] for name in names], (record["gate_block"] or "").partition("(")[0]

    assert [judged(record) for record in there["scores"]] == [judged(record) for record in plain["scores"]]
    apart = ("config_hash",)  # the whale threshold is in it
    assert [{k: v for k, v in r.items() if k not in apart} for r in there["signals"]] == [
        {k: v for k, v in r.items() if k not in apart} for r in plain["signals"]
    ]


def shifted(record: dict[str, Any], by: int, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A record as it would be so many ms earlier."""
    moved = {name: value - by if name in ("event_time", "receive_time", "decided_at") else value for name, value in record.items()}
    for name in ("score_id", "signal_id"):
        if name in moved:
            head, _, time = moved[name].rpartition("|")
            moved[name] = f"{head}|{int(time) - by}"
    return {name: value for name, value in moved.items() if name not in without}


@pytest.mark.parametrize(("by", "topics"), [(5 * GRID, ("features", "scores", "signals")), (GRID, ("features",))])
def test_a_market_some_steps_later_gives_the_same_values_under_later_ids(
    events: list[Event], plain: Any, by: int, topics: tuple[str, ...]
) -> None:
    """A whole 5m bar later nothing else moves; a single step moves the bars' edges, so all but the ATR stays."""
    later = [replace(event, time=event.time + by, arrival=event.arrival + by) for event in events]
    there = results(run(written(later), CONFIG)[0], *topics)
    # Measures of core/analytics have grids of their own (hours and days); their file tests them.
    apart = (*ANALYTICS, *(("atr", "atr_percentile", "atr_percentile_low", "missing_inputs") if by % (5 * GRID) else ()))
    for topic in topics:
        assert [shifted(record, by, apart) for record in there[topic]] == [shifted(record, 0, apart) for record in plain[topic]]


@pytest.mark.parametrize("seed", [1, 2])
def test_arrival_within_the_allowed_lateness_changes_nothing(events: list[Event], plain: Any, seed: int) -> None:
    """Records arrive up to the lateness after their time, in any order, on either side of a mark."""
    source = random.Random(seed)
    late = [replace(event, arrival=event.time + source.randint(0, LATENESS)) for event in events]
    source.shuffle(late)
    log = written(sorted(late, key=lambda event: event.arrival))
    assert [m[1] for m in log.topics["agg_trades"]] != [m[1] for m in written(events).topics["agg_trades"]]
    outputs, engine = run(log, CONFIG, seed=seed, size=400)
    assert engine.counts["late"] == 0
    there = results(outputs, "features", "scores", "signals", "bars")
    for topic, records in there.items():
        assert records == plain[topic]


@pytest.mark.parametrize("share", [0.75, 0.85, 0.97])
def test_nothing_after_an_instant_changes_a_record_of_it(events: list[Event], plain: Any, share: float) -> None:
    """Other trades, books, rates and ratios after T, those included that lie in the log before the mark that fires T."""
    source = random.Random(round(share * 100))
    instant = START + round(share * PANES) * GRID

    def other(event: Event) -> list[Event]:
        if event.time <= instant:
            return [event]
        if source.random() < 0.3:
            return []
        wild = {
            "agg_trades": lambda: {"price": source.randint(5_000, 20_000) / 100, "quantity": source.randint(1, 10**6) / 1000,
                                   "buyer_is_maker": source.random() < 0.5},
            "depth": lambda: {"bid": source.randint(1, 99), "ask": source.randint(1, 99)},
            "funding": lambda: {"rate": source.randint(-99, 99) / 10_000},
            "liquidations": lambda: {"side": "LONG", "quantity": float(source.randint(1, 10**6))},
        }  # fmt: skip
        return [replace(event, values=wild.get(event.topic, lambda: {"value": source.random() * 9})())]

    early = [
        Event("agg_trades", instant + 1 + n, {"price": 5.0, "quantity": 999.0, "buyer_is_maker": True}, instant + 1 + n) for n in range(5)
    ]
    # Of every other input, too: in the log before the mark that fires T, a few ms after T.
    for n, (topic, values) in enumerate({event.topic: event.values for event in events if event.topic != "agg_trades"}.items()):
        extra = other(Event(topic, instant + 20 + n, values, instant + 20 + n)) or other(
            Event(topic, instant + 20 + n, values, instant + 20 + n)
        )
        early += extra
    taken = {(event.topic, event.time) for event in early}
    future = [new for event in events if (event.topic, event.time) not in taken for new in other(event)] + early
    there = results(run(written(future), CONFIG)[0], "features", "scores", "signals", "bars")
    compared = 0
    for topic, records in there.items():
        before = [record for record in records if record["event_time"] <= instant]
        assert before == [record for record in plain[topic] if record["event_time"] <= instant]
        assert records != plain[topic]  # the future was altered indeed
        compared += len(before)
    assert compared > 1_500


@pytest.mark.parametrize("early", [False, True])
def test_whether_a_trade_is_large_does_not_depend_on_which_side_of_a_mark_it_lands(early: bool) -> None:
    """The threshold falls at T; a trade just after T between the old and the new one reaches the log before or after the mark that fires T."""
    log = Log(grid=GRID, lateness=LATENESS)
    log.instrument(NAME)
    number = 0

    def trade(time: int, quantity: float) -> None:
        nonlocal number
        log.trade(time, number, 100.0, quantity, False, NAME)
        number += 1

    for n in range(110):  # two of 110 have 10.0: that is the P99
        trade(START + 1 + n, 10.0 if n < 2 else 1.0)
    for pane in (1, 2):
        log.mark(START + pane * GRID + LATENESS)
        trade(START + pane * GRID + 30_000, 1.0)
    for n in range(200):  # now two of 312: the P99 falls to 1.0 at T
        trade(START + 2 * GRID + 40_000 + n, 1.0)
    instant = START + 3 * GRID
    if early:
        trade(instant + 100, 5.0)
        log.mark(instant + LATENESS)
    else:
        log.mark(instant + LATENESS)
        trade(instant + 100, 5.0)
    log.mark(instant + GRID + LATENESS)
    features = results(run(log, CONFIG)[0], "features")["features"]
    assert [record["trade_quantity_p99"] for record in features] == pytest.approx([10.0, 10.0, 1.0, 1.0], rel=0.01)
    # Judged by what was known a step before its own began: 10.0.
    assert features[-1]["large_buys"] == 0


@pytest.mark.parametrize("seed", [3, 4])
def test_an_engine_killed_at_random_gives_the_same_scores_and_signals(events: list[Event], plain: Any, seed: int) -> None:
    """Memories, quantiles, liquidations and the largest funding rate come back from the changelog; cooldowns, too."""
    killed, _ = run(written(events), CONFIG, seed=seed, restart_every=5, size=300)
    for topic in ("features", "scores", "signals"):
        assert decoded(killed, topic) == plain[topic]
