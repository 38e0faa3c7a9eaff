"""Files as the source of a replay: the log around them is the one that an import writes, and says the same through Kafka."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from deploy.backtest.checks import check_future
from deploy.backtest.files import FileArgument
from deploy.backtest.job import Job, Opened, open_job
from deploy.backtest.report import write_report
from producers.importer.files import Source
from producers.importer.importer import Importer, Plan
from producers.venues import adapter_of
from schemas.errors import UserError
from schemas.settings import Settings
from sinks.commands.strategies.revisions import publish
from stream_apps.replay.collect import Collector
from stream_apps.replay.results import ResultSet, differences
from stream_apps.replay.run import PartitionReplay, Result
from stream_apps.replay.shift import altered
from stream_apps.strategy_files import load_strategy_files
from tests.support.markets.logs import Log
from tests.support.paths import RECORDINGS, ROOT

LTC = RECORDINGS / "ltcusdt_spot_trades"
STRATEGY = ROOT / "stream_apps/default_strategies/recorded/ltcusdt_trades_only.toml"
NAME = "BINANCE:LTCUSDT"
# The first hours of the first day: several signals and closed trades, and no hole.
COUNT = 16_000
BTC = RECORDINGS / "binance_usdm_raw/btcusdt_20240808.gz"


@cache
def settings() -> Settings:
    return Settings(kafka_bootstrap_servers="127.0.0.1:1")  # nothing answers there


def rows(limit: int) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for path in sorted(LTC.glob("*.csv.gz")):
        with gzip.open(path, "rt") as file:
            for row in csv.DictReader(file):
                found.append(row)
                if len(found) == limit:
                    return found
    return found


def agg_dump(folder: Path, trades: list[dict[str, str]], name: str = "LTCUSDT-aggTrades-2025-06-21.csv") -> Path:
    """The trades as a public dump of aggregate trades, one fill each."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    with path.open("w") as file:
        file.write("agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n")
        for row in trades:
            number = row["tradeId"]
            maker = str(row["side"] == "sell").lower()
            file.write(f"{number},{row['price']},{row['quantity']},{number},{number},{row['timestamp']},{maker}\n")
    return path


def results(opened: Opened) -> tuple[ResultSet, Collector]:
    codec = opened.settings.codec
    found, collected = ResultSet(codec), Collector(codec, None, None, None, ("price",))

    def take(partition: int, result: Result) -> None:
        found.add(result.topic, result.value)
        collected.take(partition, result)

    opened.run(take, collected.on_piece)
    return found, collected


def job(path: Path | str, **more: Any) -> Job:
    return Job(sources=(f"file:{path}",), symbols=("LTCUSDT",), venue="BINANCE_SPOT", **{"strategies": (str(STRATEGY),), **more})


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return agg_dump(tmp_path_factory.mktemp("dump"), rows(COUNT))


@pytest.fixture(scope="module")
def whole(dump: Path) -> tuple[ResultSet, Collector]:
    return results(open_job(job(dump), settings()))


def test_a_file_says_what_the_same_trades_say_in_a_log_made_by_hand(dump: Path, whole: tuple[ResultSet, Collector]) -> None:
    log = Log()
    log.instrument()
    trades = rows(COUNT)
    log.trades((int(r["timestamp"]), int(r["tradeId"]), float(r["price"]), float(r["quantity"]), r["side"] == "sell") for r in trades)
    strategies = load_strategy_files([STRATEGY])
    run = PartitionReplay(0, open_job(job(dump), settings()).config, settings().codec, None, strategies)
    wanted = ResultSet(settings().codec)
    from tests.support.markets.logs import pieces

    for topic, messages in log.topics.items():
        for records in pieces(messages, None):
            for result in run.feed(topic, records):
                wanted.add(result.topic, result.value)
    # The log made by hand ends with one mark more.
    last = max(identity[1] for identity in whole[0].records["features"])
    assert differences(wanted, whole[0], event_time_until=last) == []
    counts = whole[0].counts()
    assert counts["signals"] > 10 and counts["trades_closed"] > 2 and counts["features"] == counts["scores"] > 1_000


