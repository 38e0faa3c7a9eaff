"""The printed tables say what the scorer does: every row of points is read back and tried on the model."""

from __future__ import annotations

import re
from typing import Any

import pytest

from stream_apps.core.market.windows import FAST_WINDOWS, WINDOWS
from stream_apps.core.signals.scoring import MODELS, tables
from stream_apps.core.signals.scoring.view import view_of
from tests.support.markets.scoring_cases import BTC, large, market, of_model, run

OFFSET = {">": 1e-6, ">=": 0.0, "<": -1e-6, "<=": 0.0}


def rows(text: str) -> list[list[str]]:
    """Cells of the points' table of the model itself (its variants come later)."""
    body = text.split("| layer | part | side |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body.splitlines()[2:]]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_part_and_gate_of_a_model_is_printed(name: str) -> None:
    text = tables.markdown(MODELS[name])
    score = run(market(), of_model(name)).score
    printed = {(row[0], row[1].removesuffix(" (at least)")) for row in rows(text)}
    assert printed == {(layer["name"], part) for layer in score["layers"] for part in layer["parts"]}
    for gate in score["gates"]:
        assert re.search(rf"^\| {gate['name']} \| .* \| (S1|S2)", text, re.M)
    for entry in score["inputs"]:
        assert re.search(rf"^\| {re.sub('_(5m|15m|30m|1h|4h|24h)$', '', entry)}", text, re.M), entry
    assert all(row[5].startswith(("S1", "S2")) for row in rows(text))  # each has its section


def built(side: str, when: str) -> Any:
    """A market in which a printed condition holds exactly at its limit, the rest as plain as can be."""
    sign = -1.0 if side == "SHORT" else 1.0
    given: dict[str, Any] = {
        "cvd": dict.fromkeys(WINDOWS, 7.0 * sign),
        "slope": dict.fromkeys(FAST_WINDOWS, sign),
        "vwap_30m": 100.0 - sign,
    }
    trades = {"large_buys": 0, "large_sells": 0}
    for text in when.split(" and "):
        found = re.fullmatch(r"(\w+) (>=|<=|>|<) (?:([\d.e-]+)(?: x (\w+))?|(-[\d.]+)|(\w+))", text)
        assert found, text
        name, op, number, of, negative, other = found.groups()
        limit = float(number or negative or 1.0)
        if name in trades:
            trades[name] = 1 if op == ">=" else 0
        elif name in ("cvd_fast", "cvd_slow", "slope_fast", "price"):
            continue  # the side already says them
        elif name == "acceleration_fast":
            given["accel"] = sign
        elif of or other:
            given[of or other] = 100.0
            given[name] = limit * 100.0
        elif not (name in given and op in ("<", "<=", ">=")):
            given[name] = limit + OFFSET[op]
    if trades != {"large_buys": 0, "large_sells": 0}:
        given["large_trades"] = large(trades["large_buys"], trades["large_sells"])
    return market(**given)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_printed_condition_gives_the_printed_points(name: str) -> None:
    tried = 0
    for layer, part, side, when, points, _ in rows(tables.markdown(MODELS[name])):
        if when.startswith(("otherwise", "an input", "estimated_funding_rate < 0:", "estimated_funding_rate > 0:")):
            continue
        model = MODELS[name]
        sub = next(one for one in model.parts if one.name == part.removesuffix(" (at least)"))
        shot = built(side, when.replace("\\", ""))
        view = view_of(shot, model.fixed.get("cvd_fast_window", "30m"), model.fixed.get("cvd_slow_window", "4h"), False)
        assert sub.points(view, view.lean) == float(points), (layer, part, side, when)
        tried += 1
    assert tried >= 7


def test_v54_prints_its_fast_variant() -> None:
    text = tables.markdown(MODELS["v54_factory"])
    variant = text.split("### With fast_variant = true")[1]
    assert "| environment | obi_bonus | LONG | obi >= 0.3 | 5 | S1 3.9 |" in variant and "| crowding |" not in variant
    assert "| direction | 55 | (weight_direction + weight_momentum) x 55/80 |" in text


def test_the_whale_limit_is_printed_as_it_is_judged() -> None:
    assert "| whale_flow_pct (BTC), 1 (others) |" in tables.markdown(MODELS["v53_standard"])
    for instrument, limit in ((BTC, 0.5), ("BINANCE:ETHUSDT-PERP", 1.0)):
        score = run(market(instrument=instrument), of_model("v53_standard", instrument=instrument)).score
        assert [gate["limit"] for gate in score["gates"] if gate["name"] == "whale"] == [limit]


def test_the_summary_has_a_line_a_model() -> None:
    assert [row[0] for row in tables.summary(list(MODELS.values()))] == list(MODELS)
