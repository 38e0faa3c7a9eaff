"""The error of the local stack."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import UserError


class StackError(UserError):
    """The local stack failed. The message names the problem and its remedy."""


def log_tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log file, indented, or a note that there is none."""
    if not path.exists():
        return f"  (no log at {path})"
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    return "\n".join(f"  {line}" for line in text) or f"  ({path} is empty)"
