"""Dump files through a real broker: the golden recording, killed and gone on with, files that follow later, and refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from deploy.stack.topics import create_topics
from producers.importer.files import ImportFailed, Source
from producers.importer.importer import Importer, Plan
from producers.venues import adapter_of
from schemas.codec.avro import Record
from schemas.settings import Settings
from tests.support.paths import RECORDINGS, ROOT

pytestmark = pytest.mark.stack

LTC = sorted((RECORDINGS / "ltcusdt_spot_trades").glob("*.csv.gz"))
NAME = "BINANCE:LTCUSDT"
T = 1_722_470_400_000


def log(settings: Settings, topic: str, partition: int) -> list[Record]:
    """Return a partition's records without the time at which we received them."""
    name = settings.topic(topic)
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "reader", "enable.auto.commit": False})
    place = TopicPartition(name, partition, 0)
    _, high = consumer.get_watermark_offsets(place, timeout=10)
    consumer.assign([place])
    records: list[Record] = []
    while len(records) < high:
        for message in consumer.consume(min(50_000, high), timeout=1.0):
            assert message.error() is None and message.timestamp()[1] >= 0
            record = settings.codec.decode(topic, message.value())
            record.pop("receive_time")
            records.append(record)
    consumer.close()
    return records


def run(settings: Settings, files: list[Path], venue: str = "BINANCE_SPOT", symbol: str = "LTCUSDT", **more: Any) -> Importer:
    """Do an import in this process."""
    importer = Importer(Plan(adapter_of(venue), [Source(path, symbol) for path in files], **more), settings)
    importer.read()
    importer.write()
    return importer


def place(asset: str, settings: Settings) -> int:
    return settings.partition_of(asset)


def expected(files: list[Path]) -> tuple[list[Record], list[Record]]:
    """Trades and gaps that files make, straight from the reader."""
    importer = Importer(Plan(adapter_of("BINANCE_SPOT"), [Source(path, "LTCUSDT") for path in files]), Settings())
    importer.read()
    (stream,) = importer.streams
    trades, gaps = [], []
    for event in stream.events(report=False):
        (trades if event.topic == "agg_trades" else gaps).append({**event.record, "instrument": NAME})
    return trades, gaps


def same(found: list[Record], wanted: list[Record]) -> bool:
    return len(found) == len(wanted) and all(one == {**one, **other} for one, other in zip(found, wanted, strict=True))


def test_the_golden_recording_is_imported_to_the_last_decimal(environment: Settings, topics: list[str]) -> None:
    importer = run(environment, LTC)
    p = place("LTC", environment)
    trades, gaps = log(environment, "agg_trades", p), log(environment, "gaps", p)
    assert sum(trade["last_trade_id"] - trade["first_trade_id"] + 1 for trade in trades) == 125_293 == importer.report.fills
    assert len(trades) == 118_074 and len(gaps) == 18
    # Sums of the rows themselves, taken apart from this code.
    assert sum(Decimal(repr(trade["quantity"])) for trade in trades) == Decimal("521051.791")
    assert sum(Decimal(repr(trade["quantity"])) for trade in trades if not trade["buyer_is_maker"]) == Decimal("246934.874")
    assert all(same(*pair) for pair in zip((trades, gaps), expected(LTC), strict=True))
    assert (gaps[-2]["from_id"], gaps[-2]["to_id"]) == (293571261, 293588442)
    (facts,) = log(environment, "instruments", p)
    assert (facts["instrument"], facts["author"], facts["base_asset"], facts["quote_asset"], facts["kind"], facts["recorded"]) == (
        NAME, "import-binance-spot", "LTC", "USDT", "spot", True,
    )  # fmt: skip
    assert (facts["price_decimals"], facts["quantity_decimals"], facts["tick_size"]) == (2, 3, 0.01)
    assert facts["event_time"] == trades[0]["event_time"] == 1_750_507_467_356
    # One mark an instant of the grid, at the time at which it fires, and each covers exactly the trades up to it.
    marks = log(environment, "progress", p)
    grid, lateness = environment.grid_ms, environment.allowed_lateness_ms
    times = [mark["event_time"] for mark in marks]
    assert times == list(range(times[0], times[-1] + 1, grid)) and (times[0] - lateness) % grid == 0
    assert times[0] - grid < trades[0]["event_time"] <= times[0] and times[-1] - grid < trades[-1]["event_time"] <= times[-1]
    at = 0
    for mark in marks:
        while at < len(trades) and trades[at]["event_time"] <= mark["event_time"]:
            at += 1
        assert mark["cut"]["agg_trades"] == at
    assert importer.report.written == {"agg_trades": 118_074, "gaps": 18} and importer.report.already == {}


