"""Libraries whose internals we use, and the versions with which that was checked."""

from __future__ import annotations

from importlib import metadata

PINNED = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0"}


def check_pins(*names: str) -> None:
    """Raise RuntimeError if an installed version is not the pinned one.

    Args:
        names: Names from ``PINNED``. None given: all.
    """
    for name in names or PINNED:
        found, wanted = metadata.version(name), PINNED[name]
        if found != wanted:
            raise RuntimeError(f"{name} {found} is installed, but perpflow uses internals of {wanted}: install {name}=={wanted}")
