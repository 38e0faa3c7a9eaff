"""What the demo says of a run: facts out of the database, checks against recordings, the summary and the page."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from rich.console import Console

from deploy.demo.collect import ClosedTrade, collect, max_drawdown, paper_facts, snapshot
from deploy.demo.golden import Golden, golden_checks, golden_of_recording
from deploy.demo.outcome import Check, DemoFacts, Top, decimal_text
from deploy.demo.panels import MAY_BE_EMPTY, panel_checks
from deploy.demo.report import write_report
from deploy.demo.series import read_series
from deploy.demo.summary import print_summary
from deploy.grafana import BOARDS
from deploy.grafana.preview.pages import Rendered
from deploy.report.charts import account_figure, broken, instrument_figure, outside, segments
from deploy.report.page import table
from deploy.report.series import Silence
from producers.binance import mapping
from producers.simulated.recording.recording import Recording
from schemas import catalogue
from tests.deploy.databases import migrated
from tests.support.paths import DATA, RECORDINGS

BTC = RECORDINGS / "binance_usdm_raw" / "btcusdt_20240808.gz"
LTC = RECORDINGS / "ltcusdt_spot_trades"
TRX = DATA / "depth_gap_csv"
NAME = "BINANCE:AAAUSDT-PERP"
START = 1_700_000_010_000  # a multiple of the grid
GRID = 15_000


@pytest.fixture
def url(database_url: str) -> Iterator[str]:
    with migrated(database_url) as url:
        yield url


def record(topic: str, **values: Any) -> dict[str, Any]:
    """A record of the topic's schema: what is not given is empty, zero, false or null."""
    found: dict[str, Any] = {}
    for field in catalogue.schema(topic)["fields"]:
        kind = field["type"]
        if isinstance(kind, list):
            found[field["name"]] = None
        elif isinstance(kind, dict):
            found[field["name"]] = {"array": [], "map": {}, "long": 0}[kind["type"]]
        else:
            found[field["name"]] = {"string": "", "boolean": False}.get(kind, 0)
    if "mode" in found:
        found["mode"] = "paper"
    unknown = set(values) - set(found)
    assert not unknown, unknown
    return found | values


def insert(url: str, topic: str, records: list[dict[str, Any]]) -> None:
    """Write records as the sink does: the schema's fields, then the place in Kafka."""
    fields = catalogue.schema(topic)["fields"]
    names = [field["name"] for field in fields]
    times = {name for name, field in zip(names, fields, strict=True) if "timestamp-millis" in json.dumps(field["type"])}
    nested = {
        name
        for name, field in zip(names, fields, strict=True)
        if '"record"' in json.dumps(field["type"]) or '"map"' in json.dumps(field["type"])
    }
    epoch = datetime(1970, 1, 1, tzinfo=UTC)

    def cell(name: str, value: Any) -> Any:
        if value is not None and name in times:
            return epoch + timedelta(milliseconds=value)
        return Jsonb(value) if name in nested else value

    columns = sql.SQL(", ").join(map(sql.Identifier, [*names, "kafka_partition", "kafka_offset"]))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(topic), columns)
    with psycopg.connect(url) as connection, connection.cursor().copy(statement) as copy:
        for offset, one in enumerate(records):
            copy.write_row([*(cell(name, one.get(name)) for name in names), 0, offset])


def trade(time: int, agg_id: int, price: float, quantity: float, maker: bool, fills: int = 1, **more: Any) -> dict[str, Any]:
    values = {
        "instrument": NAME,
        "event_time": time,
        "agg_id": agg_id,
        "first_trade_id": agg_id * 10,
        "last_trade_id": agg_id * 10 + fills - 1,
    }
    return record("agg_trades", **values, price=price, quantity=quantity, buyer_is_maker=maker, **more)


def score(step: int, **more: Any) -> dict[str, Any]:
    time = START + step * GRID
    return record(
        "scores", score_id=f"s{step}", instrument=NAME, event_time=time, strategy_id="one", regime="range", direction="NONE", **more
    )


