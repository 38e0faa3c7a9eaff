"""The stamp of the compiled loops: another function or constant gives another one, another comment does not."""

from __future__ import annotations

from types import ModuleType

from stream_apps.core.kernel_fingerprint import stamp

SOURCE = '''
from numba import njit
LIMIT = 3
NAMES = ("a", "b")
plain = {"not": "counted"}

@njit
def measure(x):
    """What it says."""
    return x * LIMIT + 0.5
'''


def module(source: str) -> ModuleType:
    made = ModuleType("measures")
    exec(compile(source, "measures.py", "exec"), vars(made))
    return made


def test_code_and_constants_count_and_words_do_not() -> None:
    first = stamp(module(SOURCE))
    assert first == stamp(module(SOURCE.replace("What it says.", "Other words.").replace("\nLIMIT", "\n# a comment\nLIMIT")))
    changes = (("x * LIMIT", "x + LIMIT"), ("LIMIT = 3", "LIMIT = 4"), ("0.5", "0.25"), ('"b"', '"c"'), ("def measure", "def measured"))
    assert len({first, *(stamp(module(SOURCE.replace(*change))) for change in changes)}) == len(changes) + 1
    assert stamp(module(SOURCE), module("A = 1")) == stamp(module("A = 1"), module(SOURCE)) != first
