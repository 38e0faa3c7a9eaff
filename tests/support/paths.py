"""Where the tests find the repository, its tests and the recordings."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
DATA = TESTS / "data"
# What the demo plays is part of the package, and the tests read it there.
RECORDINGS = ROOT / "deploy" / "demo" / "data"