def closed(number: int, net_r: float, reason: str) -> dict[str, Any]:
    return record(
        "trades_closed", trade_id=f"p{number}", instrument=NAME, strategy_id="one", event_time=START + number * 60_000, direction="LONG",
        entry_time=START + number * 60_000 - 30_000, entry_price=100.0, exit_price=100.0 + net_r, exit_reason=reason, tier="standard",
        net_r=net_r, net_pnl=net_r * 200, fees=2.5, hold_ms=30_000,
    )  # fmt: skip


@pytest.fixture(scope="module")
def filled(database_url: str) -> Iterator[str]:
    """A small run of which every figure is known. Read only."""
    with migrated(database_url) as url:
        fill(url)
        yield url


def fill(url: str) -> None:
    insert(url, "instruments", [record("instruments", instrument=NAME, event_time=1, recorded=True)])
    insert(url, "agg_trades", [
        trade(START + 1, 1, 100.5, 0.1, False, fills=3),
        trade(START + 2, 2, 100.25, 0.2, True),
        trade(START + 2, 3, 101.0, 0.12345678901234568, False),
        trade(START + 3, 4, 99.75, 1e-07, True, backfilled=True),
        trade(START + 400_000, 7, 100.0, 12.0, True, fills=2),
    ])  # fmt: skip
    early = {"bid_prices": [1.0], "bid_quantities": [1.0], "ask_prices": [2.0], "ask_quantities": [1.0]}
    late = {"bid_prices": [99.9, 99.8], "bid_quantities": [1.5, 7.0], "ask_prices": [100.1], "ask_quantities": [0.25]}
    insert(url, "depth", [
        record("depth", instrument=NAME, event_time=START + 5, epoch=1, state="live", **early),
        record("depth", instrument=NAME, event_time=START + 9, epoch=2, state="live", **late),
        record("depth", instrument=NAME, event_time=START + 10, epoch=2, state="invalid"),
    ])  # fmt: skip
    insert(url, "quotes", [
        record("quotes", instrument=NAME, event_time=START + 9, bid_price=99.9, bid_quantity=1.5, ask_price=100.1, ask_quantity=0.25),
        record("quotes", instrument=NAME, event_time=START + 8, bid_price=50.0, bid_quantity=1.0, ask_price=51.0, ask_quantity=1.0),
    ])  # fmt: skip
    insert(url, "gaps", [
        record("gaps", instrument=NAME, event_time=START + 4, stream="agg_trades", kind="id_gap", certain=True, repaired=True),
        record("gaps", instrument=NAME, event_time=START + 6, stream="depth", kind="sequence_gap", certain=True),
    ])  # fmt: skip
    insert(url, "features", [
        record("features", instrument=NAME, event_time=START + GRID, price=100.0, missing_inputs=["atr", "obi"], stale_inputs=["obi"]),
        record("features", instrument=NAME, event_time=START + 2 * GRID, price=100.0, cvd_30m=-3.5, obi=0.5, missing_inputs=["atr"], late_trades=2),
    ])  # fmt: skip
    insert(url, "strategies", [
        record("strategies", strategy_id="one", revision=1, instrument=NAME, display_name="old", event_time=1),
        record("strategies", strategy_id="one", revision=2, instrument=NAME, display_name="One <b>bold</b>", event_time=2, entry_score=75, flip_threshold=80,
               gate_vol_enabled=True, gate_cvd_enabled=True, gate_whale_enabled=True, cvd_fast_window="5m", cvd_slow_window="30m"),
    ])  # fmt: skip
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO strategy_registry SELECT strategy_id, revision, instrument, display_name, status, model, '', '{}', event_time, event_time, NULL, NULL,"
            " edited_by, note, kafka_partition, kafka_offset FROM strategies WHERE revision = 2"
        )
    insert(url, "scores", [
        score(1, missing_inputs=["atr"]),
        score(2, warm=True, gate_block="low_vol(0.001<0.002)", missing_inputs=["open_interest_change"]),
        score(3, warm=True, gate_block="low_vol(0.0015<0.002)"),
        score(4, warm=True, gate_passed=True, score=60.0),
        score(5, warm=True, gate_passed=True, score=77.0, tier="standard", signalled=True),
        score(6, warm=True, gate_passed=True, score=78.0, tier="standard", cooldown=True),
        score(7, warm=True, gate_passed=True, score=85.0, tier="heavy", cooldown=True, signalled=True),
    ])  # fmt: skip
    kinds = [("LONG", "standard", True, False), ("SHORT", "heavy", False, True), ("SHORT", "heavy", False, True)]
    insert(url, "signals", [
        record("signals", signal_id=f"g{at}", instrument=NAME, strategy_id="one", event_time=START + at, direction=side, tier=tier, entry=entry, flip=flip)
        for at, (side, tier, entry, flip) in enumerate(kinds)
    ])  # fmt: skip
    insert(url, "trades_closed", [closed(1, 1.5, "tp2"), closed(2, -1.0, "stop"), closed(3, -0.5, "flip"), closed(4, 0.25, "timeout")])
    insert(url, "fills", [
        record("fills", fill_id="f1", position_id="p1", instrument=NAME, event_time=START + 30_000, leg="entry", side="BUY", price=100.0, quantity=1.0),
        record("fills", fill_id="f2", position_id="p1", instrument=NAME, event_time=START + 60_000, leg="tp2", side="SELL", price=101.5, quantity=1.0),
        record("fills", fill_id="f3", position_id="p9", instrument=NAME, event_time=START + 70_000, leg="entry", side="SELL", price=102.0, quantity=1.0),
    ])  # fmt: skip
    insert(url, "positions", [
        record("positions", instrument=NAME, position_id="p1", status="open", event_time=START, direction="LONG"),
        record("positions", instrument=NAME, position_id="p1", status="closed", event_time=START + 60_000, direction="LONG"),
        record("positions", instrument=NAME, position_id="p9", status="open", event_time=START + 70_000, direction="SHORT", strategy_id="one",
               open_quantity=0.7),
    ])  # fmt: skip
    insert(url, "orders", [
        record("orders", order_id="o1", instrument=NAME, leg="entry", status="new", event_time=START),
        record("orders", order_id="o1", instrument=NAME, leg="entry", status="filled", event_time=START),
        record("orders", order_id="o2", instrument=NAME, leg="entry", status="rejected", reason="position open", event_time=START + 5),
    ])  # fmt: skip
    # What a live executor does by the same signals is not the paper account's.
    insert(url, "trades_closed", [{**closed(5, 9.0, "guard"), "trade_id": "live", "mode": "simulated"}])
    insert(
        url, "fills", [record("fills", fill_id="f4", instrument=NAME, event_time=START + 60_000, leg="entry", price=1.0, mode="simulated")]
    )
    insert(
        url, "orders", [record("orders", order_id="o3", instrument=NAME, leg="entry", status="filled", event_time=START, mode="simulated")]
    )
    insert(url, "positions", [record("positions", instrument=NAME, position_id="p8", status="open", event_time=START, mode="simulated")])
    letter = {"service": "produce", "source": "aggTrade", "reason": "price: <img src=x>", "event_time": START}
    insert(url, "dead_letters", [record("dead_letters", **letter), record("dead_letters", **letter)])


