"""Grafana's dashboards: made by the code, complete, and every query of theirs gives rows that are right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from itertools import combinations
from typing import Any

import psycopg
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

from deploy import grafana
from deploy.grafana.build import BOTH, GENERATED, LIVE, PLAYED, RECORDED
from deploy.grafana.preview.query import expanded
from stream_apps.core.performance import Ledger, evaluate
from stream_apps.core.performance.comparison import side
from stream_apps.core.performance.intervals import wilson
from tests.deploy import dashboard_rows as rows
from tests.deploy.dashboard_queries import BOARDS, boards, panels, sql_queries
from tests.deploy.databases import migrated
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "grafana"
# Of Grafana's own units those that we use; others are words behind or before the number.
UNITS = {"none", "short", "s", "ms", "m", "bytes", "percentunit", "cps", "binBps", "dateTimeAsIso"}
VARIABLES = {
    "instrument": [rows.BTC],
    "timeframe": ["1m"],
    "mode": ["paper"],
    "strategy": ["one", "two"],
    "score": [""],
    "a": ["one"],
    "b": ["two"],
}


# --- without a database ------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_code_makes() -> None:
    assert {path.stem for path in BOARDS} == set(grafana.BOARDS)
    for path in BOARDS:
        assert path.read_text(encoding="utf-8") == grafana.text(grafana.BOARDS[path.stem]()), "run: python -m deploy.grafana"


def test_every_panel_says_what_it_shows_in_which_unit() -> None:
    sources = yaml.safe_load((FOLDER / "provisioning/datasources/datasources.yml").read_text())
    known = {(source["uid"], source["type"]) for source in sources["datasources"]}
    titles = [title for title, _ in panels()]
    assert len(titles) == len(set(titles)) > 110
    for title, panel in panels():
        assert len(panel["description"]) > 15 and panel["description"].endswith("."), title
        assert panel["targets"] and all(target.get("rawSql") or target.get("expr") for target in panel["targets"]), title
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), title
        assert all((one["datasource"]["uid"], one["datasource"]["type"]) in known for one in (panel, *panel["targets"])), title
        units = [panel["fieldConfig"]["defaults"]["unit"]]
        units += [p["value"] for override in panel["fieldConfig"]["overrides"] for p in override["properties"] if p["id"] == "unit"]
        assert all(unit in UNITS or re.fullmatch(r"(suffix|prefix): \S.*", unit) for unit in units), f"{title}: {units}"


def test_no_panel_is_ever_blank() -> None:
    """A panel without data says that there is none, and of what."""
    for title, panel in panels():
        told = panel["fieldConfig"]["defaults"]["noValue"]
        assert len(told) > 12 and told.rstrip("?.") != told, title


# Grafana's kinds of panels -> module of its own schema; the properties of table cells are in the common one.
SCHEMAS = {"status-history": "statushistory", "state-timeline": "statetimeline"}
# What Grafana's schema leaves to the data source, and what only the editor reads.
LEFT_OPEN = re.compile(r"\.annotations\.list\[\d\]\.(rawQuery|target\.\w+)|\.templating\.list\[\d\]\.definition")


def unknown(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """Yield what of ours a schema did not take over, or took as something else."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from unknown(value, theirs[key], f"{place}.{key}") if key in theirs else (f"{place}.{key}",)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for at, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from unknown(one, other, f"{place}[{at}]")
    elif ours != theirs:
        yield f"{place}: {ours!r} was read as {theirs!r}"


def read_by_grafana(model: Any, value: Any) -> Any:
    return json.loads(json.dumps(model.from_json(json.loads(json.dumps(value))), cls=JSONEncoder))


