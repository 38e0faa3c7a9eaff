"""The collector looks seldom for as long as it was asked to, and no longer."""

from __future__ import annotations

import gc

import pytest

from schemas.process.memory import rare_garbage_collection


def test_the_collector_looks_as_before_afterwards_also_after_an_error() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyError), rare_garbage_collection():
        assert gc.get_threshold()[0] > 10 * before[0] and gc.isenabled()
        raise KeyError
    assert gc.get_threshold() == before
