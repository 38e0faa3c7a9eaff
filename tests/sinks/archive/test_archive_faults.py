"""Attacks on the archive without a broker: death at every write, a full disk, damage, two owners; then the rows are counted and compared."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from schemas.archive import layout
from schemas.archive.manifest import ArchiveError, Manifest, manifests
from sinks.archive import inspect
from sinks.archive.writer import ArchiveWriter
from tests.sinks.archive.archive_helpers import CODEC, INSTRUMENTS, Log, Message, Place, archived, batches_of, content, market, next_offsets

TRADES: Place = ("agg_trades", 3)
IDS = {"agg_trades": "id of agg_trades", "scores": "id of scores"}


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    return market("agg_trades", 300, 1)


def finish(root: Path, place: Place, messages: list[Message], size: int = 100) -> None:
    """Be the next archiver: claim, read on from where the manifest says, write to the end."""
    writer = ArchiveWriter(root, CODEC, Log())
    offsets, refused = writer.claim([place], IDS)
    assert not refused
    at = offsets[place]
    rest = [message for message in messages if message[0] >= at]
    for batch in batches_of(place, rest, size):
        first = batch if batch.expected else type(batch)(place, at, batch.next_offset, batch.records)
        assert writer.write([first]).written == {place: batch.next_offset}
        writer.merge(place)
    writer.close()


def whole(root: Path) -> None:
    """Assert that verification finds nothing, and that nothing lies about."""
    verdict = inspect.verify(root)
    assert (verdict.faults, verdict.unlisted) == ([], [])
    assert not list(root.rglob("*.tmp"))


def killed_at(call: int, root: Path, messages: list[Message]) -> bool:
    """Archive in a child process that is killed by SIGKILL just before its call-th change of the file system; return whether it was."""
    child = os.fork()
    if child == 0:
        calls = 0

        def counted(real: Any) -> Any:
            def counting(*arguments: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **more)

            return counting

        try:
            for name in ("fsync", "link"):
                setattr(os, name, counted(getattr(os, name)))
            for name in ("rename", "unlink", "mkdir"):
                setattr(Path, name, counted(getattr(Path, name)))
            finish(root, TRADES, messages)
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_death_before_every_change_of_the_file_system(tmp_path: Path, messages: list[Message]) -> None:
    points = 0
    for call in range(1, 1_000, 5):  # every fifth; batches are alike, and their seams lie elsewhere each time
        root = tmp_path / str(call)
        if not killed_at(call, root, messages):
            break
        points += 1
        if (root / layout.MANIFEST).is_dir():
            before = inspect.verify(root)
            assert not before.faults
            held = content(root).get(TRADES, [])
            assert held == messages[: len(held)], "what counts is whole at any moment"
        finish(root, TRADES, messages)
        assert content(root) == {TRADES: messages}
        whole(root)
        shutil.rmtree(root)
    assert points > 10, "the archive makes more changes than that"


def test_killed_at_random_moments_again_and_again(tmp_path: Path) -> None:
    messages = market("agg_trades", 6_000, 2)
    root = tmp_path / "archive"
    deaths = 0
    for number in range(12):
        child = os.fork()
        if child == 0:
            try:
                finish(root, TRADES, messages, 97)
                os._exit(0)
            except BaseException:
                os._exit(1)
        time.sleep(0.02 + 0.017 * number)
        os.kill(child, signal.SIGKILL)
        deaths += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    finish(root, TRADES, messages, 1_000)
    assert deaths > 3
    assert content(root) == {TRADES: messages}
    whole(root)


def test_a_frozen_archiver_is_shut_out(tmp_path: Path, messages: list[Message]) -> None:
    first, second = ArchiveWriter(tmp_path, CODEC, Log()), ArchiveWriter(tmp_path, CODEC, Log())
    batches = list(batches_of(TRADES, messages, 100))
    first.claim([TRADES], IDS)
    assert first.write(batches[:1]).rows == 100
    assert second.claim([TRADES], IDS)[0] == {TRADES: 100}
    outcome = first.write(batches[1:2])
    assert (outcome.written, outcome.fenced) == ({}, [TRADES])
    assert first.merge(TRADES) == 0
    assert [second.write([batch]).rows for batch in batches[1:]] == [100, 100]
    assert content(tmp_path) == {TRADES: messages}
    whole(tmp_path)


def test_a_topic_created_anew_is_left_alone(tmp_path: Path, messages: list[Message]) -> None:
    archived(tmp_path, {TRADES: messages})
    offsets, refused = ArchiveWriter(tmp_path, CODEC, Log()).claim([TRADES], {"agg_trades": "another"})
    assert not offsets and "recreated" in refused[TRADES]
    assert content(tmp_path) == {TRADES: messages}


@pytest.fixture
def small_disk() -> Iterator[Any]:
    """Return a function that limits the size of files that this process may write; no limit afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 4_000])
