"""The archive: topics as Parquet files by topic, day and instrument (``schemas.archive`` has the format)."""
