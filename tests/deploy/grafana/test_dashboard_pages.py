"""The dashboards as pages: queries are treated as Grafana treats them, what is drawn is what the database holds, and nothing from outside becomes code."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deploy.cli import load_app
from deploy.grafana.preview import look
from deploy.grafana.preview.figures import KINDS, figure, scales_with_one_zero
from deploy.grafana.preview.query import duration_ms, expanded, rate_interval, step_ms
from deploy.grafana.preview.render import render
from deploy.grafana.preview.source import Answer, Line, Table, lines_of
from schemas.errors import UserError
from tests.deploy import dashboard_rows as rows
from tests.deploy.dashboard_queries import boards


def test_macros_and_variables_are_filled_in_as_grafana_does() -> None:
    query = "SELECT $__interval_ms FROM t WHERE $__timeFilter(at) AND at > $__timeFrom() AND id IN (${ids:sqlstring})"
    found = expanded(query, "A", "B", {"ids": ["a", "b'c"]}, 5)
    assert found == "SELECT 5 FROM t WHERE at BETWEEN 'A' AND 'B' AND at > 'A' AND id IN ('a','b''c')"
    assert (
        expanded("SELECT ${ids:sqlstring}", "A", "B", {"ids": ["$__timeFrom() ${ids:sqlstring}"]})
        == "SELECT '$__timeFrom() ${ids:sqlstring}'"
    )
    for unknown in ("SELECT $__interval", "SELECT $id", "SELECT ${id}", "SELECT $__timeGroup(at, '1m')"):
        with pytest.raises(ValueError, match="is not known"):
            expanded(unknown, "A", "B", {"id": ["1"]})


def test_steps_and_rate_intervals() -> None:
    assert [duration_ms(text) for text in ("15s", "1m", "2h", "250ms")] == [15_000, 60_000, 7_200_000, 250]
    with pytest.raises(ValueError):
        duration_ms("1 month")
    half, whole = {"gridPos": {"w": 12}}, {"gridPos": {"w": 24}, "interval": "1m"}
    assert step_ms(half, 3_600_000) == 15_000  # 240 points of an hour
    assert step_ms(whole, 60_000) == 60_000  # not below the panel's own
    assert step_ms(half, 3 * 365 * 86_400_000) == 5 * 86_400_000
    # Grafana's documentation: max($__interval + scrape interval, 4 * scrape interval).
    assert (rate_interval(2, 15), rate_interval(300, 15)) == ("60s", "315s")


def test_lines_are_named_by_column_or_metric() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert lines_of(["time", "a", "b"], [(at, 1.0, None), (at, 2.0, None)]) == [Line("a", [at.timestamp() * 1000] * 2, [1.0, 2.0])]
    by_metric = lines_of(["time", "metric", "v"], [(at, "x", 1.0), (at, "y", 2.0)])
    assert [(line.name, line.values) for line in by_metric] == [("x", [1.0]), ("y", [2.0])]
    assert [line.name for line in lines_of(["time", "metric", "v", "w"], [(at, "x", 1.0, 2.0)])] == ["x v", "x w"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "short", "nothing"), (0, "short", "0"), (1234567, "short", "1.235 M"), (0.1234, "percentunit", "12.34 %"), (90, "s", "1.5 min"),
        (0.0042, "s", "4.2 ms"), (1500, "ms", "1.5 s"), (1536, "bytes", "1.5 KiB"), (12, "bytes", "12 B"), (-2.5, "suffix: R", "-2.5 R"),
        (1234567.0, "suffix: quote", "1,234,567 quote"), (61234.5, "none", "61,234.5"), (0.00001234, "none", "0.00001234"), ("long", "s", "long"),
        (float("inf"), "s", "inf"), (datetime(2026, 1, 2, 3, 4, 5, 678_000), "s", "2026-01-02 03:04:05.678"),
    ],
)  # fmt: skip
def test_numbers_are_written_for_people(value: object, unit: str, text: str) -> None:
    assert look.shown(value, unit) == text


@pytest.mark.parametrize(
    ("value", "unit", "named", "text"),
    [
        (32_160_457.0, "suffix: quote", False, "32.2M"), (-0.6966, "suffix: R", True, "-0.697 R"), (15, "short", True, "15"), (999.7, "short", False, "1k"),
        (0.4667, "percentunit", True, "46.7 %"), (1.0, "percentunit", False, "100 %"), (0.0, "suffix: R", True, "0 R"), (None, "short", True, ""),
    ],
)  # fmt: skip
def test_bars_say_their_numbers_briefly(value: float | None, unit: str, named: bool, text: str) -> None:
    assert look.brief(value, unit, named) == text


def test_every_unit_colour_and_kind_of_the_dashboards_can_be_drawn() -> None:
    for board in boards().values():
        for panel in board["panels"]:
            assert panel["type"] in {*KINDS, "stat", "table"}
            overrides = [pair for one in panel["fieldConfig"]["overrides"] for pair in one["properties"]]
            units = [panel["fieldConfig"]["defaults"]["unit"], *(pair["value"] for pair in overrides if pair["id"] == "unit")]
            assert all(look.shown(12.5, unit) for unit in units)
            assert all(shade for _, shade in look.steps(panel))
            look.line_colour(panel, "bought", 0)


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), max_size=5).map(lambda values: [*values, 0.0]), min_size=2, max_size=4)
)
def test_bars_of_several_units_stand_on_one_zero_and_are_seen_whole(values: list[list[float]]) -> None:
    scales = scales_with_one_zero(values)
    heights = [-low / (high - low) for low, high in scales]
    assert all(math.isclose(one, heights[0], abs_tol=1e-9) for one in heights)
    for one, (low, high) in zip(values, scales, strict=True):
        assert low <= min(one) and max(one) <= high


def test_states_end_where_the_next_begins_or_nothing_came() -> None:
    panel = next(panel for panel in boards()["signals"]["panels"] if panel["title"] == "Regime")
    line = Line("s", [0.0, 10.0, 20.0, 60.0, 70.0], ["range", "range", "trend", "trend", "range"])
    drawn = figure(panel, Answer([line], span=(0.0, 80.0)), 200)
    found = sorted((start, start + lasted, bar.name) for bar in drawn.data for start, lasted in zip(bar.base, bar.x, strict=True))
    assert found == [(0, 20, "range"), (20, 30, "trend"), (60, 70, "trend"), (70, 80, "range")]


def panel_of(board: str, title: str) -> Any:
    return next(panel for panel in boards()[board]["panels"] if panel["title"] == title)


def test_a_state_has_one_colour_whichever_comes_first() -> None:
    panel = panel_of("signals", "Regime")
    shades = [
        {bar.name: bar.marker.color for bar in figure(panel, Answer([Line("s", [0.0, 10.0], states)], span=(0.0, 20.0)), 200).data}
        for states in (["range", "trend"], ["trend", "range"])
    ]
    assert shades[0] == shades[1] == {"range": look.COLOURS["green"], "trend": look.COLOURS["blue"]}


@pytest.mark.parametrize(
    ("unit", "largest", "ticks", "suffix"),
    [
        ("s", 45e6, 45e6 / 86_400, " d"), ("s", 119, 119, " s"), ("s", 0.3, 300, " ms"), ("ms", 3_500, 3.5, " s"), ("ms", 1_500, 1_500, " ms"),
        ("bytes", 300 * 2**20, 300, " MiB"), ("suffix: R", 1e6, 1e6, " R"), ("s", 0, 0, " s"),
    ],
)  # fmt: skip
def test_axes_are_written_in_a_size_that_suits_them(unit: str, largest: float, ticks: float, suffix: str) -> None:
    size = look.axis_size(unit, largest)
    assert largest / size == pytest.approx(ticks) and look.axis_form(unit, size)["ticksuffix"] == suffix


def test_each_unit_of_a_chart_has_an_axis_and_a_lone_line_its_name() -> None:
    panel = panel_of("pipeline", "Back-pressure")
    lines = [Line("BINANCE waiting", [0.0, 1.0], [0.2, 0.3]), Line("BINANCE depth left out", [0.0, 1.0], [50.0, 60.0])]
    drawn = figure(panel, Answer(lines, span=(0.0, 2.0)), 200)
    assert [trace.yaxis for trace in drawn.data] == ["y", "y2"] and drawn.layout.showlegend
    assert (drawn.layout.yaxis.tickformat, drawn.layout.yaxis2.ticksuffix, drawn.layout.yaxis2.side) == (".3~p", "/s", "right")
    assert figure(panel, Answer(lines[:1], span=(0.0, 2.0)), 200).layout.showlegend
    watermarks = figure(
        panel_of("pipeline", "Watermarks behind"), Answer([Line("mark", [0.0, 1.0], [864e4, 1728e4])], span=(0.0, 2.0)), 200
    )
    assert list(watermarks.data[0].y) == [100, 200] and watermarks.layout.yaxis.ticksuffix == " d"


def test_of_many_lines_the_largest_are_named() -> None:
    lines = [Line(f"l{number}", [0.0, 1.0], [float(number), 0.0]) for number in range(20)]
    drawn = figure(panel_of("pipeline", "Sink lag"), Answer(lines, span=(0.0, 2.0)), 200)
    named = [trace for trace in drawn.data if trace.showlegend]
    assert [trace.name for trace in named] == [f"l{number}" for number in range(8, 20)] and drawn.layout.showlegend
    assert len({trace.line.color for trace in named}) == 12


def test_bars_on_one_another_are_of_one_width() -> None:
    lines = [Line("entry", [0.0, 60.0, 120.0], [1.0, 1.0, 1.0]), Line("blocked", [120.0], [2.0])]
    drawn = figure(panel_of("signals", "Verdicts"), Answer(lines, span=(0.0, 2000.0)), 200)
    assert {trace.width for trace in drawn.data} == {54.0}


def test_cells_begin_at_their_time_and_the_legend_says_what_colours_mean() -> None:
    panel = panel_of("market", "Funding of the ten largest")
    lines = [Line("a", [0.0, 300.0, 900.0], [0.5, 2.0, 20.0]), Line("b", [300.0], [-2.0])]
    cells, *legend = figure(panel, Answer(lines, span=(0.0, 2000.0)), 200).data
    assert list(cells.x) == [0, 300, 600, 900, 1200] and [list(row) for row in cells.z] == [[2, 3, None, 5], [None, 0, None, None]]
    assert [one.name for one in legend] == ["below -1 bp", "from -1 bp", "from 0 bp", "from 1 bp", "from 3 bp", "from 10 bp"]
    assert [one.marker.color for one in legend] == [shade for _, shade in look.steps(panel)]


def test_candles_are_the_rows() -> None:
    panel = next(panel for panel in boards()["market"]["panels"] if panel["title"] == "Price")
    at = [datetime(2026, 1, 1, 0, minute, tzinfo=UTC) for minute in range(2)]
    table = Table(["time", "open", "high", "low", "close", "volume"], [(at[0], 1.0, 4.0, 0.5, 2.0, 7.0), (at[1], 2.0, 3.0, 1.0, 1.5, 8.0)])
    marks = Table(["time", "text"], [(at[1], "LONG liquidated")])
    bars, candles, marked = figure(panel, Answer(tables=[table], span=(0, 1)), 300, [("Liquidations", "red", marks)]).data
    assert (list(candles.open), list(candles.high), list(candles.low), list(candles.close)) == ([1, 2], [4, 3], [0.5, 1], [2, 1.5])
    assert list(bars.y) == [7, 8] and list(marked.text) == ["LONG liquidated"]


class Page(HTMLParser):
    """What a browser would make of a page: its elements and the text of its panels."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.inside = tag

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text += data


