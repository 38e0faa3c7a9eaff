"""Recorded files with planted faults: each fault is reported with its line, their clean twins are clean."""

from __future__ import annotations

import csv
import gzip
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from producers.simulated.recording.capture_lines import CaptureLine, capture_lines
from producers.simulated.recording.events import FormatError
from stream_apps.core.quality.capture_check import LineFinding, check_capture
from tests.support.paths import DATA

FOLDER = DATA / "depth_gap_csv"
FILES = sorted(path.name for path in FOLDER.iterdir())


def table(name: str) -> list[tuple[int, dict[str, str]]]:
    """The file by the csv module alone: (line number from 1, row)."""
    with gzip.open(FOLDER / name, "rt") as file:
        lines = [(number, text) for number, text in enumerate(file.read().split("\n"), 1) if text and not text.startswith("#")]
    header = lines[0][1].split(",")
    return [(number, dict(zip(header, next(csv.reader([text])), strict=True))) for number, text in lines[1:]]


def differing(good: str, bad: str) -> dict[str, list[tuple[int, str, str]]]:
    """Column -> (line of the bad file, good cell, bad cell) wherever the twins differ."""
    found: dict[str, list[tuple[int, str, str]]] = {}
    for (_, a), (line, b) in zip(table(good), table(bad), strict=True):
        for column in a:
            if a[column] != b[column]:
                found.setdefault(column, []).append((line, a[column], b[column]))
    return found


@cache
def report(name: str) -> list[LineFinding]:
    return check_capture(capture_lines(FOLDER / name))


@pytest.mark.parametrize("name", [name for name in FILES if "positive" in name])
def test_the_clean_twins_are_clean(name: str) -> None:
    assert report(name) == []


def test_the_price_of_minus_one() -> None:
    planted = differing("trxusdt_usdm_trade_stream_positive.csv.gz", "trxusdt_usdm_trade_stream_negative.csv.gz")
    assert {column: [(line, bad) for line, _, bad in cells] for column, cells in planted.items()} == {"Price": [(2, "-1")]}
    (finding,) = report("trxusdt_usdm_trade_stream_negative.csv.gz")
    assert finding[:6] == (2, 2, "agg_trades", "invalid_value", -1.0, 0.0)