def test_a_full_disk_leaves_nothing_and_loses_nothing(tmp_path: Path, messages: list[Message], small_disk: Any, size: int) -> None:
    writer = ArchiveWriter(tmp_path, CODEC, Log())
    writer.claim([TRADES], IDS)
    batches = list(batches_of(TRADES, messages, 150))
    assert writer.write(batches[:1]).rows == 150
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    small_disk(size)
    with pytest.raises(OSError):
        writer.write(batches[1:])
    small_disk(None)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    assert content(tmp_path) == {TRADES: messages[:150]}
    assert writer.write(batches[1:]).rows == 150, "the same batch again, the same writer"
    assert content(tmp_path) == {TRADES: messages}
    whole(tmp_path)


def test_a_full_disk_while_merging_keeps_the_small_files(tmp_path: Path, messages: list[Message], small_disk: Any) -> None:
    writer = archived(tmp_path, {TRADES: messages}, 20, merge=False)
    small_disk(4_000)
    with pytest.raises(OSError):
        writer.merge(TRADES)
    small_disk(None)
    assert content(tmp_path) == {TRADES: messages}
    many = len(Manifest(tmp_path, *TRADES).load().files)
    assert writer.merge(TRADES) == many
    assert len(Manifest(tmp_path, *TRADES).load().files) < many / 4
    assert content(tmp_path) == {TRADES: messages}


def test_files_of_a_day_are_merged_when_they_are_many_or_the_day_is_over(tmp_path: Path) -> None:
    day = [message for message in market("agg_trades", 400, 3) if message[1] < 1_723_075_200_000 + 43_200_000]
    messages = [(offset, *rest) for offset, (_, *rest) in enumerate(day)]
    writer = archived(tmp_path, {TRADES: messages[:60]}, 20)
    assert {file.rows for file in Manifest(tmp_path, *TRADES).load().files.values()} != {20}
    before = len(Manifest(tmp_path, *TRADES).load().files)
    assert before >= 6, "three batches of a day that goes on stay as they are"
    tomorrow = CODEC.encode(
        "agg_trades",
        {
            **CODEC.decode("agg_trades", next(m[3] for m in messages if m[3] != b"no record")),
            "event_time": 1_723_075_200_000 + 86_400_000 + 700_000,
        },
    )
    (batch,) = batches_of(TRADES, [(60, 1, INSTRUMENTS[0].encode(), tomorrow)], 1)
    writer.write([type(batch)(TRADES, 60, 61, batch.records)])
    assert writer.merge(TRADES) == before
    files = Manifest(tmp_path, *TRADES).load().files.values()
    assert len({(file.day, file.folder) for file in files}) == len(files)
    assert content(tmp_path)[TRADES][:60] == messages[:60]
    assert len(inspect.verify(tmp_path).unlisted) == before, "readers of an older manifest still find them"
    writer.close()
    whole(tmp_path)


# --- verifying -----------------------------------------------------------------------------------------------------------
def largest(root: Path) -> Path:
    return max(root.glob("*/*/*/*.parquet"), key=lambda path: path.stat().st_size)


def test_verify_names_the_file_that_was_damaged(tmp_path: Path, messages: list[Message]) -> None:
    def cut(path: Path) -> None:
        os.truncate(path, path.stat().st_size // 2)

    def flipped(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)

    def swapped(path: Path) -> None:
        other = min(path.parent.parent.glob("*/*.parquet"), key=lambda one: one.stat().st_size)
        path.write_bytes(other.read_bytes())

    archived(tmp_path / "sound", {TRADES: messages}, 150)
    whole(tmp_path / "sound")
    for number, damage in enumerate((cut, flipped, swapped, Path.unlink)):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "sound", root)
        victim = largest(root)
        damage(victim)
        (fault,) = inspect.verify(root).faults
        assert victim.relative_to(root).as_posix() in fault
        if damage in (cut, Path.unlink):
            with pytest.raises(ArchiveError, match=victim.name):
                content(root)


def test_verify_names_missing_and_doubled_offsets(tmp_path: Path, messages: list[Message]) -> None:
    archived(tmp_path, {TRADES: messages}, 150, merge=False)
    manifest = Manifest(tmp_path, *TRADES)
    state = manifest.load()
    gone = next(file for file in state.files.values() if file.first_offset == 0)
    without = manifest.commit(state, remove=[gone.path])
    verdict = inspect.verify(tmp_path)
    assert any("offsets 0 to" in fault and "are missing" in fault for fault in verdict.faults)
    assert verdict.unlisted == [gone.path]
    copy = gone.path.replace("p03-", "p03-1")
    shutil.copy(tmp_path / gone.path, tmp_path / copy)
    both = [gone, type(gone)(**{**vars(gone), "path": copy})]
    manifest.commit(without, add=both)
    assert any(f"{gone.rows} records are in two files, the first at offset 0" in fault for fault in inspect.verify(tmp_path).faults)


