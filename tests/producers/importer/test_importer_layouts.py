"""What rows of each known dump file say, with and without header; rows in the forms that the venues publish."""

from __future__ import annotations

import csv
import gzip
import hashlib
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.importer.files import ImportFailed, Source, lines, source_of, verified
from producers.importer.layouts import LAYOUTS, BadRow, Fill, Other, layout_of
from producers.importer.rows import JUMP_MS, Stream, look, ordered, places

T = 1_722_470_400_000  # 2024-08-01 00:00 UTC
AGG_HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"


def said(venue: str, *rows: str) -> list[Any]:
    """Return the layout's name and what each row says."""
    first = next(csv.reader([rows[0]]))
    layout, cells, header = layout_of(venue, "x.csv", first)
    found: list[Any] = [layout.name]
    for row in rows[header:]:
        cells.row = next(csv.reader([row]))
        found.append(layout.read(cells))
    return found


AGG = Fill(T + 1, 2_145_000_001, 5_100_000_000, 5_100_000_003, "64622.10", "0.005", True)


@pytest.mark.parametrize(
    "rows",
    [
        [AGG_HEADER, f"2145000001,64622.10,0.005,5100000000,5100000003,{T + 1},true"],
        [f"2145000001,64622.10,0.005,5100000000,5100000003,{T + 1},true"],
        [f"2145000001,64622.10,0.005,5100000000,5100000003,{T + 1},True,True"],  # spot
        [f"2145000001,64622.10,0.005,5100000000,5100000003,{T + 1}123,True,True"],  # spot since 2025: microseconds
    ],
)
def test_binance_agg_trades(rows):
    assert said("BINANCE", *rows) == ["aggTrades", AGG]


@pytest.mark.parametrize(
    "rows",
    [
        ["id,price,qty,quote_qty,time,is_buyer_maker", f"5100000000,64622.10,0.005,323.11,{T},false"],
        [f"5100000000,64622.10,0.005,323.11,{T},false"],
        [f"5100000000,64622.10,0.005,323.11,{T},False,True"],
        ["id,price,qty,quoteQty,time,isBuyerMaker,isBestMatch", f"5100000000,64622.10,0.005,323.11,{T}000,False,True"],
    ],
)
def test_binance_trades(rows):
    assert said("BINANCE", *rows) == ["trades", Fill(T, 5_100_000_000, 5_100_000_000, 5_100_000_000, "64622.10", "0.005", False)]


def test_binance_klines_state_what_takers_bought():
    row = f"{T},64622.10,64701.00,64600.00,64650.50,120.500,{T + 59_999},7790000.1,1520,70.250,4540000.2,0"
    header = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
    bar = {
        "event_time": T + 60_000, "timeframe": "1m", "open": 64622.1, "high": 64701.0, "low": 64600.0, "close": 64650.5, "volume": 120.5,
        "taker_buy_volume": 70.25, "trades": 1520, "backfilled": False,
    }  # fmt: skip
    for rows in ([row], [header, row]):
        assert said("BINANCE", *rows) == ["klines", Other(T + 60_000, "klines", bar, ("64622.10", "64701.00", "64600.00", "64650.50"))]


def test_binance_funding_quotes_and_book_bands():
    name, funding = said("BINANCE", "calc_time,funding_interval_hours,last_funding_rate", f"{T + 7},8,-0.00012500")
    assert (name, funding.time, funding.record["settled_rate"], funding.record["interval_hours"]) == ("fundingRate", T + 7, -0.000125, 8)
    name, quote = said(
        "BINANCE",
        "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time",
        f"5052800000001,64622.1,2.5,64622.2,0.75,{T},{T + 3}",
    )
    assert (name, quote.time, quote.topic) == ("bookTicker", T, "quotes")
    assert [quote.record[key] for key in ("update_id", "bid_price", "bid_quantity", "ask_price", "ask_quantity")] == [
        5052800000001, 64622.1, 2.5, 64622.2, 0.75,
    ]  # fmt: skip
    name, band, above = said(
        "BINANCE", "timestamp,percentage,depth,notional", "2024-08-01 00:00:06,-0.20,11.5,740000.5", "2024-08-01 00:00:06,5,1,2"
    )
    assert (name, band.time, band.topic, band.record["indicator"], band.record["value"]) == (
        "bookDepth", T + 6000, "market_indicators", "book_notional_bid_0.2pct", 740000.5,
    )  # fmt: skip
    assert above.record["indicator"] == "book_notional_ask_5pct"


