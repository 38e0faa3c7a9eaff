"""Frames, fingerprints, errors and compatibility of the contract."""

from __future__ import annotations

import json
import math
import pickle
import struct
import subprocess
from collections.abc import Iterable

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse
from fastavro.schema import fingerprint
from hypothesis import given
from hypothesis import strategies as st

from schemas import catalogue
from schemas.codec import avro as codec
from schemas.codec.avro import Codec, CodecError
from tests.support.paths import ROOT

CODEC = Codec()

MARK = {"author": "a", "venue": "BINANCE", "event_time": 1_750_000_000_250, "receive_time": 1, "cut": {"agg_trades": 7}}


def test_the_frame_is_avro_single_object_encoding():
    value = CODEC.encode("progress", MARK)
    assert value[:2] == b"\xc3\x01"
    assert value[2:10] == codec.topic_fingerprint("progress")
    assert CODEC.decode("progress", value) == MARK


def test_fingerprints_are_crc_64_avro_little_endian():
    # The Avro specification's own example: the fingerprint of "null" is 0x63dd24e7cc258f8a.
    assert bytes.fromhex(fingerprint('"null"', "CRC-64-AVRO")) == struct.pack("<Q", 0x63DD24E7CC258F8A)


class OneSchemaRegistry:
    """What the codec asks of a registry, with one schema in it; the frame is what is tested here."""

    def id_of(self, topic):
        return 258

    def schema_of(self, schema_id):
        if schema_id != 258:
            raise KeyError(f"no schema {schema_id}")
        return codec.parsed("progress")


def test_the_confluent_frame_is_read_and_written_with_a_registry():
    with_registry = Codec(OneSchemaRegistry())  # type: ignore[arg-type]
    value = with_registry.encode("progress", MARK)
    assert value[:5] == b"\x00\x00\x00\x01\x02"
    assert with_registry.decode("progress", value) == MARK
    assert with_registry.decode("progress", CODEC.encode("progress", MARK)) == MARK  # both frames are read
    with pytest.raises(CodecError, match="SCHEMA_REGISTRY_URL"):
        CODEC.decode("progress", value)
    with pytest.raises(CodecError, match="schema id 5"):
        with_registry.decode("progress", b"\x00\x00\x00\x00\x05" + value[5:])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no value"),
        (b"", "no value"),
        (b"hello", "unknown frame"),
        (b"\xc3\x01" + bytes(8) + b"x", "unknown schema fingerprint"),
        (CODEC.header("progress") + b"\x02", "does not fit"),
        (CODEC.encode("progress", MARK) + b"\x00", "1 bytes left"),
    ],
)
def test_what_cannot_be_decoded_says_why(value, reason):
    with pytest.raises(CodecError, match=reason):
        CODEC.decode("progress", value)


@pytest.mark.parametrize(("field", "value"), [("event_time", "x"), ("cut", None), ("author", 5)])
def test_what_cannot_be_encoded_names_the_field(field, value):
    with pytest.raises(CodecError, match=f"progress.{field}"):
        CODEC.encode("progress", {**MARK, field: value})


def test_a_missing_field_is_named():
    with pytest.raises(CodecError, match=r"progress\.venue"):
        CODEC.encode("progress", {name: value for name, value in MARK.items() if name != "venue"})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_come_back_with_their_shortest_text(value):
    trade = dict.fromkeys(("event_time", "receive_time", "agg_id", "first_trade_id", "last_trade_id"), 1)
    record = {**trade, "instrument": "B:X", "price": value, "quantity": 0.1, "buyer_is_maker": True, "backfilled": False}
    back = CODEC.decode("agg_trades", CODEC.encode("agg_trades", record))
    assert repr(back["price"]) == repr(value) and math.copysign(1, back["price"]) == math.copysign(1, value)


def test_a_codec_that_was_used_goes_to_another_process():
    used = Codec()
    value = used.encode("progress", MARK)
    assert pickle.loads(pickle.dumps(used)).encode("progress", MARK) == value


@pytest.mark.parametrize("topic", catalogue.TOPICS)
def test_every_schema_parses_is_documented_and_has_the_times(topic):
    schema = catalogue.schema(topic)
    parse(json.dumps(schema))
    assert schema["doc"] and all(field.get("doc") for field in schema["fields"])
    times = {field["name"]: field["type"] for field in schema["fields"] if field["name"] in ("event_time", "receive_time")}
    assert times == {name: {"type": "long", "logicalType": "timestamp-millis"} for name in ("event_time", "receive_time")}
    assert set(catalogue.TOPICS[topic].record_id) <= set(catalogue.field_names(topic))


def schema_history(topic: str) -> Iterable[str]:
    """Yield the texts of a topic's schema in git history, oldest first."""
    path, git = f"schemas/avro/{topic}.avsc", ["git", "-C", str(ROOT)]
    log = subprocess.run([*git, "log", "--format=%H", "--reverse", "--", path], capture_output=True, text=True, check=True)
    for commit in log.stdout.split():
        shown = subprocess.run([*git, "show", f"{commit}:{path}"], capture_output=True, text=True, check=False)
        if shown.returncode == 0:
            yield shown.stdout


def test_there_is_a_schema_for_every_topic_and_a_topic_for_every_schema():
    assert {path.stem for path in (ROOT / "schemas" / "avro").glob("*.avsc")} == set(catalogue.TOPICS)


@pytest.mark.parametrize("topic", catalogue.TOPICS)
def test_every_schema_change_in_history_is_backward_compatible(topic):
    """BACKWARD_TRANSITIVE: the schema of today reads what every committed schema wrote."""
    newest = parse(json.dumps(codec.plain_timestamps(catalogue.schema(topic))))
    for text in schema_history(topic):
        writer = parse(json.dumps(codec.plain_timestamps(json.loads(text))))
        result = ReaderWriterCompatibilityChecker().get_compatibility(newest, writer)
        assert result.compatibility is SchemaCompatibilityType.compatible, f"{topic}: {result.messages}"


def test_an_incompatible_change_would_be_seen():
    old = parse(json.dumps(codec.plain_timestamps(catalogue.schema("quotes"))))
    changed = json.loads(json.dumps(codec.plain_timestamps(catalogue.schema("quotes"))))
    changed["fields"].append({"name": "new", "type": "double"})  # no default: records of today could not be read
    result = ReaderWriterCompatibilityChecker().get_compatibility(parse(json.dumps(changed)), old)
    assert result.compatibility is not SchemaCompatibilityType.compatible


def test_earlier_schemas_of_the_history_can_still_be_resolved_by_fingerprint():
    """A fingerprint that was ever committed is either today's or is kept under avro/earlier, so that old topics stay readable."""
    for topic in catalogue.TOPICS:
        for text in schema_history(topic):
            found = codec.fingerprint_of(json.loads(text))
            assert found == codec.topic_fingerprint(topic) or found in codec.earlier_schemas(topic), topic


def test_the_catalogue_prints_itself():
    text = catalogue.markdown()
    for topic in catalogue.TOPICS:
        assert f"## {topic}\n" in text
    assert "| agg_id | long |" in text
