"""Closing a position: stop, targets, timeout, spot pairs, and the end of a trade."""
