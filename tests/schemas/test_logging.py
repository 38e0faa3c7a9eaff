"""What services write about an unexpected error, on a terminal and in a log."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from schemas.process.service import configure_logging

SECRET = "hunter2-of-the-venue"


class _Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def kept() -> Iterator[None]:
    """Logging as it was before, at the end."""
    config, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**config)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_a_traceback_has_no_local_variables(monkeypatch: pytest.MonkeyPatch, terminal: bool, own: bool) -> None:
    """A local variable may hold a password; the traceback names lines and the error."""
    stream = _Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging()

    def fails() -> None:
        password = "".join(reversed(SECRET[::-1]))  # the line of the source does not have it
        raise RuntimeError(f"refused after {len(password)} characters")

    try:
        fails()
    except RuntimeError as error:
        if own:
            structlog.get_logger().error("it failed", exc_info=error)
        else:
            logging.getLogger("library").error("it failed", exc_info=error)
    text = stream.getvalue()
    assert "it failed" in text and "RuntimeError" in text and f"refused after {len(SECRET)} characters" in text
    assert SECRET not in text