def test_grafana_s_own_schema_knows_every_property() -> None:
    """Against the schemas that Grafana publishes for its panels: a property that it does not know would be passed over in silence."""
    for name, board in boards().items():
        found = [one for one in unknown(board, read_by_grafana(dashboard.Dashboard, board)) if not LEFT_OPEN.fullmatch(one)]
        assert not found, f"{name}: {found}"
    drawn = 0
    for title, panel in panels():
        kind = panel["type"]
        schema = import_module(f"grafana_foundation_sdk.models.{SCHEMAS.get(kind, kind)}")
        assert not list(unknown(panel["options"], read_by_grafana(schema.Options, panel["options"]))), title
        custom = dict(panel["fieldConfig"]["defaults"]["custom"])
        for override in panel["fieldConfig"]["overrides"]:
            custom |= {one["id"].removeprefix("custom."): one["value"] for one in override["properties"] if one["id"].startswith("custom.")}
        fields = common.TableFieldOptions if kind == "table" else getattr(schema, "FieldConfig", None)
        assert custom == {} if fields is None else not list(unknown(custom, read_by_grafana(fields, custom))), title
        drawn += fields is not None
    assert drawn > 90
    broken = panel | {"options": {**panel["options"], "colourMode": "value"}}  # the check notices a misspelt one
    assert list(unknown(broken["options"], read_by_grafana(schema.Options, broken["options"]))) == [".colourMode"]


def test_panels_lie_beside_each_other() -> None:
    for name, board in boards().items():
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        for panel in board["panels"]:
            assert 0 <= panel["gridPos"]["x"] <= 24 - panel["gridPos"]["w"], f"{name}/{panel['title']}"
        for one, other in combinations(board["panels"], 2):
            a, b = one["gridPos"], other["gridPos"]
            apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
            assert apart, f"{name}: {one['title']} covers {other['title']}"


def test_variables_that_queries_use_are_on_their_board_and_quoted() -> None:
    for name, board in boards().items():
        here = {variable["name"] for variable in board["templating"]["list"]}
        used: set[str] = set()
        for where, query in sql_queries():
            if where.startswith(f"{name}/"):
                used |= set(re.findall(r"\$\{(\w+)", query))
                assert not re.search(r"\$\{\w+\}|\$(?!__|\{)\w", query), f"{where}: a variable without quoting"
                assert "$__interval_ms" in query or "$__interval" not in query, f"{where}: the text 1m can be read as a month"
        assert used == here, name


def test_links_lead_to_boards_and_variables_that_are_there() -> None:
    known = {board["uid"]: {variable["name"] for variable in board["templating"]["list"]} for board in boards().values()}
    assert len(known) == len(BOARDS)
    found = 0
    for title, panel in panels():
        for override in panel["fieldConfig"]["overrides"]:
            for link in (link for p in override["properties"] if p["id"] == "links" for link in p["value"]):
                uid, variable = re.match(r"/d/([\w-]+)\?var-(\w+)=", link["url"]).groups()  # type: ignore[union-attr]
                assert variable in known[uid], title
                column = override["matcher"]["options"]
                assert any(re.search(rf"AS \"?{column}\"?\b", target["rawSql"]) for target in panel["targets"]), title
                found += 1
    assert found == 2


def test_overrides_name_columns_that_the_query_gives() -> None:
    for title, panel in panels():
        text = "\n".join(target.get("rawSql", "") + target.get("legendFormat", "") for target in panel["targets"])
        for override in panel["fieldConfig"]["overrides"]:
            if override["matcher"]["id"] == "byName" and title != "signals/Verdicts":  # whose lines are the rows' own words
                assert re.search(rf"\b{re.escape(override['matcher']['options'])}", text), f"{title}: {override['matcher']['options']}"


def test_what_the_market_page_must_show() -> None:
    """R000-47, 48, 60 to 65 and 109: the charts that the product asks for."""
    market = {panel["title"]: panel for panel in boards()["market"]["panels"]}
    assert market["Price"]["type"] == "candlestick" and market["Funding of the ten largest"]["type"] == "status-history"
    below = market["CVD from zero"]["gridPos"]
    assert below["y"] == market["Price"]["gridPos"]["y"] + market["Price"]["gridPos"]["h"] and below["w"] == market["Price"]["gridPos"]["w"]
    assert {
        "Open interest",
        "Funding: predicted and settled",
        "Liquidations",
        "Order-book imbalance",
        "Order sizes",
        "Market pulse",
        "Breadth",
    } <= set(market)
    assert {mark["name"] for mark in boards()["market"]["annotations"]["list"]} == {"Liquidations", "Signals", "Trades"}
    assert boards()["pipeline"]["panels"][1]["title"] == "Health"


# --- on a database -----------------------------------------------------------------------------------------------------