def test_facts_of_the_market_data_are_exact(filled):
    facts = collect(filled)
    one = facts.instrument(NAME)
    assert one is not None and [found.instrument for found in facts.instruments] == [NAME]
    assert (one.recorded, one.agg_trades, one.trades, one.missing_agg_ids, one.repeated_trades, one.backfilled) == (True, 5, 8, 2, 0, 1)
    # PostgreSQL's own cast of 0.12345678901234568 to numeric drops its last two digits.
    assert one.buy == Decimal("0.1") + Decimal("0.12345678901234568")
    assert one.sell == Decimal("12.2000001")
    assert one.cvd == one.buy - one.sell
    assert (one.first_time, one.last_time, one.first_price, one.last_price) == (
        START + 1,
        START + 400_000,
        Decimal("100.5"),
        Decimal("100"),
    )
    assert (one.low, one.high, one.largest) == (Decimal("99.75"), Decimal("101"), Decimal("12"))
    assert [(silence.since, silence.until) for silence in one.silences] == [(START + 3, START + 400_000)]
    assert one.book == Top(START + 9, Decimal("99.9"), Decimal("1.5"), Decimal("100.1"), Decimal("0.25")) and one.book == one.quote
    assert one.book_equals_quote and one.book_state == "invalid" and one.book_epoch == 2
    assert (one.gap_rows, one.gap_rows_open) == (2, 1)
    assert (one.features, one.late_trades, one.last_instant) == (2, 2, START + 2 * GRID)
    assert one.missing_inputs == {"atr": 2, "obi": 1} and one.stale_inputs == {"obi": 1}
    assert facts.rows["agg_trades"] == 5 and facts.rows["liquidations"] == 0 and set(facts.rows) == set(catalogue.TOPICS)


