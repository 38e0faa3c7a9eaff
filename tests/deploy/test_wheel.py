"""The wheel holds every file that the package reads at run time; `.ci/wheel` builds it and runs it without a checkout."""

from __future__ import annotations

import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import PurePath

import pytest

from deploy.demo.run import RECORDINGS
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SHIPPED = PROJECT["tool"]["setuptools"]["package-data"]["*"]
ROOMS = [name.removesuffix("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
# People read these in the checkout; no code opens them.
CHECKOUT_ONLY = ("README.md", "SIZING.md", "Dockerfile", "pictures/*.png")


def test_every_file_of_a_room_is_shipped_or_read_by_people_only() -> None:
    done = subprocess.run(["git", "ls-files", "--", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a checkout")
    files = [PurePath(line) for line in done.stdout.splitlines()]
    assert len(files) > 300
    missing = [
        str(file)
        for file in files
        if file.suffix != ".py"
        and not any(fnmatch(file.name, pattern) for pattern in SHIPPED)
        and not any(file.match(pattern) for pattern in CHECKOUT_ONLY)
    ]
    assert missing == []


def test_a_folder_with_data_is_a_package_or_lies_in_one() -> None:
    """setuptools finds data of namespace packages too, but not of folders whose names Python cannot import."""
    done = subprocess.run(["git", "ls-files", "--", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a checkout")
    shipped = [PurePath(line) for line in done.stdout.splitlines() if any(fnmatch(PurePath(line).name, one) for one in SHIPPED)]
    assert {str(folder) for file in shipped for folder in file.parents if folder.name and not folder.name.isidentifier()} == set()


def test_the_demo_plays_recordings_of_the_package_with_their_licences_beside_them() -> None:
    package = ROOT / "deploy" / "demo" / "data"
    assert all(recording.path.is_relative_to(package) and recording.path.exists() for recording in RECORDINGS)
    provenance = (package / "PROVENANCE.md").read_text(encoding="utf-8")
    for folder in {path.parent.name for path in package.rglob("*.gz")}:
        assert f"{folder}/" in provenance
