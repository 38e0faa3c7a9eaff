"""Building blocks of a self-contained HTML page: escaping, tables, figures, page frame. Independent of the content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

NONE = "none"

# The page may run its own scripts and styles but load nothing. The browser enforces this.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"

_STYLE = """
:root { color-scheme: light; --ink: #1f2937; --muted: #6b7280; --line: #e3e7ec; --good: #0b7a5f; --bad: #c2412d; }
* { box-sizing: border-box; }
body { margin: 0; font: 14px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); background: #f6f7f9; }
main { max-width: 1320px; margin: 0 auto; padding: 20px 24px 60px; }
h1 { font-size: 24px; margin: 8px 0 4px; } h2 { font-size: 18px; margin: 0 0 10px; } h3 { font-size: 14px; margin: 18px 0 6px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 16px 18px; margin-top: 16px; }
.label { display: inline-block; background: #fff4dc; border: 1px solid #e7c777; color: #6d4a00; border-radius: 6px; padding: 3px 9px; font-weight: 600; }
.source { color: var(--muted); font-size: 12.5px; margin: 4px 0 10px; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 16px; }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; min-width: 150px; flex: 1; }
.tile b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; } .tile > span { color: var(--muted); font-size: 12px; }
.good { color: var(--good); } .bad { color: var(--bad); } .none { color: var(--muted); font-style: italic; } .note { color: var(--muted); font-size: 12.5px; }
.wide { overflow: auto; max-height: 520px; border: 1px solid var(--line); border-radius: 6px; } .whole { max-height: none; }
table { border-collapse: collapse; width: 100%; font-size: 12.5px; }
th, td { text-align: left; padding: 4px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; vertical-align: top; }
td.text { white-space: normal; overflow-wrap: anywhere; min-width: 160px; }
th { position: sticky; top: 0; background: #f1f3f6; font-weight: 600; z-index: 1; } tr:last-child td { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.columns { display: grid; gap: 6px 22px; } .columns > div { min-width: 0; }
code { font: 12px ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
details { margin-top: 10px; } summary { cursor: pointer; font-weight: 600; }
tr.group td { background: #f8f9fb; font-weight: 600; }
nav { margin-top: 10px; font-size: 13px; } nav a { margin-right: 14px; color: #2563a8; }
footer { color: var(--muted); font-size: 12px; margin-top: 18px; }
@media print { .wide { max-height: none; } section { break-inside: avoid; } }
"""


class Html(str):
    """Text that is already HTML and is not escaped again."""


def text(value: Any) -> Html:
    """Return a value as HTML; None as an explicit "none"."""
    if isinstance(value, Html):
        return value
    if value is None or value == "":
        return Html(f'<span class="none">{NONE}</span>')
    return Html(escape(str(value)))


def marked(value: str, good: bool) -> Html:
    """Return a text in green (good) or red (bad)."""
    return Html(f'<span class="{"good" if good else "bad"}">{escape(value)}</span>')


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = NONE, *, whole: bool = False) -> Html:
    """Return a table, or the text ``empty`` if there are no rows.

    Args:
        columns: Headings. ``>heading`` aligns to the right as a number, ``~heading`` lets long text wrap.
        rows: Cells; None shows as "none".
        empty: Text to show without rows.
        whole: Show all rows. Otherwise a long table scrolls.
    """
    kinds = [{">": "number", "~": "text"}.get(name[:1], "") for name in columns]
    body = ["".join(f'<td class="{kind}">{text(cell)}</td>' for kind, cell in zip(kinds, row, strict=True)) for row in rows]
    if not body:
        return none_line(empty)
    head = "".join(f'<th class="{kind}">{escape(name.lstrip(">~"))}</th>' for kind, name in zip(kinds, columns, strict=True))
    lines = "\n".join(f"<tr>{row}</tr>" for row in body)
    return Html(
        f'<div class="wide{" whole" if whole else ""}"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'
    )


def none_line(what: str) -> Html:
    """Return a line for missing content."""
    return Html(f'<p class="none">{escape(what)}</p>')


def note(what: str) -> Html:
    """Return a line of explanation."""
    return Html(f'<p class="note">{escape(what)}</p>')


def block(title: str, *parts: str) -> Html:
    """Return a subsection with its heading."""
    return Html(f"<div><h3>{escape(title)}</h3>{''.join(parts)}</div>")


def folded(title: str, *parts: str, opened: bool = False) -> Html:
    """Return a collapsible block."""
    return Html(f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{''.join(parts)}</details>")


def columns(*parts: str, least: int = 380) -> Html:
    """Return parts side by side if each gets at least ``least`` pixels."""
    return Html(f'<div class="columns" style="grid-template-columns: repeat(auto-fit, minmax({least}px, 1fr))">{"".join(parts)}</div>')


def section(anchor: str, title: str, *parts: str) -> Html:
    """Return a section of the page."""
    return Html(f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>{"".join(parts)}</section>')


def tiles(values: Iterable[tuple[str, Any]]) -> Html:
    """Return tiles: large figures with labels."""
    return Html(
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{text(value)}</b><span>{escape(name)}</span></div>' for name, value in values)
        + "</div>"
    )


def figure(anchor: str, drawn: go.Figure) -> Html:
    """Return a figure. ``page`` adds the library that draws it."""
    config = {"displaylogo": False, "responsive": True, "scrollZoom": False, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}
    return Html(drawn.to_html(full_html=False, include_plotlyjs=False, div_id=anchor, config=config, default_width="100%"))


def page(title: str, *parts: str, with_figures: bool) -> str:
    """Return the whole document. It needs only a browser. ``with_figures`` embeds plotly.js."""
    library = f"<script>{get_plotlyjs()}</script>" if with_figures else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{library}</head>\n<body><main>{''.join(parts)}</main></body></html>\n"
    )
