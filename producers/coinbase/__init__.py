"""Coinbase Exchange spot, and its premium over another venue."""
