"""Backtests and research: replays of files, topics, archive and database, and what is built on them."""
