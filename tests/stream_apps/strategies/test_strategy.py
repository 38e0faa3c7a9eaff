"""Strategy configurations: fields, every rule, hash and revisions."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import pytest

from schemas import catalogue
from schemas.codec.avro import Codec
from stream_apps.core.signals.strategy import BOOKKEEPING, StrategyConfig, StrategyError, action, changes, config_hash
from stream_apps.core.signals.strategy_rules import next_revision, strategy_from_record, succeeds, validate


def config(**changes: Any) -> StrategyConfig:
    return StrategyConfig(**{"strategy_id": "s", "instrument": "BINANCE:BTCUSDT-PERP", "display_name": "Test", **changes})


def test_fields_are_exactly_those_of_the_topic() -> None:
    assert [field.name for field in fields(StrategyConfig)] == catalogue.field_names("strategies")


def test_a_record_comes_back_equal() -> None:
    codec = Codec()
    strategy = config(revision=2, event_time=5, receive_time=6, description="d", tags=("a", "b"), entry_score=75, initial_balance=10_000)
    decoded = codec.decode("strategies", codec.encode("strategies", strategy.to_record()))
    assert strategy_from_record(decoded) == strategy
    assert decoded == strategy.to_record()


def test_the_factory_defaults_are_valid() -> None:
    validate(config())


# Each: the changes that break a rule, the field that the error names. Both sides of every range.
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"strategy_id": ""}, "strategy_id"),
    ({"strategy_id": "a|b"}, "strategy_id"),
    ({"strategy_id": "a b"}, "strategy_id"),
    ({"strategy_id": "a\n"}, "strategy_id"),
    ({"strategy_id": "x" * 65}, "strategy_id"),
    ({"revision": 0}, "revision"),
    ({"instrument": "BTCUSDT"}, "instrument"),
    ({"instrument": "BINANCE:BTC"}, "instrument"),
    ({"event_time": -1}, "event_time"),
    ({"receive_time": -1}, "receive_time"),
    ({"effective_time": -1}, "effective_time"),
    ({"revision": 2**31 - 1}, "revision"),
    ({"event_time": 1_760_000_000_000_000}, "event_time"),  # microseconds
    ({"effective_time": 7_258_118_400_000}, "effective_time"),
    ({"edited_by": "x" * 65}, "edited_by"),
    ({"edited_by": "a\nb"}, "edited_by"),
    ({"note": "x" * 201}, "note"),
    ({"display_name": ""}, "display_name"),
    ({"display_name": "x" * 51}, "display_name"),
    ({"description": "x" * 201}, "description"),
    ({"tags": ("a", "")}, "tags"),
    ({"status": "created"}, "status"),
    ({"model": "v53"}, "model"),
    ({"direction": "long"}, "direction"),
    ({"cvd_fast_window": "1h"}, "cvd_fast_window"),
    ({"cvd_slow_window": "24h"}, "cvd_slow_window"),
    ({"vol_on_missing": "neutral"}, "vol_on_missing"),
    ({"cvd_on_missing": "neutral"}, "cvd_on_missing"),
    ({"whale_on_missing": "neutral"}, "whale_on_missing"),
    ({"obi_on_missing": "neutral"}, "obi_on_missing"),
    ({"spot_perp_on_missing": ""}, "spot_perp_on_missing"),
    ({"correlation_on_missing": "skip"}, "correlation_on_missing"),
    ({"correlation_max": 1.01}, "correlation_max"),
    ({"correlation_max": -1.01}, "correlation_max"),
    ({"initial_balance": 999.99}, "initial_balance"),
    ({"initial_balance": 1_000_000.01}, "initial_balance"),
    ({"added_balance": -0.01}, "added_balance"),
    ({"initial_balance": 600_000.0, "added_balance": 400_000.01}, "added_balance"),
    ({"risk_per_trade": 0.0}, "risk_per_trade"),
    ({"risk_per_trade": 0.11}, "risk_per_trade"),
    ({"max_positions": 0}, "max_positions"),
    ({"max_positions": 101}, "max_positions"),
    ({"weight_direction": 9, "weight_env": 60, "weight_aux": 20, "weight_momentum": 11}, "weight_direction"),
    ({"weight_direction": 81, "weight_env": 9, "weight_aux": 5, "weight_momentum": 5}, "weight_direction"),
    ({"weight_direction": 60, "weight_env": 4, "weight_aux": 31}, "weight_env"),
    ({"weight_direction": 20, "weight_env": 61, "weight_aux": 14}, "weight_env"),
    ({"weight_direction": 60, "weight_env": 36, "weight_aux": -1}, "weight_aux"),
    ({"weight_direction": 29, "weight_env": 25, "weight_aux": 41}, "weight_aux"),
    ({"weight_direction": 61, "weight_env": 25, "weight_aux": 15, "weight_momentum": -1}, "weight_momentum"),
    ({"weight_direction": 39, "weight_env": 25, "weight_aux": 15, "weight_momentum": 21}, "weight_momentum"),
    ({"weight_direction": 54}, "weight_direction"),  # sums to 99
    ({"weight_direction": 56}, "weight_direction"),  # sums to 101
    ({"entry_score": 59.9}, "entry_score"),
    ({"entry_score": 95.1, "flip_threshold": 95.0}, "entry_score"),
    ({"flip_threshold": 59.9, "entry_score": 60.0}, "flip_threshold"),
    ({"flip_threshold": 95.1}, "flip_threshold"),
    ({"flip_threshold": 74.9}, "flip_threshold"),  # below entry_score 75
    ({"vol_atr_pct_min": 0.00009}, "vol_atr_pct_min"),
    ({"vol_atr_pct_min": 0.021}, "vol_atr_pct_min"),
    ({"whale_usd_threshold": 999.0}, "whale_usd_threshold"),
    ({"whale_usd_threshold": 1_000_001.0}, "whale_usd_threshold"),
    ({"whale_flow_pct": -0.01}, "whale_flow_pct"),
    ({"whale_flow_pct": 1.01}, "whale_flow_pct"),
    ({"obi_threshold": 0.09}, "obi_threshold"),
    ({"obi_threshold": 0.91}, "obi_threshold"),
    ({"spot_perp_threshold": 0.0004}, "spot_perp_threshold"),
    ({"spot_perp_threshold": 0.011}, "spot_perp_threshold"),
    ({"sl_atr_multiplier": 0.49}, "sl_atr_multiplier"),
    ({"sl_atr_multiplier": 3.01}, "sl_atr_multiplier"),
    ({"tp1_ratio": 0.29}, "tp1_ratio"),
    ({"tp1_ratio": 2.01, "tp2_ratio": 3.0}, "tp1_ratio"),
    ({"tp2_ratio": 0.49, "tp1_ratio": 0.3}, "tp2_ratio"),
    ({"tp2_ratio": 4.01}, "tp2_ratio"),
    ({"tp2_ratio": 0.75}, "tp2_ratio"),  # not greater than tp1_ratio
    ({"timeout_minutes": 29}, "timeout_minutes"),
    ({"timeout_minutes": 1441}, "timeout_minutes"),
    ({"cooldown_minutes": -1}, "cooldown_minutes"),
    ({"cooldown_minutes": 1441}, "cooldown_minutes"),
    ({"tier_light": 0.0}, "tier_light"),
    ({"tier_standard": 5.1}, "tier_standard"),
    ({"tier_heavy": float("inf")}, "tier_heavy"),
    ({"entry_score": float("nan")}, "entry_score"),
    ({"cvd_fast_window": "30m", "cvd_slow_window": "30m"}, "cvd_fast_window"),
    ({"entry_score": "75"}, "entry_score"),
    ({"max_positions": True}, "max_positions"),
    ({"max_positions": 4.0}, "max_positions"),
    ({"fast_variant": 1}, "fast_variant"),
    ({"display_name": None}, "display_name"),
    ({"tags": "abc"}, "tags"),
]


@pytest.mark.parametrize(("changes", "field"), BROKEN, ids=lambda value: str(value)[:60])
def test_every_rule(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(StrategyError) as caught:
        validate(config(**changes))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ") and caught.value.rule


# The ends of every range are allowed.
ALLOWED: list[dict[str, Any]] = [
    {"initial_balance": 1000.0, "risk_per_trade": 0.0001, "max_positions": 1, "timeout_minutes": 30, "cooldown_minutes": 0},
    {"initial_balance": 1_000_000.0, "risk_per_trade": 0.1, "max_positions": 100, "timeout_minutes": 1440, "cooldown_minutes": 1440},
    {"weight_direction": 10, "weight_env": 60, "weight_aux": 20, "weight_momentum": 10},
    {"weight_direction": 80, "weight_env": 5, "weight_aux": 0, "weight_momentum": 15},
    {"weight_direction": 20, "weight_env": 20, "weight_aux": 40, "weight_momentum": 20},
    {"entry_score": 60.0, "flip_threshold": 60.0},
    {"entry_score": 95.0, "flip_threshold": 95.0},
    {"vol_atr_pct_min": 0.0001, "whale_usd_threshold": 1000.0, "whale_flow_pct": 0.0, "obi_threshold": 0.1, "spot_perp_threshold": 0.0005},
    {"vol_atr_pct_min": 0.02, "whale_usd_threshold": 1e6, "whale_flow_pct": 1.0, "obi_threshold": 0.9, "spot_perp_threshold": 0.01},
    {"sl_atr_multiplier": 0.5, "tp1_ratio": 0.3, "tp2_ratio": 0.5},
    {"sl_atr_multiplier": 3.0, "tp1_ratio": 2.0, "tp2_ratio": 4.0},
    {"display_name": "x" * 50, "description": "x" * 200, "strategy_id": "x" * 64},
]


@pytest.mark.parametrize("changes", ALLOWED, ids=lambda value: ",".join(value))
def test_the_ends_of_every_range_are_allowed(changes: dict[str, Any]) -> None:
    validate(config(**changes))


def test_a_record_with_an_unknown_or_without_a_required_field_is_refused() -> None:
    record = config().to_record()
    with pytest.raises(StrategyError, match=r"^leverage: is not a field"):
        strategy_from_record({**record, "leverage": 3})
    del record["instrument"]
    with pytest.raises(StrategyError, match=r"^instrument: must be given"):
        strategy_from_record(record)


# --- hash -----------------------------------------------------------------------------------------------------------

_OTHER = {"str": "other", "int": 99, "float": 99.5, "bool": None, "str | None": "other", "tuple[str, ...]": ("other",)}
_TEXT_AND_BOOKKEEPING = {
    "added_balance",
    "revision",
    "event_time",
    "receive_time",
    "effective_time",
    "edited_by",
    "note",
    "status",
    "display_name",
    "description",
    "tags",
}


@pytest.mark.parametrize("field", [field.name for field in fields(StrategyConfig)])
def test_the_hash_covers_what_decides_and_nothing_else(field: str) -> None:
    kind = next(str(one.type) for one in fields(StrategyConfig) if one.name == field)
    other = not getattr(config(), field) if kind == "bool" else _OTHER[kind]
    changed = config_hash(replace(config(), **{field: other})) != config_hash(config())
    assert changed == (field not in _TEXT_AND_BOOKKEEPING)


def test_the_hash_is_stable_over_releases() -> None:
    assert config_hash(config()) == "5b635ea4b8294c42"
    assert config_hash(config(entry_score=75, initial_balance=10_000)) == config_hash(config())  # 75 and 75.0 are one number


# --- revisions ------------------------------------------------------------------------------------------------------


def test_a_new_strategy_is_revision_1() -> None:
    assert next_revision(None, config(revision=7, event_time=3), 1000) == config(revision=1, event_time=1000, receive_time=1000)


def test_what_already_holds_is_not_written_again() -> None:
    current = config(revision=4, event_time=1000, receive_time=1000, edited_by="ann", note="first", effective_time=7)
    assert next_revision(current, config(), 2000) is None
    assert next_revision(current, config(), 2000, by="bob", note="again", effective_time=9) is None


@pytest.mark.parametrize("changes", [{"entry_score": 70.0}, {"status": "paused"}, {"display_name": "Other"}, {"tags": ("x",)}])
def test_a_change_is_the_next_revision(changes: dict[str, Any]) -> None:
    current = config(revision=4, event_time=1000, receive_time=1000)
    assert next_revision(current, config(**changes), 2000) == config(revision=5, event_time=2000, receive_time=2000, **changes)


def test_an_edit_is_later_than_the_revision_it_follows_even_when_the_clock_went_back() -> None:
    written = next_revision(config(event_time=5000, receive_time=5000), config(entry_score=70.0), 2000)
    assert written is not None and (written.event_time, written.receive_time) == (5001, 5001)


def test_a_strategy_stays_on_its_instrument() -> None:
    with pytest.raises(StrategyError, match=r"^instrument: cannot change from BINANCE:BTCUSDT-PERP to BINANCE:ETHUSDT-PERP"):
        next_revision(config(), config(instrument="BINANCE:ETHUSDT-PERP"), 1)


def test_a_revision_is_of_the_same_strategy() -> None:
    with pytest.raises(StrategyError, match=r"^strategy_id: cannot change"):
        next_revision(config(), config(strategy_id="other"), 1)


@pytest.mark.parametrize("current", [None, config()])
def test_a_revision_keeps_the_rules(current: StrategyConfig | None) -> None:
    with pytest.raises(StrategyError, match=r"^flip_threshold"):
        next_revision(current, config(flip_threshold=70.0), 1)


def test_deprecated_is_immutable_until_restored() -> None:
    gone = config(status="deprecated", revision=3, event_time=10, receive_time=10)
    assert next_revision(gone, config(status="deprecated"), 20) is None
    for edit in ({"entry_score": 70.0}, {"entry_score": 70.0, "status": "deprecated"}, {"display_name": "Other"}):
        with pytest.raises(StrategyError, match=r"^status: s is deprecated"):
            next_revision(gone, config(**edit), 20)
    for status in ("running", "paused"):
        restored = next_revision(gone, config(status=status), 20)
        assert restored == config(status=status, revision=4, event_time=20, receive_time=20)
    assert restored is not None
    edited = next_revision(restored, config(entry_score=70.0), 30)
    assert edited is not None and (edited.revision, edited.entry_score) == (5, 70.0)


def test_a_revision_says_who_why_and_from_when() -> None:
    written = next_revision(
        config(edited_by="ann", note="old", effective_time=3), config(entry_score=70.0), 20, by="bob", note="new", effective_time=30
    )
    assert written is not None and (written.edited_by, written.note, written.effective_time) == ("bob", "new", 30)
    again = next_revision(written, config(), 40)
    assert again is not None and (again.edited_by, again.note, again.effective_time) == ("", None, 0)


def test_what_a_revision_changed_and_did() -> None:
    old = config(revision=3, event_time=10, receive_time=10, edited_by="ann")
    new = config(revision=4, event_time=20, receive_time=20, entry_score=70.0, tags=("x",), note="n")
    assert changes(old, new) == {"entry_score": (75.0, 70.0), "tags": ([], ["x"])}
    assert changes(old, old) == {}
    created = changes(None, new)
    assert (
        set(created) == set(new.to_record()) - set(BOOKKEEPING)
        and created["entry_score"] == (None, 70.0)
        and created["description"] == (None, None)
    )
    steps = ["running", "paused", "running", "deprecated", "running", "running", "paused", "deprecated", "paused"]
    done = [action(config(status=a), config(status=b)) for a, b in pairwise(steps)]
    assert [action(None, new), *done] == ["create", "pause", "resume", "deprecate", "restore", "edit", "pause", "deprecate", "restore"]


# --- the log --------------------------------------------------------------------------------------------------------


def test_of_two_records_of_one_number_the_first_holds() -> None:
    known = config(revision=4, event_time=10, receive_time=10, edited_by="ann")
    assert succeeds(None, known) and succeeds(config(revision=3), known)
    assert not succeeds(known, known)  # a repeat is no news
    for revision in (4, 3, 1):
        with pytest.raises(StrategyError, match=rf"^revision: must be above 4, which s has already, got {revision}"):
            succeeds(known, config(revision=revision, entry_score=70.0, event_time=99))
    assert succeeds(known, config(revision=9, entry_score=70.0))  # what lay between may have been compacted


@pytest.mark.parametrize(
    ("known", "changed", "field"),
    [
        ({}, {"weight_direction": 54}, "weight_direction"),
        ({}, {"instrument": "BINANCE:ETHUSDT-PERP"}, "instrument"),
        ({"status": "deprecated"}, {"status": "deprecated", "entry_score": 70.0}, "status"),
        ({"status": "deprecated"}, {"status": "running", "entry_score": 70.0}, "status"),
    ],
)
def test_the_log_keeps_the_rules_of_the_writers(known: dict[str, Any], changed: dict[str, Any], field: str) -> None:
    with pytest.raises(StrategyError) as caught:
        succeeds(config(**known), config(revision=2, **changed))
    assert caught.value.field == field
    with pytest.raises(StrategyError) as caught:
        next_revision(config(**known), config(**changed), 5)
    assert caught.value.field == field
