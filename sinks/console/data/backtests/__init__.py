"""Backtests: ``perpflow replay`` as jobs that a person starts in the console."""
