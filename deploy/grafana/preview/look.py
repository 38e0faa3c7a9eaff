"""Format of a panel's numbers and colours: Grafana's units, thresholds and overrides, as far as the dashboards use them. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

COLOURS = {
    "green": "#2f9e57", "red": "#d0403f", "blue": "#3f74c9", "orange": "#e08a1e", "yellow": "#d9b400", "dark-blue": "#1f4d9c", "text": "#5b6573",
}  # fmt: skip
PALETTE = (
    "#3f74c9",
    "#2f9e57",
    "#e08a1e",
    "#8e5bc0",
    "#c2412d",
    "#1b98a6",
    "#b3842b",
    "#d0578f",
    "#6a7f3f",
    "#5c6f87",
    "#a0522d",
    "#7aa6e8",
)
NO_DATA = "nothing"
_WORDS = re.compile(r"(suffix|prefix): ?(.*)")


def override(panel: Mapping[str, Any], name: str, key: str) -> Any:
    """Return a panel's override of a column or line, None without one."""
    found = None
    for one in panel["fieldConfig"]["overrides"]:
        wanted = one["matcher"]["options"]
        fits = re.search(wanted.strip("/"), name) if one["matcher"]["id"] == "byRegexp" else wanted == name
        if fits:
            for pair in one["properties"]:
                if pair["id"] == key:
                    found = pair["value"]
    return found


def custom(panel: Mapping[str, Any], name: str, key: str) -> Any:
    """Return a drawing property of a line: its own, else the panel's."""
    own = override(panel, name, f"custom.{key}")
    return panel["fieldConfig"]["defaults"].get("custom", {}).get(key) if own is None else own


def unit_of(panel: Mapping[str, Any], name: str) -> str:
    """Return the unit of a column or line."""
    return str(override(panel, name, "unit") or panel["fieldConfig"]["defaults"]["unit"])


def line_colour(panel: Mapping[str, Any], name: str, number: int) -> str:
    """Return the colour of a line: its own, else the palette's."""
    fixed = override(panel, name, "color")
    return COLOURS[fixed["fixedColor"]] if fixed else PALETTE[number % len(PALETTE)]


def steps(panel: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Return a panel's thresholds: (from, colour), ascending."""
    found = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    return [(-math.inf if one["value"] is None else float(one["value"]), COLOURS[one["color"]]) for one in found]


def threshold_colour(panel: Mapping[str, Any], value: float) -> str:
    """Return the colour of the threshold that a value has passed."""
    passed = [shade for least, shade in steps(panel) if value >= least]
    return passed[-1] if passed else COLOURS["text"]


def _short(value: float, base: float, names: str) -> str:
    size = 0
    while abs(value) >= base and size < len(names):
        value, size = value / base, size + 1
    return f"{_digits(value)}{' ' + names[size - 1] if size else ''}"


def _digits(value: float) -> str:
    if value == 0 or abs(value) >= 1e15 or abs(value) < 1e-6:
        return "0" if value == 0 else f"{value:.3g}"
    decimals = max(0, 3 - math.floor(math.log10(abs(value)))) if abs(value) < 1000 else 2 if abs(value) < 100_000 else 0
    text = f"{value:,.{min(decimals, 9)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _seconds(value: float) -> str:
    for size, name in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms")):
        if abs(value) >= size:
            return f"{_digits(value / size)} {name}"
    return f"{_digits(value * 1e6)} µs" if value else "0 s"


def shown(value: Any, unit: str) -> str:
    """Return a value as a panel writes it."""
    if value is None:
        return NO_DATA
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}" + (f".{value.microsecond // 1000:03d}" if value.microsecond else "")
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    words = _WORDS.fullmatch(unit)
    if words:
        return f"{_digits(value)} {words[2]}" if words[1] == "suffix" else f"{words[2]} {_digits(value)}"
    form = {
        "percentunit": lambda: f"{_digits(value * 100)} %",
        "s": lambda: _seconds(value),
        "ms": lambda: _seconds(value / 1000),
        "m": lambda: f"{_digits(value)} min",
        "bytes": lambda: _short(value, 1024, "KMGT") + "iB" if abs(value) >= 1024 else f"{_digits(value)} B",
        "binBps": lambda: f"{_short(value, 1024, 'KMGT')}iB/s" if abs(value) >= 1024 else f"{_digits(value)} B/s",
        "cps": lambda: f"{_short(value, 1000, 'KMG')} /s",
        "short": lambda: _short(value, 1000, "KMG"),
    }.get(unit)
    return form() if form else _digits(value)


def brief(value: float | None, unit: str, named: bool) -> str:
    """Return a value as a bar has room for it: three digits, and the unit only if ``named``. A longer text would lose its first digits at the bar's edge."""
    if value is None or not math.isfinite(value):
        return ""
    number, size = value * 100 if unit == "percentunit" else value, 0
    while abs(number) >= 999.5 and size < 4:
        number, size = number / 1000, size + 1
    words = _WORDS.fullmatch(unit)
    of = " %" if unit == "percentunit" else f" {words[2]}" if words and named else ""
    return f"{number:.3g}{('', 'k', 'M', 'G', 'T')[size]}{of}"


def unit_words(unit: str) -> str:
    """Return the text of a unit beside a panel's title; empty for plain numbers."""
    words = _WORDS.fullmatch(unit)
    if words:
        return words[2]
    return {
        "percentunit": "%",
        "s": "time",
        "ms": "time",
        "m": "min",
        "bytes": "bytes",
        "binBps": "bytes per second",
        "cps": "per second",
    }.get(unit, "")


# Steps of units whose numbers are written in the size that suits them: size in the unit's own, and its name.
_SIZES: dict[str, tuple[tuple[float, str], ...]] = {
    "s": ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")),
    "ms": ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")),
    "bytes": ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
    "binBps": ((2**40, "TiB/s"), (2**30, "GiB/s"), (2**20, "MiB/s"), (2**10, "KiB/s"), (1, "B/s")),
}


def axis_size(unit: str, largest: float) -> float:
    """Return by what the numbers of an axis are divided so that the largest is written in a size that suits it: 45,000,000 s as 521 d."""
    sizes = _SIZES.get(unit)
    if sizes is None or not largest:
        return 1.0
    # Twice a size at least: up to 120 s stay seconds, as people say them.
    return float(next((size for size, _ in sizes if largest >= (2 * size if size > 1 else size)), sizes[-1][0]))


def axis_form(unit: str, size: float = 1.0) -> dict[str, Any]:
    """Return how plotly writes the numbers of an axis of this unit, divided by ``size``: thousands as k and M, but a half as 0.5."""
    words = _WORDS.fullmatch(unit)
    if words:
        return {"ticksuffix" if words[1] == "suffix" else "tickprefix": f" {words[2]}"}
    if unit in _SIZES:
        return {"exponentformat": "none", "separatethousands": True, "ticksuffix": f" {dict(_SIZES[unit])[size]}"}
    forms: dict[str, dict[str, Any]] = {
        "percentunit": {"tickformat": ".3~p"},
        "m": {"ticksuffix": " min"},
        "cps": {"exponentformat": "SI", "minexponent": 3, "ticksuffix": "/s"},
        "short": {"exponentformat": "SI", "minexponent": 3},
    }
    return forms.get(unit, {})