def test_bybit_and_okx_trades():
    header = "timestamp,symbol,side,size,price,tickDirection,trdMatchID,grossValue,homeNotional,foreignNotional"
    row = f"{T // 1000}.1239,BTCUSDT,Sell,0.005,64622.10,ZeroMinusTick,1d2f41c1-5b2c-5b0e-a0a7-f21b4bf3a4b0,3.2e+10,0.005,323.1105"
    fill = Fill(T + 123, None, 0, 0, "64622.10", "0.005", True, "1d2f41c1-5b2c-5b0e-a0a7-f21b4bf3a4b0")
    assert said("BYBIT", header, row) == ["public trading", fill] == said("BYBIT", row)
    spot = Fill(T, None, 0, 0, "64622.1", "0.005", False, f"{T}-1")
    assert said("BYBIT", "id,timestamp,price,volume,side", f"1,{T},64622.1,0.005,buy") == ["spot public trading", spot]
    okx = Fill(T, 1_234_567_890, 1_234_567_890, 1_234_567_890, "64622.1", "12", False)
    assert said("OKX", "instrument_name,trade_id,side,price,size,created_time", f"BTC-USDT-SWAP,1234567890,buy,64622.1,12,{T}") == [
        "trades",
        okx,
    ]
    old = "trade_id/撮合id,side/交易方向,size/数量,price/价格,created_time/成交时间"
    assert said("OKX", old, f"1234567890,BUY,12.0,64622.1,{T}") == ["trades (older)", okx._replace(quantity="12.0")]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (f"1,0,1,1,1,{T},true", "price"),
        (f"1,-1,1,1,1,{T},true", "price"),
        (f"1,NaN,1,1,1,{T},true", "price"),
        (f"1,1e999,1,1,1,{T},true", "price"),
        (f"1,1,x,1,1,{T},true", "quantity"),
        (f"1,1,1,2,1,{T},true", "last_trade_id"),
        (f"-1,1,1,1,1,{T},true", "agg_trade_id"),
        ("1,1,1,1,1,12,true", "transact_time"),
        (f"1,1,1,1,1,{'9' * 19},true", "transact_time"),
        (f"1,1,1,1,1,{T},maybe", "is_buyer_maker"),
        (f"1,1,1,1,1,{T}", "is_buyer_maker"),
        ("", "agg_trade_id"),
    ],
)
def test_a_bad_row_names_its_field(row, field):
    with pytest.raises(BadRow) as caught:
        said("BINANCE", AGG_HEADER, row or "''")
    assert caught.value.field == field and caught.value.reason


def test_a_bar_that_is_none_is_refused():
    for row, field in (
        (f"{T},10,9,8,9,1,{T + 59_999},1,1,1,1,0", "high"),
        (f"{T},10,11,8,9,1,{T + 59_000},1,1,1,1,0", "close_time"),
        (f"{T},10,11,8,9,1,{T + 59_999},1,x,1,1,0", "count"),
    ):
        with pytest.raises(BadRow) as caught:
            said("BINANCE", row)
        assert caught.value.field == field


@pytest.mark.parametrize("venue", [*LAYOUTS, "GRVT"])
@given(text=st.text(alphabet="0123456789.,-TrueFalsbuy x", max_size=60))
@settings(max_examples=150)
def test_any_row_is_read_or_refused_by_name(venue, text):
    first = next(csv.reader([text]), [])
    try:
        layout, cells, _ = layout_of(venue, "x", first)
    except ImportFailed as error:
        assert "x:" in str(error)
        return
    cells.row = first
    try:
        found = layout.read(cells)
    except BadRow as error:
        assert error.field in layout.columns
    else:
        assert found.time > 0


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=10**9, places=8))
def test_places_are_those_without_trailing_zeros(value):
    exponent = value.normalize().as_tuple().exponent
    assert places(format(value, "f")) == max(0, -int(exponent)) == places(f"{value:E}") or value == 0


# --- files -------------------------------------------------------------------------------------------------------------


def test_zip_gzip_and_plain_are_read_alike_and_a_broken_one_is_named(tmp_path: Path):
    text = "\ufeffa,b\r\n\r\n1,2\n"
    (tmp_path / "plain.csv").write_bytes(text.encode())
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("2.csv", "3,4\n")
        archive.writestr("1.csv", text)
    assert list(lines(tmp_path / "plain.csv")) == list(lines(tmp_path / "packed.csv.gz")) == [(1, "a,b"), (3, "1,2")]
    assert list(lines(tmp_path / "two.zip")) == [(1, "a,b"), (3, "1,2"), (4, "3,4")]
    cut = gzip.compress(("1,2\n" * 100_000).encode())
    (tmp_path / "cut.gz").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "cut.zip").write_bytes((tmp_path / "two.zip").read_bytes()[:-30])
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    for name in ("cut.gz", "cut.zip", "empty.zip"):
        with pytest.raises(ImportFailed, match=name):
            list(lines(tmp_path / name))


