"""Run a program as an unprivileged user that keeps one privilege: to read and enter folders.

PostgreSQL refuses to run as root, and a container often has only root. Changing the user is not enough if Python is in a home folder that
only root may enter. The folder's permissions must not change. So the process keeps CAP_DAC_READ_SEARCH (Linux) as an ambient capability.

Run as a script: ``python drop_privileges.py USER -- COMMAND ...`` executes the command.
"""

from __future__ import annotations

import ctypes
import os
import platform
import pwd
import sys
from pathlib import Path

_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION_3 = 0x20080522
# The user of PostgreSQL's system packages, otherwise the unprivileged user that every system has.
_USERS = ("postgres", "nobody")


def user() -> str:
    """Return the user for programs that refuse to run as root. Raises LookupError if there is none."""
    for name in _USERS:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise LookupError(f"none of the users {', '.join(_USERS)} exists; run as a normal user instead of root")


def give(path: Path) -> None:
    """Make the unprivileged user the owner of a path."""
    entry = pwd.getpwnam(user())
    os.chown(path, entry.pw_uid, entry.pw_gid)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def enterable(path: Path) -> bool:
    """Return whether all users may enter the folders that lead to ``path``."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def become(name: str, keep: bool) -> bool:
    """Become a user. ``keep``: keep the right to read and enter folders. Return whether it was kept."""
    entry = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    if not keep or platform.system() != "Linux":
        os.setuid(entry.pw_uid)
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setuid(entry.pw_uid)
    bit = 1 << _CAP_DAC_READ_SEARCH
    header = _Header(_CAPABILITY_VERSION_3, 0)
    sets = (_Sets * 2)(_Sets(bit, bit, bit), _Sets(0, 0, 0))
    if libc.capset(ctypes.byref(header), ctypes.byref(sets)) != 0:
        return False
    return bool(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH, 0, 0) == 0)


def main(arguments: list[str]) -> None:
    """Become the user of the first argument and execute the command after ``--``."""
    name, separator, *command = arguments
    if separator != "--" or not command:
        raise SystemExit("usage: drop_privileges.py USER -- COMMAND ...")
    kept = become(name, keep=not (enterable(Path(command[0])) and enterable(Path.cwd() / "inside")))
    try:
        os.execv(command[0], command)
    except PermissionError as error:
        reason = "" if kept else " (the kernel denied the right to enter other users' folders)"
        raise SystemExit(
            f"user {name} may not run {command[0]}{reason}: {error.strerror}. PostgreSQL does not run as root: "
            "run perpflow as a normal user, or install it in a folder that all users may enter."
        ) from error


if __name__ == "__main__":
    main(sys.argv[1:])
