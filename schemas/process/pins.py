"""Libraries whose insides are relied upon, and the versions for which that was checked."""

from __future__ import annotations

from importlib import metadata

PINNED = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0"}


def check_pins(*names: str) -> None:
    """Raise RuntimeError when an installed version is not the one whose insides are relied upon.

    Args:
        names: Which of ``PINNED``; none: all.
    """
    for name in names or PINNED:
        found, wanted = metadata.version(name), PINNED[name]
        if found != wanted:
            raise RuntimeError(f"{name} {found} is installed, but perpflow relies on the insides of {wanted}: install {name}=={wanted}")
