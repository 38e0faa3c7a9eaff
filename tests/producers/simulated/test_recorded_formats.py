"""Recordings are read by their content, keep the venue's text, and name file, line and field when they cannot be read."""

from __future__ import annotations

import gzip
import itertools
import zipfile
from decimal import Decimal
from pathlib import Path

import pytest

from producers.simulated.recording.events import AGG, DEPTH, SNAPSHOT, TRADE, FormatError
from producers.simulated.recording.formats import read_events, recording_files
from producers.simulated.recording.recording import Recording, decimal_step, read_funding, survey
from tests.support.markets.recorded_client import BTC_2023, CAPTURES, LTC, head

DUMP = "101,0.2310,243.0,900,902,1741046404349,true\n102,0.2311,1,903,903,1741046404350,false\n"
DUMP_HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
RAW_TRADE = (
    '1723161255088176367 {"stream":"btcusdt@trade","data":{"e":"trade","E":5,"T":5,"s":"BTCUSDT","t":1,"p":"61800.30","q":"0.006",'
    '"X":"MARKET","m":false}}\n'
)


def test_raw_lines_keep_the_recorded_bytes_and_their_order(tmp_path: Path) -> None:
    file = head(BTC_2023, 300, tmp_path / "btc")
    events = list(read_events(file, "BTCUSDT"))
    assert len(events) == 300
    for event, line in zip(events, file.read_bytes().splitlines(), strict=True):
        assert line.split(b" ", 1)[1] == b'{"stream":"btcusdt@' + event.stream.encode() + b'","data":' + event.data + b"}"
    assert {event.stream for event in events} == {"depth@0ms", "bookTicker", "markPrice@1s", "trade"}


def test_trades_csv_says_the_takers_side() -> None:
    events = list(read_events(LTC / "LTCUSDT_2025-06-22_00h_trades.csv.gz", "LTCUSDT"))
    first = events[0].body
    assert (first["T"], first["p"], first["q"], first["m"], first["t"]) == (1750568400946, "81", "4.851", False, 293588443)
    sell = next(event.body for event in events if event.body["t"] == 293588448)
    assert sell["m"] is True and sell["q"] == "0.323"


def test_a_folder_a_glob_and_a_list_are_one_recording_in_order() -> None:
    files = sorted(LTC.iterdir())
    assert recording_files(LTC) == files
    assert recording_files(f"{LTC}/*06-22*") == [file for file in files if "06-22" in file.name]
    assert recording_files(f"{files[3]},{files[1]}") == [files[3], files[1]]
    ids = [event.body["t"] for event in read_events(LTC, "LTCUSDT")]
    assert len(ids) == 125_293 and ids == sorted(ids)
    with pytest.raises(FileNotFoundError, match="no file at"):
        recording_files("nowhere/*.gz")


def test_capture_rows_of_one_update_are_one_event() -> None:
    events = list(read_events(CAPTURES / "trxusdt_usdm_difference_depth_stream_positive.csv.gz", "TRXUSDT"))
    body = events[0].body
    assert events[0].stream == "depth@100ms"
    assert (body["U"], body["u"], body["pu"]) == (6918041782209, 6918041798669, 6918041778741)
    assert body["b"] == [["0.23098", "17739.0"]]
    assert body["a"] == [["0.23104", "14763.0"], ["0.2311", "45202.0"], ["0.23151", "5193.0"], ["0.46203", "0.0"]]
    assert all(later.body["pu"] == earlier.body["u"] for earlier, later in itertools.pairwise(events))


def test_merged_capture_gives_snapshots_depth_and_trades() -> None:
    events = list(read_events(CAPTURES / "trxusdt_usdm_merged_positive.csv.gz", "TRXUSDT"))
    kinds = [event.kind for event in events]
    assert kinds[0] == SNAPSHOT and kinds.count(SNAPSHOT) == 2 and kinds.count(TRADE) == 199
    depth = [event.body for event in events if event.kind == DEPTH]
    assert events[0].body["lastUpdateId"] == depth[0]["pu"]
    assert sum(len(events[0].body[side]) for side in ("bids", "asks")) == 5521
    assert all(later["pu"] == earlier["u"] for earlier, later in itertools.pairwise(depth))


def test_planted_faults_are_data() -> None:
    trades = read_events(CAPTURES / "trxusdt_usdm_trade_stream_negative.csv.gz", "TRXUSDT")
    assert next(trades).body["p"] == "-1"
    depth = [e.body for e in read_events(CAPTURES / "trxusdt_usdm_merged_negative.csv.gz", "TRXUSDT") if e.kind == DEPTH]
    broken = [at for at in range(1, len(depth)) if depth[at]["pu"] != depth[at - 1]["u"]]
    assert broken == [1] and depth[0]["u"] == 7267631291191


