"""Errors that the command line shows as a plain message instead of a traceback."""

from __future__ import annotations


class UserError(RuntimeError):
    """An error that a person at the terminal can fix. The message says what is wrong and what to do."""