def test_facts_of_the_decisions_and_of_the_paper_account(filled):
    facts = collect(filled)
    (one,) = facts.evaluations
    assert (one.evaluations, one.not_warm, one.blocked, one.passed) == (7, 1, 2, 4)
    assert (one.below_entry, one.cooling, one.signalled, one.best_score) == (1, 2, 2, 85.0)
    assert one.blocks == {"low_vol": 2} and one.missing_inputs == {"atr": 1, "open_interest_change": 1} and one.regimes == {"range": 7}
    assert [(found.direction, found.tier, found.entry, found.count) for found in facts.signals] == [
        ("LONG", "standard", True, 1),
        ("SHORT", "heavy", False, 2),
    ]
    (strategy,) = facts.strategies
    assert (strategy.revision, strategy.entry_score, strategy.gates_off) == (2, 75.0, ("OBI", "spot-perp"))
    paper = facts.paper
    assert (paper.trades, paper.wins, paper.win_rate) == (4, 2, 0.5)
    assert paper.net_r == pytest.approx(0.25) and paper.net_pnl == pytest.approx(50.0) and paper.profit_factor == pytest.approx(350 / 300)
    assert (paper.max_drawdown_r, paper.max_drawdown_pnl, paper.best_r, paper.worst_r) == (1.5, 300.0, 1.5, -1.0)
    assert paper.exits == {"flip": 1, "stop": 1, "timeout": 1, "tp2": 1} and facts.papers[0].paper == paper
    assert [(found.position_id, found.direction, found.open_quantity) for found in facts.open_positions] == [
        ("p9", "SHORT", Decimal("0.7"))
    ]
    assert [(found.status, found.reason, found.count) for found in facts.orders] == [("filled", None, 1), ("rejected", "position open", 1)]
    assert [(found.source, found.count) for found in facts.dead_letters] == [("aggTrade", 2)]


def test_facts_become_json_without_losing_a_digit(filled):
    plain = json.loads(json.dumps(collect(filled).to_json()))
    one = plain["instruments"][0]
    assert (one["buy"], one["sell"], one["cvd"]) == ("0.22345678901234568", "12.2000001", "-11.97654331098765432")
    assert one["quote"]["bid_price"] == "99.9" and plain["rows"]["quotes"] == 2
    assert [decimal_text(Decimal(text)) for text in ("1E+3", "1.500", "-0.0", "1E-7", "100")] == ["1000", "1.5", "0", "0.0000001", "100"]


def test_chosen_instruments_only(filled):
    facts = collect(filled, ["BINANCE:OTHERUSDT"])
    (one,) = facts.instruments
    assert one.trades is None and one.buy is None and one.cvd is None and one.recorded is None and one.late_trades is None
    assert facts.evaluations == facts.signals == facts.papers == () and facts.paper.trades == 0


def test_statistics_of_closed_trades():
    def trades(*net: float) -> list[ClosedTrade]:
        return [ClosedTrade(one, one * 100, 1.0, 0.0, 1000, "stop") for one in net]

    assert paper_facts([]).win_rate is None and paper_facts([]).max_drawdown_r is None and paper_facts([]).net_pnl is None
    won = paper_facts(trades(1.0, 2.0))
    assert won.profit_factor is None and won.max_drawdown_r == 0.0 and won.win_rate == 1.0
    assert paper_facts(trades(0.0)).wins == 0  # nothing gained is no win
    assert max_drawdown([-1.0, -1.0, 5.0, -2.5, 1.0, -1.0]) == 2.5
    assert max_drawdown([-3.0, 1.0]) == 3.0  # the start is a high point too
    assert max_drawdown([0.1, 0.2, -0.3, 0.3]) == 0.3