def test_bulk_dump_with_and_without_header_plain_and_zipped(tmp_path: Path) -> None:
    bare, headed, zipped = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "c.zip"
    bare.write_text(DUMP)
    headed.write_text(DUMP_HEADER + DUMP)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("TRXUSDT-aggTrades.csv", DUMP_HEADER + DUMP)
    expected = [event.body for event in read_events(bare, "TRXUSDT")]
    assert expected[0] == {
        "e": "aggTrade",
        "E": 1741046404349,
        "s": "TRXUSDT",
        "a": 101,
        "p": "0.2310",
        "q": "243.0",
        "f": 900,
        "l": 902,
        "T": 1741046404349,
        "m": True,
    }
    for file in (headed, zipped):
        assert [event.body for event in read_events(file, "TRXUSDT")] == expected
    spot = tmp_path / "spot.csv"
    spot.write_text("101,0.2310,243.0,900,902,1741046404349123,True,True\n")
    assert next(iter(read_events(spot, "TRXUSDT"))).clock == 1741046404349


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        (RAW_TRADE + '1723161255088176368 {"stream":"btcusdt@trade","data"\n', 2, "json"),
        (RAW_TRADE + RAW_TRADE.replace('"E":5', '"E":"5"'), 2, "E"),
        (RAW_TRADE + RAW_TRADE.replace('"p":"61800.30",', ""), 2, "p"),
        (RAW_TRADE + '1723161255088176368 {"bids":[]}\n', 2, "stream"),
        (RAW_TRADE + 'x {"stream":"btcusdt@trade"}\n', 2, "local stamp"),
        ("timestamp,price,quantity,side,tradeId\n1750568400946,81,4.8,buy,1\n1750568400946,81,4.8,up,2\n", 3, "side"),
        ("timestamp,price,quantity,side,tradeId\n1750568400946,eighty,4.8,buy,1\n", 2, "price"),
        ("# note\ntimestamp,price,quantity,side,tradeId\n1750568400946,81,nan,buy,1\n", 3, "quantity"),
        ("timestamp,price,quantity,side,tradeId\n1750568400946,81,4.8\n", 2, "side"),
        (DUMP + "103,0.2311,1,903,9x3,1741046404350,false\n", 3, "last_trade_id"),
        ("TimestampOfReceive,Stream,EventType\n1,2,3\n", 1, "TransactionTime"),
        ("price;quantity\n1;2\n", 1, "format"),
        ("# only a comment\n", 1, "content"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, text: str, line: int, field: str) -> None:
    file = tmp_path / "broken.txt"
    file.write_text(text)
    with pytest.raises(FormatError) as caught:
        list(read_events(file, "BTCUSDT"))
    assert (caught.value.file, caught.value.line, caught.value.field) == ("broken.txt", line, field)
    assert str(caught.value).startswith(f"broken.txt:{line}: {field}: ")


def test_a_truncated_archive_is_an_error_not_an_end(tmp_path: Path) -> None:
    file = tmp_path / "cut.gz"
    packed = gzip.compress((RAW_TRADE * 500).encode())
    file.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(FormatError, match="compression"):
        list(read_events(file, "BTCUSDT"))


def test_survey_finds_steps_counts_and_the_wrong_symbol(tmp_path: Path) -> None:
    facts = survey(Recording(CAPTURES / "trxusdt_usdm_merged_positive.csv.gz", "TRXUSDT"))
    assert (decimal_step(facts.tick_decimals), decimal_step(facts.step_decimals)) == ("0.00001", "1")
    assert facts.counts["trade"] == 199 and facts.counts["depth@100ms"] == 155 and facts.routes == {"public", "market"}
    btc = survey(Recording(head(BTC_2023, 2000, tmp_path / "btc"), "BTCUSDT"))
    assert (btc.price_decimals, btc.tick_decimals, btc.step_decimals) == (2, 1, 3)
    assert (btc.base_asset, btc.quote_asset, btc.first) == ("BTC", "USDT", 1680652800016)
    with pytest.raises(FormatError, match="no message of ETHUSDT"):
        survey(Recording(tmp_path / "btc", "ETHUSDT"))


def test_recording_arguments() -> None:
    assert Recording.parse("a=b/c.gz=LTCUSDT:spot") == Recording("a=b/c.gz", "LTCUSDT", "spot")
    for text in ("file", "file=", "=BTCUSDT", "file=btcusdt", "file=BTCUSDT:swap"):
        with pytest.raises(ValueError, match="recording: "):
            Recording.parse(text)


def test_insurance_fund_prints_join_no_agg_trade() -> None:
    events = list(Recording(BTC_2023, "BTCUSDT").events())
    trades = {event.body["t"]: event.body for event in events if event.kind == TRADE}
    covered = [number for e in events if e.kind == AGG for number in range(e.body["f"], e.body["l"] + 1)]
    fund = {number for number, body in trades.items() if body["X"] != "MARKET"}
    assert len(fund) == 1 and len(covered) == len(set(covered)) and set(covered) == trades.keys() - fund
    assert sum(Decimal(e.body["q"]) for e in events if e.kind == AGG) == sum(Decimal(trades[number]["q"]) for number in covered)


def test_funding_file_stamps_are_utc_plus_3() -> None:
    rows = read_funding(
        Recording(BTC_2023, "BTCUSDT", funding=CAPTURES.parent / "funding_history/BTCUSDT_binance_funding_2020_2024.csv.gz")
    )
    assert rows[0] == {"symbol": "BTCUSDT", "fundingTime": 1577836800000, "fundingRate": "-0.00012359"}
