"""The peers, fetched once into the cache folder: an environment of their own for Python's, jars and compiled classes for Kafka Streams.

Nothing of it reaches our own environment. A folder's name holds the hash of what it was made from, and it appears whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from deploy.stack.java import KAFKA_VERSION, cache_root, fetch_jars, find_java

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
JAVA_SOURCES = HERE / "kafka_streams"
ECJ_VERSION = "3.40.0"  # a compiler that needs a Java runtime only
AVRO_VERSION = "1.12.1"

Progress = Callable[[str], None]


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache that is made by ``make`` the first time."""
    target = cache_root() / name
    done = target / ".done"
    if not done.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(target)
                done.touch()
    return target


def _run(command: list[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command[:4]))}: {(done.stderr or done.stdout).strip()[-600:]}")


def python(progress: Progress) -> Path:
    """Return the Python of the peers' environment. Raises RuntimeError when it cannot be made."""

    def make(target: Path) -> None:
        progress("fetching the Python peers (once)")
        _run([sys.executable, "-m", "venv", "--clear", target])
        _run([target / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS])

    tag = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    return _once(f"bench-peers-{tag}", make) / "bin" / "python"


def versions() -> dict[str, str]:
    """Return the pinned versions of the peers."""
    pins = dict(line.split("==", 1) for line in REQUIREMENTS.read_text().splitlines() if "==" in line)
    return {name: pins[name] for name in ("quixstreams", "bytewax")} | {"kafka-streams": KAFKA_VERSION, "avro-java": AVRO_VERSION}


def kafka_streams(progress: Progress) -> list[str]:
    """Return the command that starts a Kafka Streams job (its arguments follow). Raises StackError or RuntimeError when it cannot be had."""
    jars = fetch_jars(
        cache_root() / f"kafka-streams-{KAFKA_VERSION}", (f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}",),
        [f"kafka-streams-{KAFKA_VERSION}.jar"], f"Kafka Streams {KAFKA_VERSION}", progress,
    )  # fmt: skip
    compiler = fetch_jars(
        cache_root() / f"ecj-{ECJ_VERSION}", (f"org.eclipse.jdt:ecj:{ECJ_VERSION}",), [f"ecj-{ECJ_VERSION}.jar"], "a Java compiler", progress
    )  # fmt: skip
    avro = fetch_jars(
        cache_root() / f"avro-{AVRO_VERSION}", (f"org.apache.avro:avro:{AVRO_VERSION}",), [f"avro-{AVRO_VERSION}.jar"], "Avro for Java", progress
    )  # fmt: skip
    path, java, sources = ":".join(map(str, (*jars, *avro))), find_java(), sorted(JAVA_SOURCES.glob("*.java"))

    def make(target: Path) -> None:
        progress("compiling the Kafka Streams jobs (once)")
        with tempfile.TemporaryDirectory() as folder:
            _run([java, "-jar", compiler[0], "-17", "-nowarn", "-cp", path, "-d", folder, *sources])
            target.mkdir(exist_ok=True)
            for compiled in Path(folder).glob("*.class"):
                (target / compiled.name).write_bytes(compiled.read_bytes())

    tag = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    classes = _once(f"bench-kafka-streams-{tag}", make)
    # RocksDB and the compressors are native libraries; the heap is what two cores with a broker beside it can spare.
    return [
        str(java),
        "-Xmx2g",
        "-XX:+UseG1GC",
        "-XX:-UsePerfData",
        "--enable-native-access=ALL-UNNAMED",
        "-cp",
        f"{path}:{classes}",
        "Job",
    ]