def test_an_empty_database_says_none_and_draws_nothing(url, tmp_path):
    facts = collect(url)
    assert facts.instruments == () and sum(facts.rows.values()) == 0
    page = write_report(tmp_path / "new" / "report.html", url, facts, [], "empty").read_text(encoding="utf-8")
    assert len(page) < 40_000 and "Plotly.newPlot" not in page
    for line in ("No data", "none: no closed paper trade", "none: no evaluation", "none: no signal",
                 "none: no gaps", "none: no rejected records", "none: not measured", "none: no recording to compare"):  # fmt: skip
        assert line in page
    assert '<span class="none">none</span></b><span>checks passed' in page
    assert '<span class="none">none</span></b><span>net, R' in page
    shown = printed(facts, [])
    assert "Paper trades (closed): none closed" in shown and "Rates: none measured" in shown


def printed(facts: DemoFacts, checks: list[Check], **more: Any) -> str:
    output = io.StringIO()
    print_summary(Console(file=output, width=200, color_system=None), facts, checks, **more)
    return output.getvalue()


def test_the_summary_says_what_happened(filled):
    facts = collect(filled)
    checks = [Check("CVD", "1.5", "1.25", False, NAME), Check("gap rows", "0", "0", True, NAME)]
    shown = printed(facts, checks, rates={"agg_trades a second": 1234.5, "latency": None}, hashes={"scores": "ab12"})
    for text in ("recorded, played back", "12.2000001", "blocked by: low_vol 2", "disabled gates: OBI, spot-perp", "+0.25", "+50.00",
                 "1,234", "ab12", "DIFFERS", "1 of 2 checks FAILED", "price: <img src=x>", "Open at the end of the data", "stop 1"):  # fmt: skip
        assert text in shown, text
    assert re.search(r"latency +none", shown)
    assert "All 2 checks passed." in printed(facts, [checks[1], checks[1]])


def test_the_page_needs_nothing_else_and_trusts_no_text(filled, tmp_path):
    facts = collect(filled)
    checks = [Check("CVD", "1.5", "1.25", False, NAME)]
    golden = golden_of_recording(TRX / "trxusdt_usdm_trade_stream_positive.csv.gz", "TRXUSDT")
    path = write_report(
        tmp_path / "report.html", filled, facts, checks, "run <1>", goldens=[golden], rates={"a": 2.0}, hashes={"scores": "ab12"}
    )
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 8_000_000
    own = re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.S)  # the library itself
    assert not re.search(r"<(link|img|iframe|base)\b|@import|\burl\(", own)
    assert not re.search(r"<script[^>]*\bsrc=", page) and "Content-Security-Policy\" content=\"default-src 'none'" in page
    assert "run &lt;1&gt;" in own and "price: &lt;img src=x&gt;" in own and "One &lt;b&gt;bold&lt;/b&gt;" in own
    assert "Recorded data, played back: nothing on this page is live" in own and own.count("Recorded data, played back") >= 3
    assert "trxusdt_usdm_trade_stream_positive.csv.gz" in own and golden.files[0].sha256 in own
    assert "DIFFERS" in own and "0 of 1" in own and "ab12" in own and "2023-11-14 22:13:30" in own
    assert own.count("Plotly.newPlot(") == 2  # the instrument and the account


def test_what_is_not_recorded_is_not_called_so(url, tmp_path):
    fill(url)
    for change, label in (("UPDATE instruments SET recorded = false", "Live data"), ("DELETE FROM instruments", "Origin unknown")):
        with psycopg.connect(url) as connection:
            connection.execute(change)
        page = write_report(tmp_path / "report.html", url, collect(url), [], "title").read_text(encoding="utf-8")
        assert [text in page for text in ("Recorded data", "Live data", "Origin unknown")].count(True) == 1 and label in page