def test_a_checksum_beside_the_file_is_verified(tmp_path: Path):
    file = tmp_path / "BTCUSDT-aggTrades-2024-08-01.zip"
    file.write_bytes(b"content")
    assert verified(file) == "absent"
    beside = tmp_path / (file.name + ".CHECKSUM")
    beside.write_text(f"{hashlib.sha256(b'content').hexdigest()}  {file.name}\n")
    assert verified(file) == "verified"
    file.write_bytes(b"content!")
    with pytest.raises(ImportFailed, match=r"CHECKSUM says"):
        verified(file)
    beside.write_text("nonsense")
    with pytest.raises(ImportFailed, match="SHA-256"):
        verified(file)


@pytest.mark.parametrize(
    ("name", "hyphened", "symbol"),
    [
        ("BTCUSDT-aggTrades-2024-08-01.zip", False, "BTCUSDT"),
        ("1000PEPEUSDT-1m-2024-08.zip", False, "1000PEPEUSDT"),
        ("BTCUSDT2024-08-01.csv.gz", False, "BTCUSDT"),
        ("1000PEPEUSDT2024-08-01.csv.gz", False, "1000PEPEUSDT"),
        ("LTCUSDT_2025-06-21_06h_trades.csv.gz", False, "LTCUSDT"),
        ("BTC-USDT-SWAP-trades-2024-08-01.zip", True, "BTC-USDT-SWAP"),
        ("BTC-USDT-trades-2024-08-01.zip", True, "BTC-USDT"),
        ("allswap-btc.csv", True, None),
    ],
)
def test_the_symbol_is_in_the_name_or_given(tmp_path: Path, name, hyphened, symbol):
    (tmp_path / name).touch()
    if symbol is None:
        with pytest.raises(ImportFailed, match="symbol"):
            source_of(str(tmp_path / name), None, hyphened)
    else:
        assert source_of(str(tmp_path / name), None, hyphened) == Source(tmp_path / name, symbol)
    assert source_of(f"{tmp_path / name}=XUSDT", None, hyphened).symbol == "XUSDT"
    assert source_of(str(tmp_path / name), "YUSDT", hyphened).symbol == "YUSDT" or symbol is not None
    with pytest.raises(ImportFailed, match="no file"):
        source_of(str(tmp_path / "absent"), None, hyphened)


# --- streams -----------------------------------------------------------------------------------------------------------


def stream(tmp_path: Path, venue: str, *texts: str, value: str | None = None) -> Stream:
    files = []
    tmp_path.mkdir(exist_ok=True)
    for index, text in enumerate(texts):
        path = tmp_path / f"BTCUSDT-{index}.csv"
        path.write_text(text)
        files.append(look(Source(path, "BTCUSDT"), venue))
    return Stream("BTCUSDT", "X:BTCUSDT-PERP", 0, ordered(files), None if value is None else Decimal(value))


def test_fills_of_one_order_are_grouped_across_files_holes_end_a_group_and_doubles_are_dropped(tmp_path: Path):
    one = f"10,1.50,0.1,0,{T},true\n11,1.50,0.2,0,{T},true\n"
    two = f"11,1.50,0.2,0,{T},true\n12,1.50,0.3,0,{T},true\n13,1.50,0.4,0,{T},false\n15,1.50,0.5,0,{T},false\n14,1.50,0.6,0,{T + 1},false\n"
    found = stream(tmp_path, "BINANCE", one, two)
    events = list(found.events(report=True))
    trades = [event.record for event in events if event.topic == "agg_trades"]
    assert [(t["agg_id"], t["first_trade_id"], t["last_trade_id"], t["quantity"], t["buyer_is_maker"]) for t in trades] == [
        (10, 10, 12, 0.6, True), (13, 13, 13, 0.4, False), (15, 15, 15, 0.5, False), (14, 14, 14, 0.6, False),
    ]  # fmt: skip
    ((gap,),) = [[event.record for event in events if event.topic == "gaps"]]
    assert (gap["from_id"], gap["to_id"], gap["certain"]) == (14, 14, True)
    last = found.files[1].report
    assert (last.rows, last.duplicates, last.gaps, last.missing, last.out_of_order, found.fills) == (5, 1, 1, 1, 0, 6)
    assert list(found.events(report=False)) == events, "the same files give the same events"


