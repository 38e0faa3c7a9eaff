"""The archive: topics as Parquet files by topic, day and instrument. ``schemas.archive`` defines the format."""