def test_charts_draw_what_is_stored(filled):
    facts = collect(filled)
    one = facts.instruments[0]
    with snapshot(filled) as connection:
        series = read_series(connection, one)
    assert series.bucket_ms == 100 and series.timeframe == "" and len(series.prints["time"]) == 5
    assert series.trade_cvd[-1] == pytest.approx(float(one.cvd), abs=1e-12) and series.trade_price.tolist() == [99.75, 100.0]
    assert series.trade_time.tolist() == [START + 100, START + 400_000]
    assert series.scores[0].state == ["not warm", "low_vol", "low_vol", "below entry", "signal", "cooldown", "flip signal"]
    figure = instrument_figure(series, one.silences, facts.strategies)
    traces = {trace.name: trace for trace in figure.data if trace.name}
    assert {"entry LONG", "entry SHORT", "TP2", "30m window", "OBI", "gap", "taker sold", "signal: 1", "low_vol: 2", "flip signal"} <= set(
        traces
    )
    assert "4h window" not in traces and not any("VWAP" in name or "funding" in name for name in traces)
    assert list(traces["entry LONG"].y) == [100.0] and "net +1.50 R, +300.00" in traces["entry LONG"].text[0]
    assert "not closed within the data" in traces["entry SHORT"].text[0]
    assert np.isnan(traces["last trade per 100 ms"].y).sum() == 1  # broken where nothing traded for minutes
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert "entry 75" in titles and "flip 80" in titles
    assert figure.layout.shapes and {axis.type for axis in figure.select_xaxes()} == {"date"}
    account = account_figure(series.closed)
    assert list(account.data[0].y) == [0.0, 1.5, 0.5, 0.0, 0.25] and account_figure([]) is None
    assert list(account.data[0].x) == [0, 1, 2, 3, 4], "by trade: recordings of different years lie beside each other"


def test_lines_are_broken_over_silence_and_states_end_there():
    time, price = broken([], np.array([0.0, 1000.0, 900_000.0]), np.array([1, 2, 3]))
    assert time.tolist() == [0.0, 1000.0, 1001.0, 900_000.0] and np.isnan(price[2]) and price[3] == 3.0
    assert segments(np.array([0.0, 15.0, 30.0, 45.0]), ["a", "a", "b", "b"]) == {"a": [(0.0, 30.0)], "b": [(30.0, 45.0)]}
    assert segments(np.array([0.0, 15.0, 400_000.0, 400_015.0]), ["a"] * 4) == {"a": [(0.0, 15.0), (400_000.0, 400_015.0)]}


def test_no_line_crosses_a_hole():
    """A hole of ninety seconds: the lines of prices and of trades end before it and go on behind it."""
    hole = Silence(60_500, 150_000)
    time, price = broken([hole], np.arange(0.0, 240_001.0, 15_000.0), np.arange(17.0))
    ends = np.flatnonzero(np.isnan(price))
    drawn = [(time[at], time[at + 1]) for at in range(len(time) - 1) if at not in ends and at + 1 not in ends]
    assert (45_000.0, 60_000.0) in drawn and (150_000.0, 165_000.0) in drawn
    assert not any(since < 150_000 and until > 60_500 + 15_000 for since, until in drawn)
    assert sum(np.isfinite(price)) == 17
    pieces = list(outside([hole, Silence(140_000, 160_000)], (0, 10.0), (200_000, 30.0)))
    assert pieces == [
        (0, 10.0),
        (60_500, pytest.approx(16.05)),
        (None, None),
        (160_000, pytest.approx(26.0)),
        (200_000, 30.0),
        (None, None),
    ]
    assert list(outside([hole], (70_000, 1.0), (80_000, 2.0))) == []  # all of it is not known
    assert list(outside([], (5, 1.0), (5, 2.0))) == [(5, 1.0), (5, 1.0), (None, None)]


def test_a_table_without_rows_says_so():
    assert table(["a"], [], "nothing <here>") == '<p class="none">nothing &lt;here&gt;</p>'
    assert '<span class="none">none</span>' in table(["a"], [(None,)])


@cache
def btc_golden() -> Golden:
    return golden_of_recording(BTC, "BTCUSDT")


