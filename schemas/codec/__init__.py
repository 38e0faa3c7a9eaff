"""Bytes to records and columns, and back: Avro values, record sets, fetched frames, compression."""
