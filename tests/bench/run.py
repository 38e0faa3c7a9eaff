"""All benchmarks in one run on one machine: ``perpflow bench`` starts this.

It starts a broker and a database in a folder of its own (or uses those of KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL when both are set), runs each
benchmark as a process of its own, prints the table, and writes JSON and a plot. A benchmark that fails or takes too long is a row with the reason.
The exit code is 1 when one of ours could not be measured; a peer that could not is a row, no failure.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from deploy.stack import Stack  # noqa: E402
from schemas.settings import Settings  # noqa: E402
from tests.bench.machine import Cores, hardware, versions  # noqa: E402
from tests.bench.peers import install  # noqa: E402
from tests.bench.rows import BENCHES, Figure, Row  # noqa: E402
from tests.bench.running import Run  # noqa: E402
from tests.bench.shown import table  # noqa: E402

# A benchmark may take so many times its --quick estimate, on a busy machine, before it is taken to hang.
QUICK_PATIENCE, FULL_PATIENCE = 10, 40


def one(name: str, quick: bool, folder: Path, out: Path) -> None:
    """Run one benchmark in this process and append its rows to a file, a line of JSON each."""
    run = Run(quick, folder, Cores(), Settings())
    with out.open("a", encoding="utf-8") as file:
        for row in importlib.import_module(f"tests.bench.{BENCHES[name].module}").rows(run):
            file.write(json.dumps(row.as_json()) + "\n")
            file.flush()


def measured(name: str, quick: bool, folder: Path, variables: dict[str, str]) -> list[Row]:
    """Run one benchmark as a process; what it could not measure is a row, too."""
    bench, scratch = BENCHES[name], folder / name
    scratch.mkdir()
    out = folder / f"{name}.jsonl"
    command = [sys.executable, __file__, "--row", name, "--folder", str(scratch), "--out", str(out), *(["--quick"] if quick else [])]
    limit = bench.quick_s * (QUICK_PATIENCE if quick else FULL_PATIENCE)
    reason = None
    with (folder / f"{name}.err").open("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(command, env=variables, stderr=errors, start_new_session=True)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            reason = f"it took longer than {limit} s"
        finally:
            end(process)
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    if process.returncode and reason is None:
        reason = lines[-1] if lines else f"it ended with {process.returncode}"
        sys.stderr.write("\n".join(lines[-40:]) + "\n")
    rows = [Row.from_json(json.loads(line)) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
    shutil.rmtree(scratch, ignore_errors=True)
    return [*rows, Row(name, "", Figure.none(reason))] if reason is not None else rows


def end(process: subprocess.Popen[bytes]) -> None:
    """End a benchmark with all that it started: they are of its session."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def services(folder: Path, cores: Cores) -> Iterator[dict[str, str]]:
    """Yield the environment that names broker and database; start both when it does not name them already."""
    if os.environ.get("KAFKA_BOOTSTRAP_SERVERS") and os.environ.get("DATABASE_URL"):
        yield dict(os.environ)
        return
    stack = Stack(folder / "stack")
    try:
        stack.up(progress=lambda message: print(message, flush=True))
        for part in stack.status():
            if part.pid:
                cores.pin(part.pid, cores.others)
        yield {**os.environ, **stack.env()}
    finally:
        stack.reset()


def draw(rows: Path) -> None:
    """Draw the rows of a JSON file beside it. What stands in the way is said; the figures are written by then."""
    target = rows.with_suffix(".png")
    try:
        command = [str(install.python(print)), str(Path(__file__).with_name("plot.py")), str(rows), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        print(f"plot: {target}" if done.returncode == 0 else f"no plot: {done.stderr.strip()[-300:]}")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"no plot: {error}")


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="perpflow bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="short forms: five minutes together; of those that --only names, or of all but costs, scaling and sizes",
    )
    parser.add_argument("--only", default="", metavar="NAME,...", help=f"of: {', '.join(BENCHES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, and a plot beside it")
    parser.add_argument("--install", action="store_true", help="fetch the peers, which the first run does else, and end")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is removed then, too
    # The workloads are shorter than the day of trades that an instrument needs to be warm, and a score that is not warm costs less.
    os.environ.setdefault("PERPFLOW_ENGINE_SETTINGS", "quantile_history_ms=0")
    if options.row:
        one(options.row, options.quick, options.folder, options.out)
        return 0
    if options.install:
        install.python(print)
        install.kafka_streams(print)
        return 0
    names = [name.strip() for name in options.only.split(",") if name.strip()] or [
        name for name, bench in BENCHES.items() if bench.in_quick or not options.quick
    ]
    if unknown := [name for name in names if name not in BENCHES]:
        parser.error(f"--only: {', '.join(unknown)}: not one of {', '.join(BENCHES)}")
    began, line = time.monotonic(), hardware()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="perpflow-bench-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        with services(folder, Cores()) as variables:
            for name in names:
                print(f"--- {name}: {BENCHES[name].about}", flush=True)
                start = time.monotonic()
                found = measured(name, options.quick, folder, variables)
                rows += found
                for row in found:  # a run that is stopped has said so much
                    print(f"    {row.name}: {row.ours.reason if row.ours.value is None else f'{row.ours.value:,.6g} {row.unit}'}")
                print(f"    {time.monotonic() - start:.0f} s", flush=True)
    table(rows, line, versions(), time.monotonic() - began)
    if options.json:
        common = {"hardware": line, "quick": options.quick}
        records = [{**row.as_json(), **common, "versions": {**versions(), **row.versions}} for row in rows]
        options.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        draw(options.json)
    return 1 if any(row.ours.value is None for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