def at(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()


def ask(connection: psycopg.Connection, title: str, since: int = rows.SINCE, **variables: list[str]) -> list[dict[str, Any]]:
    (query,) = [query for name, query in sql_queries() if name == f"{title} A"]
    text = expanded(query, at(since), at(rows.UNTIL), {**VARIABLES, **variables})
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute(text.encode()).fetchall()


@pytest.mark.stack
def test_every_query_gives_rows(filled: psycopg.Connection) -> None:
    asked = 0
    for name, query in sql_queries():
        found = filled.execute(expanded(query, at(rows.SINCE), at(rows.UNTIL), VARIABLES).encode()).fetchall()
        assert found and any(value is not None for row in found for value in row), f"{name}: nothing to show"
        asked += 1
    assert asked > 85


@pytest.mark.stack
def test_charts_have_times_and_numbers(filled: psycopg.Connection) -> None:
    """What Grafana asks of a chart: a time of each row, in order, and numbers, one series for each column or ``metric``."""
    charts = 0
    for title, panel in panels():
        for target in panel["targets"]:
            if target.get("format") != "time_series":
                continue
            cursor = filled.execute(expanded(target["rawSql"], at(rows.SINCE), at(rows.UNTIL), VARIABLES).encode())
            columns = [column.name for column in cursor.description or ()]
            found = cursor.fetchall()
            assert columns[0] == "time" and len(set(columns)) == len(columns), title
            times = [row[0] for row in found]
            assert times == sorted(times), title
            for number, column in enumerate(columns[1:], 1):
                kinds = {type(row[number]).__name__ for row in found} - {"NoneType"}
                if column == "metric":
                    assert kinds == {"str"} and number == 1, title
                    assert (
                        len({row[:2] for row in found}) == len(found)
                        or "event_time AS" in target["rawSql"]
                        or "entry_time AS" in target["rawSql"]
                    ), title
                else:
                    assert kinds <= {"float", "int", "Decimal"} or panel["type"] == "state-timeline", f"{title}: {column} {kinds}"
            charts += 1
    assert charts > 25


@pytest.mark.stack
def test_results_are_those_of_the_statistics(filled: psycopg.Connection) -> None:
    """Against D23's functions of the core, on the same trades."""
    for config in rows.STRATEGIES:
        trades = [one for one in rows.account()["trades_closed"] if one["strategy_id"] == config.strategy_id]
        truth = side(trades)
        since, until = min(one["entry_time"] for one in trades), max(one["event_time"] for one in trades)
        statistics = evaluate(Ledger.of(trades, 10_000.0, since, until))
        (one,) = ask(filled, "strategies/Results by strategy", strategy=[config.strategy_id])
        assert (one["strategy"], one["trades"]) == (config.display_name, truth.trades)
        assert float(one["won"]) == pytest.approx(truth.win_rate)
        assert one["profit factor"] == pytest.approx(truth.profit_factor)
        (both,) = ask(filled, "strategies/Win rate and profit factor", strategy=[config.strategy_id])
        for row in (one, both):
            assert (float(row["won from"]), float(row["won to"])) == (pytest.approx(truth.win_rate_low), pytest.approx(truth.win_rate_high))
            assert row["factor from"] == pytest.approx(truth.profit_factor_low) and row["factor to"] == pytest.approx(
                truth.profit_factor_high
            )
            assert (row["trades"], row["no factor"]) == (truth.trades, "")
        assert (one["net R"], one["net money"]) == (pytest.approx(truth.net_r), pytest.approx(truth.net_pnl))
        assert (one["max drawdown R"], one["max drawdown"]) == (pytest.approx(truth.drawdown_r), pytest.approx(truth.drawdown_pnl))
        assert one["expectancy"] == pytest.approx(truth.mean_r)
        (stat,) = ask(filled, "strategies/Sharpe", strategy=[config.strategy_id])
        assert stat["sharpe"] == pytest.approx(statistics["sharpe"])
        lines = ask(filled, "strategies/Drawdown", strategy=[config.strategy_id])
        assert min(line["drawdown"] for line in lines) == pytest.approx(-truth.drawdown_r)
        for title, key in (("By exit", "exit_reason"), ("By tier", "tier"), ("By direction", "direction"), ("By regime", "regime")):
            groups = {row[next(iter(row))]: row for row in ask(filled, f"strategies/{title}", strategy=[config.strategy_id])}
            assert set(groups) == {trade[key] for trade in trades}
            for group, row in groups.items():
                members = [trade for trade in trades if trade[key] == group]
                assert (row["trades"], row["net R"]) == (len(members), pytest.approx(sum(trade["net_r"] for trade in members)))
    sides = {row["figure"]: row for row in ask(filled, "strategies/A against B: figures")}
    pair = [side([one for one in rows.account()["trades_closed"] if one["strategy_id"] == name]) for name in ("one", "two")]
    assert sides["01 trades"]["A"] == pair[0].trades
    for figure, name, scale in (
        ("02 won, %", "win_rate", 100), ("03 won from, %", "win_rate_low", 100), ("04 won to, %", "win_rate_high", 100),
        ("05 profit factor", "profit_factor", 1), ("06 profit factor from", "profit_factor_low", 1), ("07 profit factor to", "profit_factor_high", 1),
        ("08 net R", "net_r", 1), ("09 net R a trade", "mean_r", 1),
    ):  # fmt: skip
        assert [sides[figure][name_] for name_ in "AB"] == [pytest.approx(scale * getattr(one, name)) for one in pair], figure
    assert sides["08 net R"]["A - B"] == pytest.approx(pair[0].net_r - pair[1].net_r)
    assert sides["10 net R a trade from"]["A"] < pair[0].mean_r < sides["11 net R a trade to"]["A"]


@pytest.mark.stack
def test_no_win_rate_or_profit_factor_stands_without_its_interval(filled: psycopg.Connection) -> None:
    """One trade, or only wins or losses: the win rate has its interval, the profit factor a reason instead of a number."""
    trades = [one for one in rows.account()["trades_closed"] if one["strategy_id"] == "one"]
    for what, reason in (("lost", "no winning trade"), ("won", "no losing trade")):
        trade = next(one for one in trades if (one["net_pnl"] < 0) is (what == "lost"))
        moment = at(trade["event_time"])

        def shown(title: str, moment: str = moment) -> list[dict[str, Any]]:
            (query,) = [query for name, query in sql_queries() if name == f"strategies/{title} A"]
            with filled.cursor(row_factory=psycopg.rows.dict_row) as cursor:
                return cursor.execute(expanded(query, moment, moment, {**VARIABLES, "strategy": ["one"]}).encode()).fetchall()

        for title in ("Win rate and profit factor", "Results by strategy"):
            (row,) = shown(title)
            assert (row["trades"], row["won"], row["no factor"]) == (1, float(what == "won"), reason)
            low, high = wilson(int(what == "won"), 1)
            assert (row["won from"], row["won to"]) == (pytest.approx(low), pytest.approx(high))
            assert row["profit factor"] is row["factor from"] is row["factor to"] is None
        sides = {row["figure"]: row for row in shown("A against B: figures")}
        assert sides["01 trades"]["A"] == 1
        for figure, row in sides.items():
            assert figure == "01 trades" or (row["A"] is None and "A: too few trades" in row["why none"]), figure
    assert ask(filled, "strategies/Win rate and profit factor", strategy=["nobody"]) == []
    for title, panel in panels():
        for target in panel["targets"]:
            if re.search(r"\bAS won\b", target.get("rawSql", "")):
                assert re.search(r'AS "?(won )?from', target["rawSql"]) or "won_from" in target["rawSql"], title


@pytest.mark.stack
def test_the_cvd_begins_at_zero_and_its_bars_are_the_price_s(filled: psycopg.Connection) -> None:
    line = ask(filled, "market/CVD from zero", since=rows.OPEN)
    deltas = [one["cvd"] for one in rows.market()["bars"] if one["instrument"] == rows.BTC and one["timeframe"] == "1m"]
    assert line[0]["cvd"] == 0 and len(line) == len(deltas) == 60
    assert [row["cvd"] for row in line] == pytest.approx([sum(deltas[1 : n + 1]) for n in range(60)])
    assert [row["time"] for row in line] == [row["time"] for row in ask(filled, "market/Price", since=rows.OPEN)]
    takers = ask(filled, "market/Taker buys and sells", since=rows.OPEN)
    assert all(row["bought"] - row["sold"] == pytest.approx(10.0) for row in takers)
    assert [row["bought"] + row["sold"] for row in takers] == pytest.approx(deltas)


@pytest.mark.stack
def test_the_depth_is_what_stands_up_to_a_price_in_the_newest_book_that_may_be_used(filled: psycopg.Connection) -> None:
    found = [(row["price"], row["bids"], row["asks"]) for row in ask(filled, "market/Depth")]
    assert found == [(99.5, 5.0, None), (100.0, 2.0, None), (100.5, None, 1.0), (101.0, None, 5.0)]


@pytest.mark.stack
def test_recorded_data_is_labelled_on_every_page(filled: psycopg.Connection) -> None:
    """D27; of a page about one instrument, that one's."""

    def told() -> dict[str, str]:
        return {title: row["origin"] for title, _ in panels() if title.endswith("/Market data") for row in ask(filled, title)}

    assert set(told()) == {f"{name}/Market data" for name in boards()} and set(told().values()) == {LIVE}
    with filled.transaction(force_rollback=True):
        filled.execute("UPDATE instruments SET recorded = true WHERE instrument = %s", [rows.ETH])
        assert told() == {f"{name}/Market data": LIVE if name in ("market", "signals") else BOTH for name in boards()}
        filled.execute("UPDATE instruments SET recorded = true")
        assert set(told().values()) == {RECORDED}
        filled.execute("UPDATE instruments SET recorded = false, author = 'generated-x' WHERE instrument = %s", [rows.ETH])
        assert told() == {f"{name}/Market data": RECORDED if name in ("market", "signals") else PLAYED for name in boards()}
        filled.execute("UPDATE instruments SET recorded = false, author = 'generated-x'")
        assert set(told().values()) == {GENERATED}


@pytest.mark.stack
def test_the_guard_s_changes_are_told_once(filled: psycopg.Connection) -> None:
    found = [
        (row["event_time"].timestamp() * 1000, row["state"], row["may open"], row["rules"])
        for row in ask(filled, "execution/Guard state changes")
    ]
    assert found == [(rows.UNTIL - 28_000, "halted", False, "daily_loss"), (rows.UNTIL - 118_000, "normal", True, "")]


@pytest.mark.stack
def test_costs_are_positive_whatever_the_side(filled: psycopg.Connection) -> None:
    legs = {row["leg"]: row for row in ask(filled, "execution/Fills by leg")}
    assert legs["entry"]["mean"] == pytest.approx(2.0) and legs["entry"]["median"] == pytest.approx(2.0)  # 12 of 60,000
    assert legs["tp2"]["mean"] == pytest.approx(0.0)
    assert all(row["bp"] == pytest.approx(2.0) for row in ask(filled, "execution/Implementation shortfall"))
    assert all(row["delay"] == pytest.approx(400.0) for row in ask(filled, "execution/From signal to entry"))
    (share,) = ask(filled, "execution/Maker share")
    assert 0.49 < next(iter(share.values())) < 0.51


@pytest.mark.stack
def test_costs_of_live_trades_and_comparisons_are_those_of_the_records(filled: psycopg.Connection) -> None:
    one, two = ask(filled, "execution/Costs of live trades")
    assert (one["strategy"], two["strategy"], one["trades"], one["timeouts"], one["targets taken"], one["without stop"]) == (
        "one",
        "two",
        4,
        1,
        6,
        450,
    )
    assert float(one["friction"]) == pytest.approx(0.055) and float(one["slippage entry"]) == pytest.approx(3.0)
    assert one["maker targets"] is None, "no target filled: missing, not zero"
    found = ask(filled, "execution/Reconciliation findings")
    assert [row["state"] for row in found] == ["green", "yellow", "green", "green"]
    assert found[1]["findings"] == "missing_order BTCUSDT c-1 (journal open, venue none): query"


def test_a_clicked_score_is_the_one_that_is_explained(filled: psycopg.Connection) -> None:
    record = next(one for one in rows.scores() if one["signalled"])
    (one,) = ask(filled, "signals/Selected score", score=[record["score_id"]])
    assert one["command"] == f"perpflow explain '{record['score_id']}'" and one["score"] == record["score"]
    layers = ask(filled, "signals/Layers of the score", score=[record["score_id"]])
    assert {(row["layer"], row["part"]): row["raw points"] for row in layers} == {
        (layer["name"], part): points for layer in record["layers"] for part, points in layer["parts"].items()
    }
    gates = ask(filled, "signals/Gates of the score", score=[record["score_id"]])
    assert [row["gate"] for row in gates] == [gate["name"] for gate in record["gates"]]
    assert {
        row["input"] for row in ask(filled, "signals/Inputs of the score", score=[record["score_id"]]) if row["state"] == "missing"
    } == set(record["missing_inputs"]) - set(record["stale_inputs"])
    (newest,) = ask(filled, "signals/Selected score", strategy=["two"])
    assert newest["strategy"] == "BTC 'two'" and newest["event_time"] == datetime.fromtimestamp(rows.UNTIL / 1000, UTC)


@pytest.mark.stack
def test_the_ten_largest_and_the_pulse(filled: psycopg.Connection) -> None:
    assert {row["metric"]: row["value"] for row in ask(filled, "market/Funding of the ten largest")} == {
        rows.BTC: pytest.approx(1.0),
        rows.ETH: pytest.approx(-0.5),
    }
    pulse = ask(filled, "market/Market pulse")
    assert [row["instrument"] for row in pulse] == [rows.BTC, rows.ETH]
    assert 0 <= pulse[0]["age"] < 60
    assert pulse[0]["24 h"] == pytest.approx(rows.price(rows.UNTIL) / rows.price(rows.UNTIL - rows.DAY) - 1)
    with filled.transaction(force_rollback=True):  # cold: no bars of our own yet, but the venue's, of which the newest before counts
        filled.execute("DELETE FROM bars")
        for minutes, close in ((10, 1.0), (5, 2.0), (-5, 4.0)):
            filled.execute(
                "INSERT INTO klines (instrument, event_time, receive_time, timeframe, open, high, low, close, volume, backfilled, kafka_partition,"
                " kafka_offset) VALUES (%s, to_timestamp(%s), now(), '5m', 1, 1, 1, %s, 1, true, 0, 0)",
                [rows.BTC, (rows.UNTIL - rows.DAY) / 1000 - minutes * 60, close],
            )
        cold = {row["instrument"]: row["24 h"] for row in ask(filled, "market/Market pulse")}
        assert cold == {rows.BTC: pytest.approx(rows.price(rows.UNTIL) / 2.0 - 1), rows.ETH: None}
        assert ask(filled, "market/Breadth") == [{"breadth": 1}]
        filled.execute("DELETE FROM features WHERE instrument = %s AND event_time > to_timestamp(%s)", [rows.BTC, rows.UNTIL / 1000 - 3600])
        assert ask(filled, "market/Breadth") == [{"breadth": None}], "a price of an hour ago is no price of now"
    (health,) = ask(filled, "pipeline/Health")
    assert health["health"] == pytest.approx(((9.5 + 8.0) / 2 + 8.0) / 2)


@pytest.mark.stack
def test_hostile_choices_are_only_text(filled: psycopg.Connection) -> None:
    for title in ("signals/Selected score", "strategies/Net R", "market/Price"):
        hostile = ["'; DROP TABLE scores; --", "x' OR '1'='1"]
        ask(filled, title, score=hostile[:1], strategy=hostile, instrument=hostile[:1])
    assert filled.execute("SELECT count(*) FROM scores").fetchone() != (0,)


@pytest.mark.stack
def test_without_data_nothing_is_made_up(database_url: str) -> None:
    """D27: on an empty database charts are empty and sums are missing, not zero; only counts are zero."""
    with migrated(database_url) as url, psycopg.connect(url, autocommit=True) as connection:
        for title, query in sql_queries():
            found = connection.execute(expanded(query, at(rows.SINCE), at(rows.UNTIL), VARIABLES).encode()).fetchall()
            if not title.startswith("system/"):
                assert not found or found == [(None,)] or (found == [(0,)] and "count(*)" in query), f"{title}: {found[:3]}"
