"""The command line as a whole: help, examples, completion, quickness."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from deploy import cli
from tests.support.paths import ROOT


def leaves(name: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands below a sub-command with their full names."""
    command = cli.load(name)
    children = getattr(command, "commands", None)
    if not children:
        yield name, command
        return
    for child_name, child in children.items():
        yield f"{name} {child_name}", child


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_and_an_example_of_itself(name: str) -> None:
    for full_name, command in leaves(name):
        assert command.help, full_name
        text = f"{command.help} {command.epilog or ''}"
        assert "Example" in text and f"perpflow {full_name}" in text, full_name


def test_the_command_line_stands_on_top() -> None:
    """No module outside deploy/cli imports it, and a folder of it holds a dozen names at most."""
    for room in ("schemas", "stream_apps", "producers", "sinks", "deploy"):
        for path in (ROOT / room).rglob("*.py"):
            if not path.is_relative_to(ROOT / "deploy" / "cli"):
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deploy.cli")), path
                    assert not (isinstance(node, ast.Import) and any(one.name.startswith("deploy.cli") for one in node.names)), path
    modules = [path for path in (ROOT / "deploy" / "cli").glob("*/*.py") if not path.stem.startswith("_")]
    assert len(modules) == len({path.stem for path in modules}) > len(cli.COMMANDS), "load_app finds a module by its name"
    for folder in {path.parent for path in modules}:
        assert len([one for one in modules if one.parent == folder]) <= 12, folder


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'perpflow'; from deploy.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_help_lists_every_command_and_imports_none() -> None:
    program = "import sys, deploy.cli\ntry:\n deploy.cli.app(['--help'])\nexcept SystemExit: pass\nprint(sorted(sys.modules))"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=60, check=True).stdout
    for name, help_text in cli.COMMANDS.items():
        assert name in shown and help_text in shown
    for heavy in ("numpy", "confluent_kafka", "faust", "psycopg", "pydantic", "deploy.cli.setup.stack"):
        assert f"'{heavy}'" not in shown, heavy


def test_help_is_quick() -> None:
    def spent() -> float:  # CPU seconds: how busy the machine is with something else is not measured
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    best = 60.0
    for _ in range(3):
        before = spent()
        assert run("--help").returncode == 0
        best = min(best, spent() - before)
    assert best < 0.8, f"perpflow --help took {best:.2f} CPU seconds (about 0.25)"


def test_unknown_command_is_refused() -> None:
    answer = run("stak")
    assert answer.returncode == 2 and "stak" in answer.stderr


def test_completion_of_commands_options_and_topics() -> None:
    def complete(words: str) -> str:
        count = str(len(words.split()) - (0 if words.endswith(" ") else 1))
        return run(_PERPFLOW_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count).stdout

    assert "stack" in complete("perpflow st")
    assert "reset" in complete("perpflow stack ")
    assert complete("perpflow topics tail agg").split() == ["agg_trades"]


def test_wrong_environment_is_named_without_a_traceback() -> None:
    answer = run("topics", "create", PERPFLOW_PARTITIONS="many")
    assert answer.returncode == 1
    assert answer.stderr.startswith("perpflow: environment: PERPFLOW_PARTITIONS")
    answer = run("worker", PERPFLOW_GRID_MS="7000")
    assert answer.returncode == 1
    assert answer.stderr.startswith("perpflow: worker: grid_ms: must divide 60,000")