def test_a_folder_that_is_no_archive_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no archive"):
        inspect.verify(tmp_path)


# --- other tools ---------------------------------------------------------------------------------------------------------
def test_duckdb_reads_what_was_archived(tmp_path: Path, messages: list[Message]) -> None:
    archived(tmp_path, {TRADES: messages, ("scores", 3): market("scores", 40, 9)}, 150)
    decoded = [CODEC.decode("agg_trades", value) for _, _, _, value in messages if value != b"no record"]
    glob = f"{tmp_path}/agg_trades/*/BINANCE*/*.parquet"
    mine = [one for one in decoded if one["instrument"] == INSTRUMENTS[0]]
    rows = duckdb.sql(f"SELECT count(*), sum(agg_id::HUGEINT), min(event_time), max(_offset) FROM '{glob}' WHERE _state < 2").fetchall()
    assert rows[0][0] == len(mine) and rows[0][1] == sum(one["agg_id"] for one in mine)
    assert int(rows[0][2].timestamp() * 1000) == min(one["event_time"] for one in mine)
    ids = duckdb.sql(f"SELECT score_id FROM '{tmp_path}/scores/*/*/*.parquet' WHERE _state < 2 ORDER BY _offset").fetchall()
    assert [one for (one,) in ids] == [
        CODEC.decode("scores", value)["score_id"] for _, _, _, value in market("scores", 40, 9) if value != b"no record"
    ]


def test_statistics_let_readers_pass_over_row_groups(tmp_path: Path, messages: list[Message]) -> None:
    archived(tmp_path, {TRADES: messages})
    for path in tmp_path.glob("*/*/*/*.parquet"):
        metadata = pq.ParquetFile(path).metadata
        for group in range(metadata.num_row_groups):
            columns = {
                metadata.row_group(group).column(n).path_in_schema: metadata.row_group(group).column(n) for n in range(metadata.num_columns)
            }
            assert columns["event_time"].statistics.has_min_max and columns[layout.OFFSET].statistics.has_min_max
            assert {column.compression for column in columns.values()} == {"ZSTD"}


def test_listing_adds_up(tmp_path: Path, messages: list[Message]) -> None:
    archived(tmp_path, {TRADES: messages, ("progress", 3): market("progress", 30, 4)}, 150)
    found = inspect.holdings(tmp_path)
    assert {one.topic for one in found} == {"agg_trades", "progress"}
    trades = [one for one in found if one.topic == "agg_trades"]
    assert sorted(one.folder for one in trades) == sorted(INSTRUMENTS)
    assert sum(one.rows for one in trades) == len(messages) == next_offsets(tmp_path)[TRADES]
    assert sum(one.bytes for one in found) == sum(
        path.stat().st_size for path in tmp_path.glob("*/*/*/*.parquet") if path.parts[-4] != layout.MANIFEST
    )
    assert {path for paths in inspect.listed_files(tmp_path).values() for path in paths} == set(tmp_path.glob("*/*/*/*.parquet"))
    assert len(list(manifests(tmp_path))) == 2


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_export_gives_the_records_of_a_range(tmp_path: Path, messages: list[Message], suffix: str) -> None:
    archived(tmp_path / "archive", {TRADES: messages}, 90)
    first, end = 1_723_075_200_000 + 40_000, 1_723_075_200_000 + 43_300_000
    wanted = {
        offset: record
        for offset, _, key, value in messages
        if value != b"no record"
        and key == INSTRUMENTS[1].encode()
        and first <= (record := CODEC.decode("agg_trades", value))["event_time"] < end
    }
    target = tmp_path / f"out.{suffix}"
    assert inspect.export(tmp_path / "archive", "agg_trades", INSTRUMENTS[1], first, end, target) == len(wanted) > 50
    table = pyarrow.csv.read_csv(target) if suffix == "csv" else pq.read_table(target)
    rows = {row[layout.OFFSET]: row for row in table.to_pylist()}
    assert set(rows) == set(wanted)
    for offset, row in rows.items():
        assert row["quantity"] == wanted[offset]["quantity"] or wanted[offset]["quantity"] != wanted[offset]["quantity"]
        assert int(row["event_time"].timestamp() * 1000) == wanted[offset]["event_time"]
    with pytest.raises(ArchiveError, match="nothing of agg_trades"):
        inspect.export(tmp_path / "archive", "agg_trades", "NO:SUCH", None, None, target)
    with pytest.raises(ArchiveError, match="neither"):
        inspect.export(tmp_path / "archive", "agg_trades", None, None, None, tmp_path / "out.txt")


def test_export_of_nested_records_is_text_in_csv(tmp_path: Path) -> None:
    archived(tmp_path / "archive", {("scores", 0): market("scores", 30, 4)})
    assert inspect.export(tmp_path / "archive", "scores", None, None, None, tmp_path / "out.csv") >= 28
