"""The house stays orderly: no circle of imports, cores in their order, no long file, no crowded folder (DESIGN 5a)."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support import scheduling
from tests.support.paths import ROOT

ROOMS = ("schemas", "stream_apps", "producers", "sinks", "deploy")
LONGEST = 500
MOST_NAMES = 12
# A name that is not an idea of its own folder: what Python and a reader expect in any folder.
NOT_COUNTED = {"__init__.py", "__main__.py", "README.md", "py.typed", "__pycache__"}

# Folder -> why more than a dozen names are one idea there.
CROWDED = {
    "schemas/avro": "one schema a topic",
    "schemas/avro/earlier": "one schema a topic and earlier revision, so that old topics stay readable",
    "deploy/database/migrations": "one migration a step of the schema, never renamed",
    "sinks/notifier/delivery/templates": "one template a message and channel",
    "producers": "one folder a venue",
}
# Files that were longer when this test came, and how long: they may not grow. A line goes with the change that splits its file.
LONG = {
    "tests/deploy/demo/test_demo_report.py": 563,
    "tests/sinks/notifier/test_notifier_rules.py": 505,
    "tests/sinks/notifier/test_notifier_sending.py": 518,
    "tests/producers/binance/test_binance_producer.py": 626,
    "tests/stream_apps/paper/test_paper.py": 548,
    "tests/stream_apps/signals/test_scoring.py": 644,
}
# Room of stream_apps/core -> rooms of it that stand before it.
CORE: dict[str, set[str]] = {
    "log": set(),
    "market": {"log"},
    "labels": {"log"},
    "signals": {"log", "market", "labels"},
    "paper": {"log", "market", "signals"},
    "execution": {"log", "market", "signals", "paper"},
    "performance": set(),
    "quality": {"log", "market"},
}


def module_level(nodes: Iterable[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run, or that a type checker follows, when the module is imported: those in ``if TYPE_CHECKING`` count too."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from module_level(ast.iter_child_nodes(node))


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Name -> file of every module of the product."""
    files = [path for room in ROOMS for path in (root / room).rglob("*.py")]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def targets(node: ast.Import | ast.ImportFrom, module: str, is_package: bool, known: dict[str, Path]) -> set[str]:
    """The modules of ours that an import names; a package counts only where something of its own file is taken."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & known.keys()
    base = node.module or ""
    if node.level:
        parts = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
        base = ".".join([*parts, *([node.module] if node.module else [])])
    return {name if (name := f"{base}.{alias.name}") in known else base for alias in node.names} & known.keys()


def graph(known: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> the modules that it imports at module level."""
    return {
        module: {
            target
            for node in module_level(ast.parse(path.read_text(encoding="utf-8")).body)
            for target in targets(node, module, path.name == "__init__.py", known)
        }
        - {module}
        for module, path in known.items()
    }


def test_no_circle_of_imports() -> None:
    try:
        graphlib.TopologicalSorter(graph(modules())).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("second", ["from schemas.a import A", "import schemas.a", "from . import a", "from .a import A"])
@pytest.mark.parametrize("guarded", [False, True])
def test_a_circle_is_seen_in_whatever_form(tmp_path: Path, second: str, guarded: bool) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    (folder / "a.py").write_text("from schemas.b import B\n")
    (folder / "b.py").write_text(f"if TYPE_CHECKING:\n    {second}\n" if guarded else f"{second}\n")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph(modules(tmp_path))).prepare()


def test_each_core_imports_only_cores_that_stand_before_it() -> None:
    known = modules()
    assert {path.name for path in (ROOT / "stream_apps/core").iterdir() if path.is_dir() and path.name != "__pycache__"} == CORE.keys()
    graphlib.TopologicalSorter(CORE).prepare()
    for module, path in known.items():
        parts = module.split(".")
        if parts[:2] != ["stream_apps", "core"] or len(parts) < 3 or parts[2] not in CORE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for target in targets(node, module, path.name == "__init__.py", known):
                    room = target.split(".")[2] if target.startswith("stream_apps.core.") else parts[2]
                    assert room not in CORE or room == parts[2] or room in CORE[parts[2]], f"{module} imports {target}"


def test_no_file_is_longer_than_a_reader_holds() -> None:
    files = [path for room in (*ROOMS, "tests") for kind in ("py", "java", "mjs") for path in (ROOT / room).rglob(f"*.{kind}")]
    long = {str(path.relative_to(ROOT)): lines for path in files if (lines := path.read_text(encoding="utf-8").count("\n")) > LONGEST}
    assert not {name: lines for name, lines in long.items() if lines > LONG.get(name, LONGEST)}


def test_no_folder_has_more_than_a_dozen_names() -> None:
    crowded = {}
    for room in ROOMS:
        for folder in [ROOT / room, *(path for path in (ROOT / room).rglob("*") if path.is_dir() and path.name != "__pycache__")]:
            names = [path.name for path in folder.iterdir() if path.name not in NOT_COUNTED]
            if len(names) > MOST_NAMES:
                crowded[str(folder.relative_to(ROOT))] = len(names)
    assert not crowded.keys() - CROWDED.keys(), {name: crowded[name] for name in crowded.keys() - CROWDED.keys()}


def test_no_folder_of_tests_has_more_than_a_dozen_test_files() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    crowded = {str(folder.relative_to(ROOT)): n for folder in folders if (n := len(list(folder.glob("test_*.py")))) > MOST_NAMES}
    assert not crowded, crowded


def test_the_files_that_run_first_exist() -> None:
    named = {*scheduling.LONGEST, *scheduling.TOGETHER, *scheduling.TOGETHER.values()}
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
    assert set(scheduling.TOGETHER.values()) <= set(scheduling.LONGEST), "a group runs where its first file stands"