def test_golden_figures_of_the_known_recordings():
    btc = btc_golden()
    assert (btc.instrument, btc.trades, btc.buy, btc.sell, btc.cvd) == (
        "BINANCE:BTCUSDT-PERP",
        21_313,
        Decimal("1251.576"),
        Decimal("1177.790"),
        Decimal("73.786"),
    )
    book = (Decimal("61659.70"), Decimal("1.486"), Decimal("61659.80"), Decimal("0.981"))
    assert btc.quote is not None and btc.book is not None and btc.quote.values == btc.book.values == book
    assert (btc.first_price, btc.last_price, btc.gaps, btc.refused) == (Decimal("61800.30"), Decimal("61659.80"), 0, 0)
    assert btc.published is not None and btc.published.name == "btcusdt_20240808"
    ltc = golden_of_recording(LTC, "LTCUSDT", "spot")
    assert (ltc.instrument, ltc.trades, len(ltc.files)) == ("BINANCE:LTCUSDT", 125_293, 9)
    assert ltc.published is not None and (ltc.published.buy, ltc.published.sell) == (ltc.buy, ltc.sell)
    assert ltc.quote is None and ltc.book is None
    part = golden_of_recording(LTC / "LTCUSDT_2025-06-21_06h_trades.csv.gz", "LTCUSDT", "spot")
    assert part.published is None and 0 < part.trades < ltc.trades


def test_golden_figures_count_what_a_venue_would_send():
    insurance = golden_of_recording(RECORDINGS / "binance_usdm_raw" / "btcusdt_20230405.gz", "BTCUSDT")
    assert (insurance.trades, insurance.other_trades, insurance.book) == (10_737, 1, None)
    faulty = golden_of_recording(TRX / "trxusdt_usdm_trade_stream_negative.csv.gz", "TRXUSDT")
    sound = golden_of_recording(TRX / "trxusdt_usdm_trade_stream_positive.csv.gz", "TRXUSDT")
    assert (sound.trades, sound.refused, faulty.trades, faulty.refused) == (9_999, 1, 9_998, 2)  # one row has price and quantity 0
    assert golden_of_recording(TRX / "trxusdt_usdm_merged_negative.csv.gz", "TRXUSDT").gaps == 1
    assert golden_of_recording(TRX / "trxusdt_usdm_merged_positive.csv.gz", "TRXUSDT").gaps == 0
    assert golden_of_recording(TRX / "trxusdt_usdm_merged_positive.csv.gz", "ETHUSDT").trades == 0  # another symbol's


DUMP = """agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker
7,1.50,10.0,100,104,1735689600000,true
8,1.25,0.1,105,105,1735689600500000,false
10,1.75,0.2,106,107,1735689601000,False
"""


def test_golden_figures_of_dumps_in_every_wrapping(tmp_path):
    plain, packed, archive = tmp_path / "a.csv", tmp_path / "a.csv.gz", tmp_path / "a.zip"
    plain.write_text(DUMP)
    packed.write_bytes(gzip.compress("".join(DUMP.splitlines(keepends=True)[1:]).encode()))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.csv", DUMP)
    for path in (plain, packed, archive):
        golden = golden_of_recording(path, "XRPUSDT")
        assert (golden.trades, golden.buy, golden.sell, golden.gaps) == (8, Decimal("0.3"), Decimal("10.0"), 1)
        assert (golden.first_time, golden.last_time, golden.low, golden.high) == (
            1735689600000,
            1735689601000,
            Decimal("1.25"),
            Decimal("1.75"),
        )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("timestamp,price,quantity,side,tradeId\n1,2,3,buy,4\n1,x,3,buy,5\n", "r.csv:3: InvalidOperation"),
        ("timestamp,price,quantity,side,tradeId\n1,2,3,up,4\n", "r.csv:2: KeyError"),
        ('1723161255088176367 {"stream":"a@trade","data":{"e":"trade"\n', "r.csv:1: JSONDecodeError"),
        ("hello\n", "not a known recording format"),
        ("\n# only remarks\n", "has no data lines"),
    ],
)
def test_a_recording_that_cannot_be_read_is_named_with_its_line(tmp_path, content, said):
    path = tmp_path / "r.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)):
        golden_of_recording(path, "AUSDT")


