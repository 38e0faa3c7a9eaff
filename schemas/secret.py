"""Secrets: read from the environment or from files, and removed from every text that leaves the process (D28)."""

from __future__ import annotations

import os
from pathlib import Path

# A shorter text would redact ordinary words.
SHORTEST = 6


class SecretError(ValueError):
    """A secret is missing. The message names the variable or file, never a value."""


class Secrets:
    """The secrets read so far, to be replaced in texts."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def read(self, where: str, env: str | None, file: Path | None) -> str | None:
        """Return the secret that a variable or a file holds, without surrounding blanks. None if neither is named.

        Args:
            where: Key of the configuration, for messages.
            env: Name of an environment variable.
            file: A file that holds only the secret.

        Raises:
            SecretError: it is unset, empty or unreadable.
        """
        if env is not None:
            value = os.environ.get(env, "").strip()
            if not value:
                raise SecretError(f"{where}_env: environment variable {env} is not set or empty")
        elif file is not None:
            try:
                value = file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SecretError(f"{where}_file: {file}: {type(error).__name__}") from None
            if not value:
                raise SecretError(f"{where}_file: {file} is empty")
        else:
            return None
        self.add(value)
        return value

    def add(self, value: str) -> None:
        """Register a secret, or the part of one that gives access."""
        if len(value) >= SHORTEST:
            self._values.add(value)

    def redact(self, text: str) -> str:
        """Return a text with every secret replaced."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, "[secret]")
        return text
