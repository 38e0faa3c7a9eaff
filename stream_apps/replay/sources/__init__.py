"""Sources of a replay: topics, archive, database, and a synthesised log for files."""
