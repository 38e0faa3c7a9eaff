"""What the command line shows as a plain message instead of a traceback."""

from __future__ import annotations


class UserError(RuntimeError):
    """Something the person at the terminal can act on: what is wrong, and what to do about it."""