def test_the_same_import_again_writes_nothing(environment: Settings, topics: list[str]) -> None:
    first = run(environment, LTC[:2])
    p = place("LTC", environment)
    before = {topic: log(environment, topic, p) for topic in ("agg_trades", "gaps", "instruments", "progress")}
    again = run(environment, LTC[:2])
    assert again.report.written == {} and again.report.already == first.report.written
    assert {topic: log(environment, topic, p) for topic in before} == before


def test_killed_at_any_moment_and_run_again_the_log_is_that_of_an_undisturbed_run(
    environment: Settings, topics: list[str], environment_variables: Callable[..., dict[str, str]]
) -> None:
    """kill -9 of the real command, three times, then to the end."""
    files = LTC[2:6]
    wanted = expected(files)
    p = place("LTC", environment)
    command = [sys.executable, "-m", "deploy.cli", "import", "--venue", "BINANCE_SPOT", "--kind", "trades", *map(str, files)]
    variables = environment_variables(PERPFLOW_LOG_LEVEL="error")
    watcher = Consumer({"bootstrap.servers": environment.kafka_bootstrap_servers, "group.id": "watcher"})

    def written() -> int:
        return int(watcher.get_watermark_offsets(TopicPartition(environment.topic("agg_trades"), p), timeout=10)[1])

    killed = 0
    for goal in (1_000, 15_000, 30_000):
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while written() < goal and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed >= 2, "the import was over before it could be killed"
    assert 0 < written() < len(wanted[0]), "killed in the middle"
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    watcher.close()
    assert same(log(environment, "agg_trades", p), wanted[0])
    assert same(log(environment, "gaps", p), wanted[1])
    marks = log(environment, "progress", p)
    times = [mark["event_time"] for mark in marks]
    assert times == list(range(times[0], times[-1] + 1, environment.grid_ms)), "no mark is missing or doubled"
    assert [mark["cut"]["agg_trades"] for mark in marks] == sorted(mark["cut"]["agg_trades"] for mark in marks)
    assert marks[-1]["cut"]["agg_trades"] == len(wanted[0])
    assert "already in the topics" in " ".join(done.stdout.split())


def test_files_that_follow_later_go_on_where_the_first_ended(environment: Settings, topics: list[str]) -> None:
    """By themselves, or together with the first: the same log as all at once."""
    wanted = expected(LTC[4:7])
    p = place("LTC", environment)
    run(environment, LTC[4:5])
    run(environment, LTC[4:6])
    run(environment, LTC[6:7])
    assert same(log(environment, "agg_trades", p), wanted[0])
    assert same(log(environment, "gaps", p), wanted[1])
    times = [mark["event_time"] for mark in log(environment, "progress", p)]
    assert times == list(range(times[0], times[-1] + 1, environment.grid_ms))


def test_history_before_what_is_there_is_refused(environment: Settings, topics: list[str]) -> None:
    run(environment, LTC[1:2])
    with pytest.raises(ImportFailed, match="before the earlier import of import-binance-spot"):
        run(environment, LTC[0:1])
    with pytest.raises(ImportFailed, match="covered by the marks of import-binance-spot"):
        run(environment, LTC[0:1], author="somebody")