def test_bad_rows_go_aside_with_line_and_field_and_cost_no_other(tmp_path: Path):
    text = f"{AGG_HEADER}\n1,x,1,1,1,{T},true\n2,1.5,1,2,2,{T},true\nbroken\n3,1.5,1,3,3,{T + JUMP_MS + 2},true\n4,1.5,1,4,4,{T + 1},true\n"
    found = stream(tmp_path, "BINANCE", text)
    events = list(found.events(report=True))
    assert [(event.topic, event.time) for event in events if event.topic != "gaps"] == [
        ("dead_letters", T), ("agg_trades", T), ("dead_letters", T), ("dead_letters", T), ("agg_trades", T + 1),
    ]  # fmt: skip
    report = found.files[0].report
    assert (report.rows, report.bad) == (5, 3)
    assert [(row["line"], row["field"]) for row in report.bad_rows] == [(2, "price"), (4, "agg_trade_id"), (5, "time")]
    assert {event.record["where"] for event in events if event.topic == "dead_letters"} == {f"BTCUSDT-0.csv:{n}" for n in (2, 4, 5)}
    assert (found.decimals.price, found.decimals.quantity) == (1, 0)


def test_a_file_that_begins_with_its_newest_row_is_read_from_its_end(tmp_path: Path):
    rows = [f"{T // 1000 + n}.5,BTCUSDT,Buy,1,{100 + n},PlusTick,id-{n},1,1,1" for n in range(30)]
    up = stream(tmp_path / "up", "BYBIT", "\n".join(rows))
    down = stream(tmp_path / "down", "BYBIT", "\n".join(rows[::-1]))
    assert down.files[0].report.descending and not up.files[0].report.descending
    assert list(down.events(report=True)) == list(up.events(report=True))
    assert down.files[0].report.out_of_order == 0


def test_bybit_trades_get_ascending_ids_and_each_is_taken_once(tmp_path: Path):
    row = f"{T // 1000}.5,BTCUSDT,Buy,1,100,PlusTick,id-%s,1,1,1"
    found = list(stream(tmp_path, "BYBIT", "\n".join(row % n for n in (1, 2, 1, 3))).events(report=True))
    assert [(event.record["agg_id"], event.record["venue_trade_id"]) for event in found] == [
        ((T + 500) * 1_000_000, "id-1"), ((T + 500) * 1_000_000 + 1, "id-2"), ((T + 500) * 1_000_000 + 2, "id-3"),
    ]  # fmt: skip


def test_okx_contracts_become_base_units_exactly_and_another_instruments_row_is_refused(tmp_path: Path):
    header = "instrument_name,trade_id,side,price,size,created_time"
    text = f"{header}\nBTCUSDT,1,buy,100.5,3,{T}\nETHUSDT,2,buy,1,1,{T}\nBTCUSDT,2,sell,100.5,7,{T}\n"
    found = list(stream(tmp_path, "OKX", text, value="0.01").events(report=True))
    assert [(event.topic, event.record.get("quantity")) for event in found] == [
        ("agg_trades", 0.03), ("dead_letters", None), ("agg_trades", 0.07),
    ]  # fmt: skip


def test_the_header_of_a_second_file_in_an_archive_is_passed_over(tmp_path: Path):
    path = tmp_path / "BTCUSDT-aggTrades-2024-08.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for day in (1, 2):
            archive.writestr(f"{day}.csv", f"{AGG_HEADER}\n{day},1.5,1,{day},{day},{T + day},true\n")
    found = Stream("BTCUSDT", "X", 0, [look(Source(path, "BTCUSDT"), "BINANCE")])
    assert [event.record["agg_id"] for event in found.events(report=True)] == [1, 2]
    assert found.files[0].report.bad == 0 and found.files[0].report.rows == 2


def test_an_unknown_file_says_what_is_known(tmp_path: Path):
    path = tmp_path / "BTCUSDT-x.csv"
    path.write_text("a,b,c\n1,2,3\n")
    with pytest.raises(ImportFailed, match="aggTrades"):
        look(Source(path, "BTCUSDT"), "BINANCE")
    path.write_text("\n\n")
    with pytest.raises(ImportFailed, match="no line of data"):
        look(Source(path, "BTCUSDT"), "BINANCE")