def test_pieces_of_any_size_and_files_cut_anywhere_say_the_same(tmp_path: Path, whole: tuple[ResultSet, Collector]) -> None:
    trades = rows(COUNT)
    agg_dump(tmp_path / "parts", trades[9_999:], "LTCUSDT-aggTrades-b.csv")
    agg_dump(tmp_path / "parts", trades[:9_999], "LTCUSDT-aggTrades-c.csv")  # the names tell no order
    found, collected = results(open_job(job(tmp_path / "parts"), settings(), piece=777))
    assert differences(whole[0], found) == []
    assert collected.hashes() == whole[1].hashes()


def test_the_period_begins_warm_and_ends_where_it_was_told(dump: Path, tmp_path: Path, whole: tuple[ResultSet, Collector]) -> None:
    instants = sorted(identity[1] for identity in whole[0].records["features"])
    since, until = instants[len(instants) // 2], instants[len(instants) * 3 // 4]
    report = write_report(open_job(job(dump, since=since, until=until), settings()), tmp_path / "out", {})
    strategy = report["strategies"][0]
    assert (strategy["period"], report["warm_up_ms"]) == ({"since": since, "until": until}, 26 * 3_600_000)
    assert "not warm" not in strategy["evaluations"]["states"] and strategy["evaluations"]["all"] == (until - since) // 15_000 + 1
    # Market state at the period's instants is that of the run over everything.
    codec = settings().codec
    opened = open_job(job(dump, since=since, until=until), settings())
    found, _ = results(opened)
    inside = [identity for identity in found.records["features"] if since <= identity[1] <= until]
    assert len(inside) == strategy["evaluations"]["all"]
    assert all(found.records["features"][identity] == whole[0].records["features"][identity] for identity in inside)
    # Without warm-up the first evaluations are not warm: history is missing, not zero.
    cold, _ = results(open_job(job(dump, since=since, until=until, warm_up_ms=0), settings()))
    first = min((codec.decode("scores", value) for value in cold.records["scores"].values()), key=lambda score: score["event_time"])
    assert not first["warm"] and first["event_time"] >= since


def test_a_recording_is_the_market_that_its_bytes_say(tmp_path: Path) -> None:
    opened = open_job(Job((f"file:{BTC}",), strategies=("recorded-btcusdt-capture",)), settings())
    assert opened.instruments == ("BINANCE:BTCUSDT-PERP",) and opened.files is not None
    events = list(opened.files.flows[0].events())
    trades = [event.record for event in events if event.topic == "agg_trades"]
    assert sum(trade["last_trade_id"] - trade["first_trade_id"] + 1 for trade in trades) == 21_313
    assert sum((1 if not trade["buyer_is_maker"] else -1) * trade["quantity"] for trade in trades) == pytest.approx(73.786, abs=1e-9)
    book = [event.record for event in events if event.topic == "depth"][-1]
    quote = [event.record for event in events if event.topic == "quotes"][-1]
    top = (book["bid_prices"][0], book["bid_quantities"][0], book["ask_prices"][0], book["ask_quantities"][0])
    assert (
        top
        == (61659.70, 1.486, 61659.80, 0.981)
        == tuple(quote[f"{side}_{what}"] for side in ("bid", "ask") for what in ("price", "quantity"))
    )
    report = write_report(opened, tmp_path, {})
    assert report["strategies"][0]["evaluations"]["states"] == {"not warm": 24}
    assert report["instruments"][0]["instants"] == 24 and report["instruments"][0]["missing_inputs"]["obi"] == 1  # after the end
    # Nothing was traded: what has no value says so, and sums of nothing are zero.
    values = {name: one["value"] for name, one in report["strategies"][0]["statistics"].items()}
    assert values["trades"] == 0 and values["sharpe"] is None and values["win_rate"] is None


def test_several_instruments_are_merged_by_time_and_stay_what_they_are_alone(
    dump: Path, tmp_path: Path, whole: tuple[ResultSet, Collector]
) -> None:
    other = agg_dump(
        tmp_path, [{**row, "price": f"{float(row['price']) * 2:.2f}"} for row in rows(COUNT)[5_000:8_000]], "SOLUSDT-aggTrades-1.csv"
    )
    both = Job((f"file:{dump}=LTCUSDT@BINANCE_SPOT", f"file:{other}@BINANCE"), strategies=(str(STRATEGY), "v51_baseline"))
    opened = open_job(both, settings())
    assert opened.instruments == (NAME, "BINANCE:SOLUSDT-PERP") and len(opened.partitions) == 2
    found, _ = results(opened)
    mine = {
        topic: {identity: value for identity, value in records.items() if settings().codec.decode(topic, value)["instrument"] == NAME}
        for topic, records in found.records.items()
    }
    assert mine["features"] == whole[0].records["features"]
    chosen = {identity: value for identity, value in mine["signals"].items() if b"recorded-ltcusdt" in value}
    assert chosen == whole[0].records["signals"]
    assert {settings().codec.decode("scores", value)["strategy_id"] for value in found.records["scores"].values()} == {
        "recorded-ltcusdt-trades-only", f"v51_baseline@{NAME}", "v51_baseline@BINANCE:SOLUSDT-PERP",
    }  # fmt: skip


def test_bad_rows_and_holes_are_told_and_trades_over_a_hole_do_not_count(tmp_path: Path, whole: tuple[ResultSet, Collector]) -> None:
    codec = settings().codec
    trades = sorted(
        (codec.decode("trades_closed", value) for value in whole[0].records["trades_closed"].values()), key=lambda one: one["entry_time"]
    )
    middle = (trades[0]["entry_time"] + trades[0]["event_time"]) // 2
    kept = [row for row in rows(COUNT) if not middle - 60_000 < int(row["timestamp"]) < middle + 60_000]
    path = agg_dump(tmp_path / "dump", kept)
    path.write_text(path.read_text() + "1,broken,2,3,4,5,true\n")
    report = write_report(open_job(job(path), settings()), tmp_path / "out", {})
    (hole,) = report["quality"]["trade_gaps"]
    assert hole["since"] <= middle - 60_000 and hole["until"] >= middle + 60_000
    assert hole["missing"] == COUNT - len(kept)
    (letter,) = report["quality"]["dead_letters"]
    assert letter["records"] == 1 and "agg_trade" not in letter["source"] and f"{path.name}:" in letter["source"]
    void = report["strategies"][0]["void"]
    assert void["reasons"]["held_over_gap"] == 1
    with (tmp_path / "out/trades.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert sum(row["void"] != "" for row in listed) == void["trades"] >= 1
    assert report["strategies"][0]["statistics"]["trades"]["value"] == len(listed) - void["trades"]
    net = sum(float(row["net_r"]) for row in listed if row["void"] == "")
    assert report["strategies"][0]["statistics"]["net_r"]["value"] == pytest.approx(net)


def test_the_future_changes_nothing_and_a_planted_look_ahead_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_job(job(agg_dump(tmp_path, rows(6_000))), settings())
    found = check_future(opened)
    assert found["ok"] and found["results"] > 500 and found["altered"] > 1_000 and found["later_changed"] > found["later"] // 2
    # A source that lets one record of the past know of the future.
    from stream_apps.replay import shift

    honest = shift.ShiftedSource._shift

    def leaking(self: Any, topic: str, records: Any) -> Any:
        self.time -= 60_000
        try:
            return honest(self, topic, records)
        finally:
            self.time += 60_000

    monkeypatch.setattr(shift.ShiftedSource, "_shift", leaking)
    leaked = check_future(opened)
    assert not leaked["ok"] and "in the first run and" in leaked["first_difference"]
    # After the end nothing is altered: that proves nothing, and says so.
    assert not check_future(opened, 2_000_000_000_000)["ok"]


@pytest.mark.parametrize("topic", ["agg_trades", "depth", "funding", "liquidations", "market_indicators", "quotes"])
def test_an_altered_record_is_another_one_of_the_same_shape(topic: str) -> None:
    from stream_apps.core.paper.warmup import _record

    record = _record(topic, instrument=NAME)
    if topic == "funding":
        record |= {"settled_rate": 0.1, "mark_price": 61800.3}
    made = altered(topic, record)
    codec = settings().codec
    assert codec.encode(topic, made) != codec.encode(topic, record)
    same = ("instrument", "event_time", "receive_time")
    assert {name: made[name] for name in same} == {name: record[name] for name in same}
    if topic == "funding":
        assert made["mark_price"] == 123600.6 and made["settled_rate"] == -0.2


@pytest.mark.stack
def test_the_same_file_through_kafka_says_the_same(dump: Path, environment: Settings, topics: list[str], tmp_path: Path) -> None:
    publish(environment, load_strategy_files([STRATEGY]), 1)
    importer = Importer(Plan(adapter_of("BINANCE_SPOT"), [Source(dump, "LTCUSDT")]), environment)
    importer.read()
    importer.write()
    direct = write_report(open_job(job(dump), environment), tmp_path / "file", {})
    through = Job(("topics",), ("LTCUSDT",), "BINANCE_SPOT", strategies=(str(STRATEGY),))
    opened = open_job(through, environment)
    assert opened.total > 14_000
    kafka = write_report(opened, tmp_path / "topics", {})
    assert kafka["hashes"] == direct["hashes"]
    for name in ("strategies", "all", "instruments", "outputs"):
        assert json.dumps(kafka[name]) == json.dumps(direct[name]), name
    assert (tmp_path / "topics/trades.csv").read_bytes() == (tmp_path / "file/trades.csv").read_bytes()
    assert (tmp_path / "topics/signals.csv").read_bytes() == (tmp_path / "file/signals.csv").read_bytes()
    # The strategies of the log, which are the same here.
    own = write_report(open_job(Job(("topics",), ("LTCUSDT",), "BINANCE_SPOT"), environment), tmp_path / "own", {})
    assert own["hashes"] == direct["hashes"] and own["all"] == direct["all"]
    assert [one["config_hash"] for one in own["strategies"]] == [one["config_hash"] for one in direct["strategies"]]
    # A period of the topics, warmed up from the middle of the log.
    span = direct["strategies"][0]["period"]
    since = span["since"] + (span["until"] - span["since"]) // 30_000 * 15_000
    later = replace(through, since=since, until=since + 1_800_000, warm_up_ms=2 * 3_600_000)
    part = write_report(open_job(later, environment), tmp_path / "part", {})
    assert part["strategies"][0]["period"] == {"since": since, "until": since + 1_800_000}
    assert part["inputs"]["agg_trades"] < direct["inputs"]["agg_trades"]
    assert (
        write_report(open_job(replace(later, sources=(f"file:{dump}",)), environment), tmp_path / "same", {})["hashes"]["features"]
        == part["hashes"]["features"]
    )
    # The period of a range of the progress log: from one mark to another, which stand a grid step apart, the first 250 ms after an instant.
    marked = open_job(replace(through, marks=(100, 200)), environment).job
    assert marked.since is not None and marked.until == marked.since + 100 * 15_000 and marked.since % 15_000 == 250
    with pytest.raises(UserError, match=r"--marks: the progress log of partition \d+ has offsets 0 to"):
        open_job(replace(through, marks=(100, 10_000_000)), environment)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ({"sources": ("kafka",)}, "--source"), ({"sources": ("topics", "file:x")}, "--source"), ({"sources": ("file:x",)}, "--strategy"),
        ({"sources": ("topics",), "strategies": ("v51_baseline",)}, "--symbol"),
        ({"sources": ("file:x",), "strategies": ("v51_baseline",), "since": 5, "until": 5}, "--to"),
        ({"sources": ("topics",), "marks": (1, 2)}, "--symbol"), ({"sources": ("topics",), "symbols": ("A",), "marks": (2, 2)}, "FIRST:LAST"),
        ({"sources": ("file:x",), "strategies": ("v51_baseline",), "marks": (1, 2)}, "--source topics"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_names_the_option(made: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Job(**made)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"strategies": ("nothing-of-the-kind",)}, "not a file, a shipped strategy"), ({"strategies": ("btcusdt",)}, "--rebind"),
        ({"strategies": ("v51_baseline", "v51_baseline")}, "twice"), ({"assigned": {"sl_atr_multiplier": 99.0}}, "sl_atr_multiplier"),
    ],
)  # fmt: skip
def test_a_strategy_that_cannot_run_is_named(dump: Path, more: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        open_job(job(dump, **more), settings())


def test_a_strategy_of_another_instrument_is_bound_when_asked(dump: Path) -> None:
    opened = open_job(job(dump, strategies=("btcusdt",), rebind=True, assigned={"obi_on_missing": "pass"}), settings())
    assert opened.strategies is not None
    (bound,) = opened.strategies
    assert (bound.strategy_id, bound.instrument, bound.obi_on_missing) == ("default-btcusdt", NAME, "pass")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a/b.csv", ("a/b.csv", "S", "V")), ("a/b.csv=LTCUSDT", ("a/b.csv", "LTCUSDT", "V")), ("a.zip=X@BYBIT", ("a.zip", "X", "BYBIT")),
        ("d@e/f=g/h.csv", ("d@e/f=g/h.csv", "S", "V")), ("x.gz@OKX", ("x.gz", "S", "OKX")),
    ],
)  # fmt: skip
def test_what_a_file_argument_names(text: str, wanted: tuple[str, str, str]) -> None:
    argument = FileArgument.parse(text, "S", "V")
    assert (argument.path, argument.symbol, argument.venue) == wanted