def test_symbols_and_kinds_are_merged_by_time_and_bad_rows_become_dead_letters(
    environment: Settings, topics: list[str], tmp_path: Path
) -> None:
    def file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    minute = 60_000
    btc = file("b.csv", "".join(f"{n},60000.{n % 10},0.5,{n},{n},{T + n * minute},true\n" for n in range(1, 11)))
    pepe = file("p.csv", "".join(f"{n},0.0000{n},1000,{n},{n},{T + n * minute + 1},false\n" for n in range(1, 10)) + "x,1,1,1,1,1,true\n")
    funding = file("f.csv", f"calc_time,funding_interval_hours,last_funding_rate\n{T + 5 * minute},8,0.0001\n")
    klines = file("k.csv", f"{T},60000,60001,59999,60000.5,10,{T + minute - 1},600000,7,6,360000,0\n")
    quotes = file("q.csv", "".join(f"{n},60000,1,60001,2,{T + n * 1000},{T + n * 1000}\n" for n in range(1, 601)))
    sources = [Source(path, "BTCUSDT") for path in (btc, funding, klines, quotes)] + [Source(pepe, "1000PEPEUSDT")]
    importer = Importer(Plan(adapter_of("BINANCE"), sources), environment)
    importer.read()
    report = importer.write()
    assert report.records == {"agg_trades": 19, "funding": 1, "klines": 1, "quotes": 600} == report.written
    assert report.bad == 1
    at, other = place("BTC", environment), place("PEPE", environment)
    btc_facts = next(one for one in log(environment, "instruments", at) if one["instrument"] == "BINANCE:BTCUSDT-PERP")
    pepe_facts = next(one for one in log(environment, "instruments", other) if one["instrument"] == "BINANCE:1000PEPEUSDT-PERP")
    assert (btc_facts["price_decimals"], btc_facts["quantity_decimals"], btc_facts["event_time"]) == (1, 1, T + 1000)
    assert (pepe_facts["price_decimals"], pepe_facts["base_asset"]) == (5, "PEPE")
    (bar,) = log(environment, "klines", at)
    assert (bar["backfilled"], bar["taker_buy_volume"], bar["trades"], bar["event_time"], bar["timeframe"]) == (
        False,
        6.0,
        7,
        T + minute,
        "1m",
    )
    (settled,) = log(environment, "funding", at)
    assert (settled["settled_rate"], settled["event_time"], settled["interval_hours"]) == (0.0001, T + 5 * minute, 8)
    (letter,) = [one for one in log(environment, "dead_letters", 0) if one["service"] == "import"]
    assert (letter["source"], letter["field"], letter["value"]) == ("p.csv:10", "agg_trade_id", b"x,1,1,1,1,1,true")
    # A mark covers of each topic exactly what is not later than it: the streams were merged, not put one behind the other.
    for partition in {at, other}:
        records = {topic: log(environment, topic, partition) for topic in ("agg_trades", "quotes", "funding", "klines")}
        for mark in log(environment, "progress", partition):
            for topic, found in records.items():
                assert mark["cut"][topic] == sum(one["event_time"] <= mark["event_time"] for one in found), (topic, mark)
    again = Importer(Plan(adapter_of("BINANCE"), sources), environment)
    again.read()
    assert again.write().written == {}


def test_a_stream_that_ended_long_ago_is_known_when_the_import_is_run_again(
    environment: Settings, topics: list[str], tmp_path: Path
) -> None:
    hour = 3_600_000
    (tmp_path / "a.csv").write_text("".join(f"{n},60000,0.5,{n},{n},{T + n * hour},true\n" for n in range(1, 200)))
    (tmp_path / "b.csv").write_text("".join(f"{n},60000,0.5,{n},{n},{T + n},true\n" for n in range(1, 4)))
    sources = [Source(tmp_path / "a.csv", "BTCUSDT"), Source(tmp_path / "b.csv", "BTCUSDC")]
    for written in ({"agg_trades": 202}, {}):
        importer = Importer(Plan(adapter_of("BINANCE"), sources), environment)
        importer.read()
        assert importer.write().written == written


def test_topics_that_would_delete_the_history_are_refused(environment: Settings) -> None:
    create_topics(environment.model_copy(update={"keep_history": False}))
    with pytest.raises(ImportFailed, match=r"keeps \d+ days, but the files begin \d+ days ago.*PERPFLOW_KEEP_HISTORY=1"):
        run(environment, LTC[:1])


def test_contracts_without_a_value_and_wrong_kinds_are_refused_before_anything_is_written(environment: Settings, tmp_path: Path) -> None:
    path = tmp_path / "BTC-USDT-SWAP-trades-2024-08-01.csv"
    path.write_text(f"instrument_name,trade_id,side,price,size,created_time\nBTC-USDT-SWAP,1,buy,60000,3,{T}\n")
    plan = {"adapter": adapter_of("OKX"), "sources": [Source(path, "BTC-USDT-SWAP")]}
    with pytest.raises(ImportFailed, match="--contract-value"):
        Importer(Plan(**plan), environment).read()
    with pytest.raises(ImportFailed, match="--contract-value"):
        Importer(Plan(**plan, contract_values={"BTC-USDT-SWAP": "-1"}), environment).read()
    with pytest.raises(ImportFailed, match="--kind says klines"):
        Importer(Plan(**plan, kinds=("klines",)), environment).read()
    with pytest.raises(ImportFailed, match="no dump files of GRVT"):
        Plan(adapter_of("GRVT"), plan["sources"])
    path.write_text("instrument_name,trade_id,side,price,size,created_time\nBTC-USDT-SWAP,x,buy,60000,3,1\n")
    with pytest.raises(ImportFailed, match=r"no row of .* line 2: trade_id"):
        Importer(Plan(**plan, contract_values={"BTC-USDT-SWAP": "0.01"}), environment).read()
