"""Settings that change in the middle of a log: features and scores under the settings of each instant, refusals, restarts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from stream_apps.core.log.engine_settings import SettingsError, SettingsLog
from stream_apps.core.market.config import EngineConfig
from stream_apps.core.signals.engine import SignalsEngine
from stream_apps.core.signals.settings import BY_NAME, SETTINGS, check_in_force, from_environment, parse_defaults, value_of
from stream_apps.core.signals.strategy import StrategyConfig
from tests.support.markets import logs
from tests.support.markets.settings_world import GRID, PERP, START, World, random_world, revision, same

DIRECT = ("best_bid", "mark_price", "obi", "estimated_funding_rate", "open_interest", "open_interest_change", "long_short_ratio",
          "trade_quantity_p95", "trade_quantity_p99", "whale_flow")  # fmt: skip


def number_of(record: dict[str, Any]) -> int:
    return int((record["event_time"] - START) // GRID)


@pytest.mark.parametrize("seed", range(6))
def test_features_and_regimes_are_those_of_the_settings_of_each_instant(seed: int) -> None:
    world = random_world(seed)
    outputs, _ = logs.run(world.log)
    assert logs.decoded(outputs, "dead_letters") == []
    features = {number_of(one): one for one in logs.decoded(outputs, "features")}
    assert sorted(features) == list(range(1, world.number + 1))
    used = set()
    expected_of = {number: world.features(number) for number in features}
    for number, found in features.items():
        expected = expected_of[number]
        used.add(world.held(number)[0])
        for name in DIRECT:
            assert same(found[name], expected[name]), (number, name, found[name], expected[name])
        assert set(found["missing_inputs"]) & expected["judged"] == expected["missing"], number
        assert set(found["stale_inputs"]) & expected["judged"] == expected["stale"], number
    assert len(used) > 6
    regimes, short = set(), 0
    for score in logs.decoded(outputs, "scores"):
        number = number_of(score)
        assert score["regime"] == world.regime(number, score, features[number]), number
        regimes.add(score["regime"])
        missing = "quantity_p99" in expected_of[number]["missing"]
        assert score["warm"] == (score["regime"] != "unknown") and ("quantity_p99" in score["missing_inputs"]) == missing, number
        short += missing and features[number]["trade_quantity_p99"] is not None
    assert short > 0
    assert regimes - {"unknown"}
    steps = {number_of(one): one["settings_revision"] for one in logs.decoded(outputs, "worker_progress")}
    assert steps == {number: world.held(number)[0] for number in features}


def test_by_default_an_instrument_is_warm_after_a_day_of_trades_and_not_an_instant_earlier() -> None:
    """A trade a minute for a day. The first warm instant is the first whose whole minutes reach the setting."""
    log = logs.Log()
    log.instrument(PERP, price_decimals=1, quantity_decimals=0)
    log.strategy(
        StrategyConfig(
            strategy_id="a", instrument=PERP, display_name="a", event_time=1, receive_time=1, cvd_fast_window="5m", cvd_slow_window="30m"
        ).to_record()
    )
    grid = 60_000
    for number in range(1, 1_445):
        end = START + number * grid
        log.trade(end - 10, number, 20_000.0 + number % 7, 1.0, number % 2 == 0, PERP)
        log.mark(end + 250, "test", "BINANCE")
    for config in (
        EngineConfig(grid_ms=grid),
        EngineConfig(grid_ms=grid, quantile_history_ms=7_200_000),
        EngineConfig(grid_ms=grid, quantile_histories_ms={"BTC": 9_000_001.0, "ETH": 0.0}),
    ):
        history = config.quantile_histories_ms.get("BTC", config.quantile_history_ms)
        outputs, _ = logs.run(log, config=config)
        warm = [one["event_time"] for one in logs.decoded(outputs, "scores") if one["warm"]]
        assert len(warm) > 1 and min(warm) == START + -(-int(history) // grid) * grid
    assert EngineConfig().quantile_history_ms == 24 * 3_600_000


def test_the_percentile_of_the_atr_appears_with_fewer_values_from_the_instant_on() -> None:
    world = World(3)
    world.go(20 * 17)  # 17 bars of 5 minutes give three values of the ATR
    world.write(revision(1, atr_percentile_min=2))
    world.go(1)
    world.write(revision(2, atr_percentile_min=9))
    world.go(1)
    outputs, _ = logs.run(world.log)
    assert [one["atr_percentile"] is None for one in logs.decoded(outputs, "features")[-3:]] == [True, False, True]


@pytest.mark.parametrize("seed", range(6))
def test_feeds_look_ahead_and_restarts_change_nothing(seed: int) -> None:
    world = random_world(seed, edits=8)
    plain, _ = logs.run(world.log)
    for how in ({"seed": seed, "size": 700}, {"seed": seed + 50, "size": 300, "restart_every": 5}, {"size": 1}):
        outputs, engine = logs.run(world.log, **how)
        for topic in ("features", "scores", "signals", "worker_progress", "bars"):
            assert logs.decoded(outputs, topic) == logs.decoded(plain, topic), (how, topic)
        assert engine.settings.kept[-1].revision == world.revisions[-1][1].revision


def test_a_limit_raised_after_a_restart_sees_what_it_sees_without_the_restart() -> None:
    world = World(5)
    world.go(10)
    time = START + world.number * GRID
    world.input("market_indicators", time, {"indicator": "open_interest", "value": 900.0})
    world.go(100)  # 25 minutes
    world.write(revision(1, stale_indicator_ms=1_800_000))
    world.go(1)
    for how in ({}, {"size": 50, "restart_every": 2, "seed": 1}):
        last = logs.decoded(logs.run(world.log, **how)[0], "features")[-1]
        assert last["open_interest"] == world.features(world.number)["open_interest"] is not None


def test_an_instrument_of_another_venue_that_is_behind_uses_the_settings_of_its_own_instants() -> None:
    """Both venues fire instants 1 to 8; the second one fires them after the first one, and the revision is for instant 5."""
    world = World(7)
    other = "BYBIT:BTCUSDT-PERP"
    world.log.instrument(other, author="b", price_decimals=1, quantity_decimals=0)
    world.write(revision(1, effective_time=START + 5 * GRID, stale_book_ms=60_000))
    world.log.append("quotes", {**_quote(other, START + 16_000)}, key=other)
    world.go(8)
    for number in range(1, 9):
        end = START + number * GRID
        world.log.trade(end - 3, number, 20_000.0, 1.0, False, other)
        world.log.mark(end + 250, "b", "BYBIT")
    outputs, _ = logs.run(world.log)
    found = {number_of(one): one["best_bid"] is not None for one in logs.decoded(outputs, "features") if one["instrument"] == other}
    # From instant 5 on a quote may be a minute old; this one is 59 s old then, and 14 s at instant 2.
    assert found == {number: number == 5 for number in range(2, 9)}  # its first input begins pane 2
    steps = [(one["author"], number_of(one), one["settings_revision"]) for one in logs.decoded(outputs, "worker_progress")]
    assert [step for step in steps if step[0] == "b"] == [("b", number, int(number >= 5)) for number in range(1, 9)]


def _quote(instrument: str, time: int) -> dict[str, Any]:
    from tests.support.markets.settings_world import record

    return record("quotes", instrument=instrument, event_time=time, receive_time=time, bid_price=1.0, ask_price=2.0)


# --- refusals ------------------------------------------------------------------------------------------------------------
def refused(*revisions: Any) -> list[tuple[str, str]]:
    world = World(1)
    world.go(3)
    world.write(revision(2, stale_book_ms=7_000))
    world.go(1)
    world.write(*revisions)
    world.go(2)
    outputs, engine = logs.run(world.log)
    assert engine.settings.kept[-1].engine == {"stale_book_ms": 7_000}  # the last good one
    assert [one["settings_revision"] for one in logs.decoded(outputs, "worker_progress")] == [0, 0, 0, 2, 2, 2]
    letters = logs.decoded(outputs, "dead_letters")
    assert all(one["source"] == "engine_settings" and one["value"] for one in letters)
    return [(one["field"], one["reason"]) for one in letters]


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({"stale_book_ms": 60_001}, "stale_book_ms", "must be from 100 to 60000 ms, got 60001"),
        ({"stale_book_ms": float("nan")}, "stale_book_ms", "must be from 100 to 60000 ms, got nan"),
        ({"stale_book_ms": 5_000.5}, "stale_book_ms", "must be a whole number, got 5000.5"),
        ({"oi_horizon_ms": 20_000}, "oi_horizon_ms", "must be a multiple of grid_ms (15000), got 20000"),
        ({"whale_usd": 999.0}, "whale_usd", "must be from 1000 to 1000000000 quote units, got 999"),
        ({"regime_high_vol": 0.5}, "regime_high_vol", "must be at most regime_crash (0.012), got 0.5"),
        ({"staleness": 1.0}, "staleness", "is not a setting of signals"),
        ({"p99_floor": 1.0}, "p99_floor", "is set for one instrument"),
        ({"atr_length": 20}, "atr_length", "cannot change in the middle of a log: the ATR is a recursion"),
        ({"grid_ms": 5_000}, "grid_ms", "cannot change in the middle of a log"),
        ({"obi_levels": 20}, "obi_levels", "cannot change in the middle of a log: a book becomes one number"),
    ],
)
def test_a_bad_revision_goes_to_dead_letters_and_the_last_good_one_stays(values: dict[str, float], field: str, says: str) -> None:
    ((found, reason),) = refused(revision(3, **values))
    assert found == field and says in reason and reason.startswith(f"{field}: ")


def test_an_old_number_an_instrument_key_and_bytes_that_are_no_record_are_refused() -> None:
    assert refused(revision(2, stale_book_ms=9_000)) == [("revision", "revision: must be above 2, which signals has already, got 2")]
    assert refused(revision(3, PERP, stale_book_ms=9_000)) == [("stale_book_ms", "stale_book_ms: is set for the whole engine")]
    world = World(1)
    world.log.raw("engine_settings", b"nonsense")
    world.log.mark(START, "engine_settings", "", {"engine_settings": 1})
    world.go(2)
    outputs, _ = logs.run(world.log)
    assert [one["source"] for one in logs.decoded(outputs, "dead_letters")] == ["engine_settings"]
    assert len(logs.decoded(outputs, "features")) == 2


def test_repeats_and_revisions_of_other_engines_are_passed_over() -> None:
    again = revision(2, stale_book_ms=7_000)
    assert refused(again, revision(9, engine="whales", other=1.0), again) == []


# --- limits that depend on each other -----------------------------------------------------------------------------------
def test_what_the_state_does_not_keep_is_refused() -> None:
    config = EngineConfig(grid_ms=5_000)
    log = SettingsLog("signals", SETTINGS, lambda settings: check_in_force(config, settings))
    with pytest.raises(
        SettingsError, match=r"stale_indicator_ms \+ oi_horizon_ms must be at most 1270000 ms on a grid of 5000 ms, got 1800000"
    ):
        log.take(revision(1, stale_indicator_ms=900_000))
    assert log.take(revision(1, stale_indicator_ms=300_000))


def test_every_setting_has_a_default_within_its_bounds_and_every_number_of_the_configuration_is_a_setting() -> None:
    config = EngineConfig()
    for setting in SETTINGS:
        default = value_of(config, setting.name, "BTC")
        if setting.name == "own_quantile_history_ms":  # an instrument without its own number has that of the engine
            assert default is None
            continue
        assert default is not None
        setting.check(default)
    numbers = {name for name in vars(config) if isinstance(getattr(config, name), int | float)}
    numbers |= {name for name in vars(config.analytics) if isinstance(getattr(config.analytics, name), int | float)}
    assert numbers <= set(BY_NAME), numbers - set(BY_NAME)


# --- the environment -----------------------------------------------------------------------------------------------------
def test_defaults_of_the_environment_hold_where_the_log_says_nothing() -> None:
    config = from_environment(EngineConfig(), "stale_book_ms=60000, p99_floor.BTC=33, quantile_history_ms=0")
    assert (config.stale_book_ms, config.p99_floors["BTC"], config.p99_floors["ETH"]) == (60_000, 33.0, 100.0)
    world = World(11)
    world.go(40)
    world.write(revision(1, stale_book_ms=1_000), revision(2, PERP, p99_floor=50.0))
    world.go(1)
    world.write(revision(3), revision(4, PERP))  # nothing is set any more
    world.go(1)
    outputs, _ = logs.run(world.log, config=config)
    found = logs.decoded(outputs, "features")
    assert [one["trade_quantity_p99"] for one in found[-3:]] == [40.0, 50.0, 40.0]
    one, two = (replace_limits(world, limit).features(41) for limit in (1_000, 60_000))
    assert (found[40]["best_bid"], found[41]["best_bid"]) == (one["best_bid"], world_at(world, 42, 60_000))
    assert two


def replace_limits(world: World, limit: int) -> World:
    copy = World(world.seed)
    copy.inputs, copy.trades, copy.revisions = world.inputs, world.trades, [(0, revision(1, stale_book_ms=limit))]
    return copy


def world_at(world: World, number: int, limit: int) -> Any:
    return replace_limits(world, limit).features(number)["best_bid"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grid_ms=5000", "grid_ms: has a variable of its own: PERPFLOW_GRID_MS"),
        ("p99_floor=3", "p99_floor: name the base asset: p99_floor.BTC=VALUE"),
        ("stale_book_ms=x", "stale_book_ms: must be a number, got 'x'"),
        ("stale_book_ms", "stale_book_ms: is not NAME=VALUE"),
        ("nothing=1", "nothing: is not a setting"),
    ],
)
def test_a_bad_default_names_the_variable_and_the_setting(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="PERPFLOW_ENGINE_SETTINGS: ") as raised:
        parse_defaults(text)
    assert says in str(raised.value)


def test_a_state_kept_with_other_fixed_numbers_is_refused() -> None:
    world = World(2)
    world.go(3)
    _, engine = logs.run(world.log)
    entries = [(key, value) for key, value in engine.checkpoint() if value is not None]
    for name, value in (("atr_length", 20), ("obi_levels", 5), ("atr_history", 100)):
        with pytest.raises(ValueError, match=f"{name}: the state was kept with .* the worker is set to {value}; use a new app id"):
            SignalsEngine.restore(0, replace(EngineConfig(), **{name: value}), logs.CODEC, entries)


def test_fixed_numbers_of_the_environment_change_the_features() -> None:
    """Three levels of the book, an ATR of four bars: against sums of the books and the first four true ranges."""
    world = World(4)
    world.go(20 * 7)
    outputs, _ = logs.run(world.log, config=from_environment(EngineConfig(), "obi_levels=3,atr_length=4"))
    features = logs.decoded(outputs, "features")
    checked = 0
    for found in features:
        state, book = world.newest("depth", found["event_time"], 5_000)
        if state == "present":
            bids, asks = sum(book["bid_quantities"][:3]), sum(book["ask_quantities"][:3])
            assert found["obi"] == pytest.approx((bids - asks) / (bids + asks), rel=1e-12)
            checked += 1
    assert checked > 20
    bars = [one for one in logs.decoded(outputs, "bars") if one["timeframe"] == "5m"]
    ranges = [max(b["high"], a["close"]) - min(b["low"], a["close"]) for a, b in pairwise(bars)]
    first = next(one for one in features if one["atr"] is not None)
    assert first["event_time"] == bars[4]["event_time"] and first["atr"] == pytest.approx(sum(ranges[:4]) / 4)