@pytest.fixture
def played(url: str) -> str:
    """The BTCUSDT capture as the pipeline stores it: its aggregate trades, last quote and last book."""
    name = "BINANCE:BTCUSDT-PERP"
    trades, quote = [], None
    for event in Recording(BTC, "BTCUSDT").events():
        if event.kind == "aggTrade":
            trades.append(mapping.agg_trade(event.body, name, event.clock))
        elif event.kind == "bookTicker":
            quote = mapping.quote(event.body, name, event.clock)
    assert quote is not None
    insert(url, "agg_trades", trades)
    insert(url, "quotes", [quote])
    sides = {"bid_prices": [quote["bid_price"]], "bid_quantities": [quote["bid_quantity"]], "ask_prices": [quote["ask_price"]]}
    book = record("depth", instrument=name, event_time=quote["event_time"], state="live", **sides, ask_quantities=[quote["ask_quantity"]])
    insert(url, "depth", [book])
    return url


def failed(url: str) -> set[str]:
    checks = golden_checks(collect(url), [btc_golden()])
    assert len(checks) == 15
    return {check.name for check in checks if not check.ok}


def test_a_run_that_is_right_passes_every_check_and_each_fault_is_found(played):
    assert failed(played) == set()
    change = psycopg.connect(played, autocommit=True)
    with change:
        change.execute("UPDATE depth SET bid_quantities = '{1.485}'")
        assert failed(played) == {"last book, best prices", "last book equals last quote"}
        change.execute("UPDATE depth SET bid_quantities = '{1.486}'")
        change.execute(
            "INSERT INTO gaps (instrument, event_time, receive_time, stream, kind, certain, repaired, kafka_partition, kafka_offset)"
            " SELECT instrument, event_time, event_time, 'depth', 'silence', false, false, 0, 0 FROM quotes"
        )
        assert failed(played) == {"gap rows"}
        change.execute("DELETE FROM gaps")
        # A row written twice, one lost, one with the wrong side: the sums tell.
        change.execute("INSERT INTO agg_trades SELECT * FROM agg_trades WHERE agg_id = 5000")
        assert {"repeated agg_trades rows", "trades (by id range)", "CVD"} <= failed(played)
        change.execute("DELETE FROM agg_trades WHERE agg_id = 5000")
        assert "trades (by id range)" in failed(played) and "repeated agg_trades rows" not in failed(played)
    everything = golden_checks(collect(played, []), [btc_golden()])
    assert not any(check.ok for check in everything if check.name != "gap rows") and everything[0].found == "none"


def test_published_figures_hold_on_their_own(played):
    """A count that went wrong in the reading of the file and in the pipeline alike is still found out."""
    golden = btc_golden()
    wrong = replace(golden, buy=golden.buy + 1)
    with psycopg.connect(played, autocommit=True) as change:
        change.execute(
            "UPDATE agg_trades SET quantity = quantity + 1 WHERE agg_id = (SELECT min(agg_id) FROM agg_trades WHERE NOT buyer_is_maker)"
        )
    checks = golden_checks(collect(played), [wrong])
    assert {(check.name, check.source) for check in checks if not check.ok} >= {
        ("taker buy quantity", "published figures"),
        ("CVD", "published figures"),
    }
    assert {check.source: check.ok for check in checks if check.name == "taker buy quantity"}["the recording"]


def test_a_panel_that_shows_nothing_for_any_market_fails_its_dashboard():
    titles = {make()["title"]: make() for make in BOARDS.values()}
    market = next(title for title in titles if title.lower().startswith("market"))
    page = Path("page.html")
    full, part = Rendered(page, market), Rendered(page, market, empty={"Open interest": "none"})
    others = [Rendered(page, title) for title in titles if title != market]
    assert all(one.ok for one in panel_checks([part, full, *others]))
    (failed,) = [one for one in panel_checks([part, part, *others]) if not one.ok]
    assert failed.found.endswith("; no data in Open interest") and market in failed.name
    assert not any(one.ok for one in panel_checks([]))
    everything = {panel["title"] for board in titles.values() for panel in board["panels"]}
    assert set(MAY_BE_EMPTY) <= everything