def test_the_time_that_runs_back_the_altered_update_id_and_the_message_cut_in_two() -> None:
    planted = differing("trxusdt_usdm_merged_positive.csv.gz", "trxusdt_usdm_merged_negative.csv.gz")
    assert set(planted) == {"TimestampOfReceiveUS", "IsLast", "FinalUpdateId"}
    clock, cut, altered = (planted[column] for column in ("TimestampOfReceiveUS", "IsLast", "FinalUpdateId"))
    time, split, last = report("trxusdt_usdm_merged_negative.csv.gz")
    ((line, good, bad),) = clock
    assert time[:5] == (line, line, "depth", "time_backwards", float((int(good) - int(bad)) // 1000))
    assert split[:4] == (cut[0][0], cut[0][0], "depth", "split_message")
    lines = [line for line, _, _ in altered]
    assert lines == list(range(lines[0], lines[-1] + 1))
    assert last[:6] == (lines[0], lines[-1], "depth", "altered_id", float(altered[0][2]), float(altered[0][1]))


# --- more faults than the files have -----------------------------------------------------------------------------------
@cache
def clean(name: str) -> tuple[CaptureLine, ...]:
    return tuple(capture_lines(FOLDER / name))[:2_000]


def messages_of(lines: tuple[CaptureLine, ...]) -> dict[int, list[int]]:
    """Message -> places of its lines; the last message may be cut and is left out."""
    found: dict[int, list[int]] = {}
    for at, line in enumerate(lines):
        found.setdefault(line.message, []).append(at)
    found.pop(max(found))
    return found


DEPTH = "trxusdt_usdm_difference_depth_stream_positive.csv.gz"
TRADES = "trxusdt_usdm_trade_stream_positive.csv.gz"


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_an_altered_update_id_is_found_where_it_is(data: Any) -> None:
    lines = list(clean(DEPTH))
    places = messages_of(clean(DEPTH))
    message = data.draw(st.sampled_from(sorted(places)[1:-1]))
    head = lines[places[message][0]]
    assert head.last_id is not None and head.first_id is not None
    by = data.draw(st.sampled_from([1, 2, 1_000]))
    for at in places[message]:
        lines[at] = lines[at]._replace(last_id=head.last_id + by)
    (finding,) = check_capture(lines)
    assert (finding.kind, finding.first, finding.last) == ("altered_id", lines[places[message][0]].line, lines[places[message][-1]].line)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_a_lost_message_is_a_gap_at_the_one_after_it(data: Any) -> None:
    lines, places = clean(DEPTH), messages_of(clean(DEPTH))
    message = data.draw(st.sampled_from(sorted(places)[1:-1]))
    left = [line for line in lines if line.message != message]
    (finding,) = check_capture(left)
    after = places[message + 1]
    assert (finding.kind, finding.first, finding.last) == ("sequence_gap", lines[after[0]].line, lines[after[-1]].line)
    assert finding.value == lines[places[message][0]].last_id


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_an_impossible_level_is_found_at_its_line(data: Any) -> None:
    lines = list(clean(DEPTH))
    at = data.draw(st.integers(0, len(lines) - 1))
    field, value = data.draw(st.sampled_from([("price", -1.0), ("price", 0.0), ("quantity", -2.0), ("quantity", float("inf"))]))
    lines[at] = lines[at]._replace(**{field: value})
    (finding,) = check_capture(lines)
    assert (finding.kind, finding.first, finding.value, finding.detail) == ("invalid_value", lines[at].line, value, field)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_a_lost_or_repeated_trade_is_found_at_its_line(data: Any) -> None:
    lines = list(clean(TRADES))
    at = data.draw(st.integers(1, len(lines) - 3))
    if data.draw(st.booleans()):
        after = lines[at + 1]
        del lines[at]
        (finding,) = check_capture(lines)
        assert (finding.kind, finding.first, finding.limit) == ("id_gap", after.line, float(after.last_id or 0) - 1)
    else:
        assume(not any(lines[at][4:] == other[4:] for other in (lines[at - 1], lines[at + 1])))
        lines.insert(at + 1, lines[at]._replace(line=99_999))
        (finding,) = check_capture(lines)
        assert (finding.kind, finding.first) == ("duplicate", 99_999)


def test_a_clock_that_runs_back_is_found_once_at_its_line() -> None:
    lines = list(clean(DEPTH))
    places = messages_of(clean(DEPTH))
    earlier, later = sorted(places)[4], sorted(places)[5]
    stamp = lines[places[earlier][0]].received
    assert stamp is not None
    at = places[later][0]
    lines[at] = lines[at]._replace(received=stamp - 40)
    kinds = [(finding.kind, finding.first) for finding in check_capture(lines)]
    assert kinds == [("time_backwards", lines[at].line)]


def test_what_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    with gzip.open(FOLDER / TRADES, "rt") as file:
        text = file.read().split("\n")[:200]
    text[50] = text[50].replace("0.23", "nonsense", 1)
    text[60] = text[60].rpartition(",")[0].rpartition(",")[0]
    path = tmp_path / "broken.csv"
    path.write_text("\n".join(text))
    found = [(finding.first, finding.detail) for finding in check_capture(capture_lines(path)) if finding.kind == "undecodable"]
    assert found == [(51, "cannot be read: Price"), (61, "cannot be read: IsBuyerMarketMaker")]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(FormatError, match="header"):
        list(capture_lines(path))
    path.write_text("# nothing\n")
    with pytest.raises(FormatError, match="there is none"):
        list(capture_lines(path))


def test_trades_of_nothing_are_told_from_trades_at_no_price() -> None:
    """The clean trade file has one line of price and quantity 0 that is no market trade; the same called MARKET is a fault."""
    odd = [(line, row) for line, row in table(TRADES) if float(row["Price"]) == 0]
    assert [(row["Quantity"], row["XUnknownParameter"]) for _, row in odd] == [("0.0", "")]
    lines = [line._replace(void=False) if line.void else line for line in capture_lines(FOLDER / TRADES)]
    assert [(finding.first, finding.kind) for finding in check_capture(lines)] == [(odd[0][0], "invalid_value")]


def test_the_reader_and_the_csv_module_agree() -> None:
    for name in FILES:
        rows = table(name)
        lines = list(capture_lines(FOLDER / name))
        assert [line.line for line in lines] == [number for number, _ in rows]
        assert [line.price for line in lines] == [float(row["Price"]) for _, row in rows]
        assert all(a.message <= b.message for a, b in pairwise(lines))