SINCE, UNTIL = (datetime.fromtimestamp(time / 1000, UTC) for time in (rows.SINCE, rows.UNTIL))
CHOSEN = {"instrument": [rows.BTC], "a": ["one"], "b": ["two"]}


@pytest.mark.stack
def test_every_panel_of_sql_is_drawn(filled_url: str, tmp_path: Path) -> None:
    found = {done.path.stem: done for done in render(tmp_path, filled_url, None, SINCE, UNTIL, CHOSEN)}
    assert set(found) == set(boards()) and (tmp_path / "plotly.min.js").stat().st_size > 1_000_000
    for name, board in boards().items():
        done, page = found[name], Page(tmp_path / f"{name}.html")
        assert not done.errors
        asked = [panel for panel in board["panels"] if panel["datasource"]["type"] != "prometheus"]
        assert done.filled == len(asked) and all("No Prometheus" in why for why in done.empty.values()), (name, done.empty)
        assert all(panel["title"] in page.text and panel["description"] in page.text for panel in board["panels"])
        charts = sum(panel["type"] in KINDS for panel in asked)
        assert page.tags.count("table") == sum(panel["type"] == "table" for panel in asked)
        assert (tmp_path / f"{name}.html").read_text().count("Plotly.newPlot(") == charts


@pytest.mark.stack
def test_names_from_outside_stay_text(filled: psycopg.Connection, filled_url: str, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)><b>'\"&"
    render(tmp_path / "before", filled_url, None, SINCE, UNTIL, CHOSEN)
    before = {path.stem: Page(path).tags for path in (tmp_path / "before").glob("*.html")}
    try:
        for table, column in (
            ("trades_closed", "strategy_name"),
            ("scores", "strategy_name"),
            ("orders", "reason"),
            ("features", "stale_inputs[1]"),
        ):
            filled.execute(f"UPDATE {table} SET {column} = %s".encode(), [hostile])
        render(tmp_path / "after", filled_url, None, SINCE, UNTIL, {**CHOSEN, "score": [hostile]})
        for name, tags in before.items():
            found = Page(tmp_path / "after" / f"{name}.html").tags
            assert {tag for tag in found if tag in ("img", "b", "script")} == {tag for tag in tags if tag in ("img", "b", "script")}
            assert found.count("script") <= tags.count("script") and found.count("b") == tags.count("b") and "img" not in found
        assert hostile in Page(tmp_path / "after" / "strategies.html").text
    finally:
        for table in ("trades_closed", "scores"):
            filled.execute(f"UPDATE {table} SET strategy_name = 'BTC one'".encode())