def test_funding_of_a_second_file_is_charged_on_what_is_open_at_its_time(tmp_path: Path, whole: tuple[ResultSet, Collector]) -> None:
    codec = settings().codec
    trades = sorted(
        (codec.decode("trades_closed", value) for value in whole[0].records["trades_closed"].values()), key=lambda one: one["entry_time"]
    )
    middle = (trades[0]["entry_time"] + trades[0]["event_time"]) // 2
    dump = agg_dump(tmp_path, rows(COUNT))
    funding = tmp_path / "LTCUSDT-fundingRate-2025-06.csv"
    funding.write_text(f"calc_time,funding_interval_hours,last_funding_rate\n{middle},8,0.00100000\n")
    perpetual = Job((f"file:{dump}@BINANCE", f"file:{funding}@BINANCE"), strategies=(str(STRATEGY),), rebind=True)
    report = write_report(open_job(perpetual, settings()), tmp_path / "out", {})
    assert report["inputs"]["funding"] == 1
    with (tmp_path / "out/trades.csv").open() as file:
        charged = [row for row in csv.DictReader(file) if float(row["funding"]) != 0.0]
    (row,) = charged
    last = [float(one["price"]) for one in rows(COUNT) if int(one["timestamp"]) < middle][-1]
    sign = 1 if row["direction"] == "LONG" else -1
    assert float(row["funding"]) == pytest.approx(sign * float(row["quantity"]) * last * 0.001, rel=1e-9)
    values = {name: one["value"] for name, one in report["strategies"][0]["statistics"].items()}
    assert values["funding"] == pytest.approx(float(row["funding"])) and values["fees"] > 0 and values["slippage"] > 0
