"""Money that add-balance added: signals carry it, and no hash changes by it."""

from __future__ import annotations

import pytest

from stream_apps.core.paper.position import quantity_of
from tests.stream_apps.signals.test_scoring import PERFECT_LONG, config, run, snapshot


def test_added_money_raises_one_r_of_the_signal_and_changes_no_hash() -> None:
    """D19: 1R = balance x risk per trade. The quantity of paper and live comes from the signal's balance."""
    before, after = (
        run(snapshot(**PERFECT_LONG), config(revision=3)),
        run(snapshot(**PERFECT_LONG), config(revision=4, added_balance=500.5)),
    )
    assert before.signal is not None and after.signal is not None
    changed = {name for name in after.signal if after.signal[name] != before.signal[name]}
    assert changed == {"initial_balance", "config_revision"}
    assert after.signal["initial_balance"] == 10_500.5 and after.signal["config_hash"] == before.signal["config_hash"]
    assert float(quantity_of(after.signal, None) / quantity_of(before.signal, None)) == pytest.approx(1.05005, rel=1e-9)