@pytest.mark.stack
def test_without_data_every_panel_says_so(environment_database: str, tmp_path: Path) -> None:
    for done in render(tmp_path, environment_database):
        assert not done.errors
        page = Page(done.path)
        assert all(why in page.text for why in done.empty.values())
        assert len(done.empty) > 8


@pytest.mark.stack
def test_the_command_says_what_is_empty_and_fails_where_a_query_does(
    filled: psycopg.Connection, filled_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", filled_url)
    monkeypatch.delenv("PROMETHEUS_URL", raising=False)
    app = load_app("dashboards")
    arguments = ["render", "--out", str(tmp_path), "--set", f"instrument={rows.BTC}", "--from", SINCE.strftime("%Y-%m-%d")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and f"{tmp_path}/market.html" in done.output and "No Prometheus to ask" in done.output
    assert isinstance(CliRunner().invoke(app, ["render", "--set", "instrument"]).exception, UserError)
    gone = CliRunner().invoke(app, [*arguments, "--prometheus", "http://127.0.0.1:9"])
    assert isinstance(gone.exception, UserError) and "http://127.0.0.1:9" in str(gone.exception)
    filled.execute("ALTER TABLE liquidations RENAME COLUMN side TO aside")
    try:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 1 and 'column "side" does not exist' in done.output
    finally:
        filled.execute("ALTER TABLE liquidations RENAME COLUMN aside TO side")
