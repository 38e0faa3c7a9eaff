"""Data that comes over REST only: history, past bars, polls."""
