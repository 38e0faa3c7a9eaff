"""A number that changes when compiled functions change.

It is computed from what numba compiles: code and constants. It reads no file and ignores comments and docstrings.
"""

from __future__ import annotations

from types import CodeType, ModuleType
from typing import Any
from zlib import crc32

_CONSTANTS = (bool, int, float, str, bytes, tuple)


def stamp(*modules: ModuleType) -> int:
    """Return a number computed from the functions and constants of modules, by name. The order of the modules does not matter."""
    found = sorted(
        f"{module.__name__}.{name}={_text(value)}" for module in modules for name, value in vars(module).items() if _counts(name, value)
    )
    return crc32("\n".join(found).encode())


def _counts(name: str, value: Any) -> bool:
    return not name.startswith("__") and (isinstance(value, _CONSTANTS) or hasattr(value, "py_func"))


def _text(value: Any) -> str:
    return _code(value.py_func.__code__) if hasattr(value, "py_func") else repr(value)


def _code(code: CodeType) -> str:
    inner = [_code(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts if not isinstance(one, str)]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {inner}"
