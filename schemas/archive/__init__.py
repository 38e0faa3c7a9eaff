"""The archive's format: topics as Parquet files by topic, day and instrument, with a manifest of the valid files.

    DIR/agg_trades/2024-08-08/BINANCE%3ABTCUSDT-PERP/p03-00000000000000001000-1a2b3c4d.parquet
    DIR/_manifest/agg_trades/03/0000000007.json

A file counts when the newest manifest of its topic and partition lists it. ``sinks/archive`` writes it, ``stream_apps/replay`` reads it.

Columns of a file: those of the topic's Avro schema, then
    ``_offset``     Kafka offset, growing.
    ``_timestamp``  Record timestamp, ms; null where it is ``event_time``.
    ``_key``        Record key; null where it is the folder's name, the instrument.
    ``_state`` 0: the columns are the record, their Avro encoding is the record's bytes; 1: the columns are the record, its bytes are in
                    ``_raw``; 2: undecodable, the bytes stand in ``_raw``; 3: a record without a value.
    ``_raw``        The record's bytes where they do not follow from the columns.
"""
