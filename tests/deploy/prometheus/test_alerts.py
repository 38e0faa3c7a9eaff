"""The rules of Prometheus: that they say what they look at, look at what exists, and fire when they should (by the real promtool)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from deploy import prometheus
from tests.deploy.dashboard_queries import promql
from tests.deploy.prometheus.alert_cases import CASES
from tests.deploy.prometheus.metric_names import TARGET, check_names, exposed, selectors
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "prometheus"


def rules() -> list[dict[str, Any]]:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    return [
        rule for name in config["rule_files"] for group in yaml.safe_load((FOLDER / name).read_text())["groups"] for rule in group["rules"]
    ]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def test_the_rules_of_the_objectives_are_what_the_code_makes() -> None:
    assert prometheus.PATH.read_text() == prometheus.text(), "run: python -m deploy.prometheus"


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules() if "alert" in rule]
    assert len(names) == len(set(names)) > 30
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert set(rule["annotations"]) == {"summary", "action"} and all(len(text) > 8 for text in rule["annotations"].values()), name


def kept_labels(node: Any) -> set[str] | None:
    """Return the labels that an expression's result has, None when it keeps those of its metrics."""
    if isinstance(node, promql_parser.AggregateExpr):
        modifier = node.modifier
        return set(modifier.labels) if modifier is not None else set()
    if isinstance(node, promql_parser.BinaryExpr):
        left, right = kept_labels(node.lhs), kept_labels(node.rhs)
        return right if isinstance(node.lhs, promql_parser.NumberLiteral | promql_parser.Call) and left is None else left
    if isinstance(node, promql_parser.ParenExpr):
        return kept_labels(node.expr)
    return None


def test_texts_name_labels_that_the_result_has() -> None:
    seen = 0
    for name, rule in alerts().items():
        kept = kept_labels(promql_parser.parse(rule["expr"]))
        if kept is None:
            kept = TARGET.union(*(exposed().get(one.name, {"slo", "venue"}) for one in selectors(rule["expr"])))
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            seen += 1
            assert label in kept, f"{name}: {label} of {kept}"
    assert seen > 25


def test_rules_and_dashboards_ask_for_metrics_and_labels_that_exist() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    expressions = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()] + list(promql())
    used = {name for where, expression in expressions for name in check_names(where, expression, recorded)}
    assert len(used) > 45


def test_every_market_stream_has_a_limit() -> None:
    """R000-106: the age of every stream is watched, with D9's limits where it has some."""
    text = "\n".join(rule["expr"] for rule in alerts().values())
    for topic in ("agg_trades", "depth", "quotes", "funding", "market_indicators", "liquidations"):
        assert f'perpflow_produced_time_seconds{{topic="{topic}"}}' in text, topic
    for name in ("TradesStale", "BookStale", "QuotesStale"):  # S2:147
        assert alerts()[name]["expr"].endswith("> 30") and "for" not in alerts()[name]
    assert alerts()["FundingStale"]["expr"].endswith("> 600") and "for" not in alerts()["FundingStale"]
    assert alerts()["OpenInterestStale"]["expr"].endswith("> 900")


def test_burn_rates_are_the_budgets() -> None:
    """The multiples follow from the share of a 30-day budget that each long window may use up: 2, 5, 10 and 10 per cent."""
    hours = {"1h": 1, "6h": 6, "1d": 24, "3d": 72}
    for multiple, long, short, _, _ in prometheus.BURNS:
        share = {"1h": 0.02, "6h": 0.05, "1d": 0.10, "3d": 0.10}[long]
        assert multiple == pytest.approx(share * 30 * 24 / hours[long])
        assert prometheus.WINDOWS.index(short) < prometheus.WINDOWS.index(long)
    assert all(0 < one.allowed * prometheus.BURNS[0][0] < 1 for one in prometheus.OBJECTIVES), "an alert that cannot fire"


def test_promtool_reads_the_rules(promtool: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    panels = tmp_path / "panels.yml"
    recorded = [{"record": f"panel_{number}", "expr": expression} for number, (_, expression) in enumerate(promql())]
    panels.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    command = [str(promtool), "check", "rules", "--lint-fatal", *(str(FOLDER / name) for name in config["rule_files"]), str(panels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([str(promtool), "check", "config", str(FOLDER / "prometheus.yml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_and_keep_quiet(promtool: Path, tmp_path: Path) -> None:
    """The rules without their texts (promtool would want every text spelled out; that they can be rendered is checked above)."""
    names = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["rule_files"]
    for name in names:
        groups = yaml.safe_load((FOLDER / name).read_text())
        for group in groups["groups"]:
            for rule in group["rules"]:
                rule.pop("annotations", None)
        (tmp_path / name).write_text(yaml.safe_dump(groups))
    for step in sorted({case.step_s for case in CASES}):
        tests = []
        for case in (one for one in CASES if one.step_s == step):
            expected = {"exp_labels": {**case.labels, "severity": alerts()[case.alert]["labels"]["severity"]}}
            tests.append({
                "interval": f"{step}s",
                "name": case.alert,
                "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
                "alert_rule_test": [
                    {"eval_time": f"{case.quiet * step}s", "alertname": case.alert, "exp_alerts": []},
                    {"eval_time": f"{case.fires * step}s", "alertname": case.alert, "exp_alerts": [expected]},
                ],
            })  # fmt: skip
        unit_tests = tmp_path / "tests.yml"
        unit_tests.write_text(yaml.safe_dump({"rule_files": names, "evaluation_interval": f"{step}s", "tests": tests}))
        done = subprocess.run([str(promtool), "test", "rules", str(unit_tests)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    assert {case.alert for case in CASES} == set(alerts())
    for case in CASES:
        asked = {one.name for rule in rules() for one in selectors(rule["expr"])}
        assert {series.partition("{")[0] for series in case.series} <= asked, case.alert
