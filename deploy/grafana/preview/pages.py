"""Put the panels of a dashboard on a page, in Grafana's grid of 24 columns, and write the pages of all dashboards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import psycopg
from plotly.offline import get_plotlyjs

from deploy.grafana import BOARDS
from deploy.grafana.build import Json
from deploy.grafana.preview import look
from deploy.grafana.preview.figures import KINDS, figure
from deploy.grafana.preview.source import Answer, Database, Prometheus, Table, answer

# Of Grafana's grid: height of a unit and the gap between panels, pixels.
ROW, GAP = 30, 8
LIBRARY = "plotly.min.js"
# Rows of a table that a page holds; Grafana scrolls through all.
MOST_ROWS = 200

_STYLE = f"""
:root {{ --ink: #1f2937; --muted: #6b7280; --line: #dfe3e8; --bad: #c2412d; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; padding: 14px 18px 40px; background: #f2f4f7; color: var(--ink); font: 13px/1.4 system-ui, "Segoe UI", sans-serif; }}
h1 {{ font-size: 20px; margin: 0; }} header p {{ margin: 2px 0; color: var(--muted); }}
nav {{ margin: 6px 0 10px; }} nav a, nav b {{ margin-right: 12px; }} nav a {{ color: #2563a8; }}
.grid {{ display: grid; grid-template-columns: repeat(24, minmax(0, 1fr)); grid-auto-rows: {ROW}px; gap: {GAP}px; min-width: 1100px; }}
.panel {{ background: #fff; border: 1px solid var(--line); border-radius: 4px; padding: 5px 8px 4px;
  display: flex; flex-direction: column; min-height: 0; min-width: 0; overflow: hidden; }}
.panel h2 {{ font-size: 13px; margin: 0; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; flex: none; }}
.panel h2 i {{ color: var(--muted); font-weight: 400; font-size: 11px; }}
.panel p {{ margin: 0 0 2px; color: var(--muted); font-size: 11px; line-height: 1.25; flex: none;
  display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden; }}
.panel.strip {{ flex-direction: row; align-items: center; gap: 12px; }}
.body {{ flex: 1; min-height: 0; overflow: auto; }} .chart {{ overflow: hidden; }}
.big, .nothing {{ display: flex; align-items: center; justify-content: center; height: 100%; text-align: center; }}
.big {{ font-size: 24px; font-weight: 600; overflow: hidden; }} .big.words {{ font-size: 15px; }}
.nothing {{ color: var(--muted); font-style: italic; padding: 0 12px; }}
.error {{ color: var(--bad); font-family: ui-monospace, monospace; font-size: 11px; white-space: pre-wrap; }}
table {{ border-collapse: collapse; width: 100%; font-size: 12px; }}
th, td {{ text-align: left; padding: 2px 8px; border-bottom: 1px solid var(--line); white-space: nowrap; }}
th, td {{ max-width: 420px; overflow: hidden; text-overflow: ellipsis; }}
th {{ position: sticky; top: 0; background: #f4f6f8; }} .number {{ text-align: right; font-variant-numeric: tabular-nums; }}
"""


@dataclass
class Rendered:
    """What became of a dashboard.

    Attributes:
        path: Its page.
        title: Its title.
        filled: Panels that show something.
        empty: Title -> what the panel says instead.
        errors: Title -> what a source answered.
    """

    path: Path
    title: str
    filled: int = 0
    empty: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def write_pages(folder: Path, database: Database, prometheus: Prometheus | None, given: Mapping[str, Sequence[str]]) -> list[Rendered]:
    """Write a page for each dashboard, and the library that draws their charts.

    Args:
        folder: Where to; made when it is not there.
        database: Source of SQL, with its range.
        prometheus: Source of metrics; without one its panels say so.
        given: Values of variables; others are what Grafana shows at first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LIBRARY).write_text(get_plotlyjs(), encoding="utf-8")
    found = []
    for name, make in BOARDS.items():
        board = make()
        done = Rendered(folder / f"{name}.html", board["title"])
        done.path.write_text(_page(name, board, database, prometheus, given, done), encoding="utf-8")
        found.append(done)
    return found


def _page(
    name: str, board: Json, database: Database, prometheus: Prometheus | None, given: Mapping[str, Sequence[str]], done: Rendered
) -> str:
    chosen = database.choices(board, given)
    answers = [(panel, answer(panel, database, prometheus, chosen)) for panel in board["panels"]]
    marks = [(one["name"], one["iconColor"], _mark_rows(database, one, chosen, done)) for one in board["annotations"]["list"]]
    boxes = [_box(panel, found, marks if panel["type"] == "candlestick" else (), done) for panel, found in answers]
    shown = "; ".join(f"{key}: {', '.join(values) or '-'}" for key, values in chosen.items() if any(values))
    links = "".join(
        f"<b>{escape(make()['title'])}</b>" if other == name else f'<a href="{other}.html">{escape(make()["title"])}</a>'
        for other, make in BOARDS.items()
    )
    spans = f"{look.shown(database.since, '')} to {look.shown(database.until, '')} UTC"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(board["title"])}</title><style>{_STYLE}</style><script src="{LIBRARY}"></script></head>\n<body><header>'
        f"<h1>{escape(board['title'])}</h1><p>{escape(board['description'])} Range: {spans}. {escape(shown)}</p>"
        f'<nav>{links}</nav></header>\n<div class="grid">{"".join(boxes)}</div></body></html>\n'
    )


def _mark_rows(database: Database, mark: Json, chosen: Mapping[str, Sequence[str]], done: Rendered) -> Table:
    try:
        return database.rows(mark["target"]["rawSql"], chosen)
    except psycopg.Error as error:
        done.errors[f"marks {mark['name']}"] = str(error)
        return Table([], [])


def _box(panel: Json, found: Answer, marks: Sequence[tuple[str, str, Table]], done: Rendered) -> str:
    place = panel["gridPos"]
    style = f"grid-column:{place['x'] + 1}/span {place['w']};grid-row:{place['y'] + 1}/span {place['h']}"
    unit = look.unit_words(panel["fieldConfig"]["defaults"]["unit"])
    title = escape(panel["title"]) + (f" <i>{escape(unit)}</i>" if unit else "")
    kind = " strip" if place["h"] <= 2 else ""
    height = place["h"] * (ROW + GAP) - GAP - 60
    body = _body(panel, found, height, marks, done)
    return (
        f'<div class="panel{kind}" style="{style}"><h2>{title}</h2>'
        f'<p title="{escape(panel["description"])}">{escape(panel["description"])}</p>{body}</div>\n'
    )


def _body(panel: Json, found: Answer, height: int, marks: Sequence[tuple[str, str, Table]], done: Rendered) -> str:
    if found.error:
        done.errors[panel["title"]] = found.error
        return f'<div class="body error">{escape(found.error)}</div>'
    if found.empty:
        why = found.note or panel["fieldConfig"]["defaults"]["noValue"]
        done.empty[panel["title"]] = why
        return f'<div class="body"><div class="nothing">{escape(why)}</div></div>'
    done.filled += 1
    if panel["type"] == "stat":
        return f'<div class="body">{_stat(panel, found)}</div>'
    if panel["type"] == "table":
        return f'<div class="body">{_table(panel, found.tables[0])}</div>'
    assert panel["type"] in KINDS
    drawn = figure(panel, found, max(height, 90), marks)
    config = {"displayModeBar": False, "responsive": True}
    return f'<div class="body chart">{drawn.to_html(full_html=False, include_plotlyjs=False, config=config, default_width="100%")}</div>'


def _stat(panel: Json, found: Answer) -> str:
    """The newest value, in the colour of its threshold."""
    values: list[Any] = [value for line in found.lines for value in line.values] + [row[-1] for one in found.tables for row in one.rows]
    value = next(one for one in reversed(values) if one is not None)
    text = look.shown(value, panel["fieldConfig"]["defaults"]["unit"])
    if isinstance(value, str):
        return f'<div class="big words" style="color:{_mapped(panel["fieldConfig"]["defaults"].get("mappings", ()), value)}">{escape(text)}</div>'
    shade = look.threshold_colour(panel, value) if panel["options"]["colorMode"] != "none" else look.COLOURS["text"]
    return f'<div class="big" style="color:{shade}">{escape(text)}</div>'


def _mapped(mappings: Sequence[Json], value: str) -> str:
    for one in mappings:
        if value in one["options"]:
            return look.COLOURS[one["options"][value]["color"]]
    return "inherit"


def _table(panel: Json, table: Table) -> str:
    numeric = [
        any(isinstance(row[at], int | float) and not isinstance(row[at], bool) for row in table.rows) for at in range(len(table.columns))
    ]
    head = "".join(
        f'<th class="{"number" if number else ""}">{escape(name)}</th>' for name, number in zip(table.columns, numeric, strict=True)
    )
    lines = []
    for row in table.rows[:MOST_ROWS]:
        cells = []
        for name, number, value in zip(table.columns, numeric, row, strict=True):
            text = "" if value is None else look.shown(value, look.unit_of(panel, name))
            shade = _mapped(look.override(panel, name, "mappings") or (), text)
            kind = "number" if number else ""
            cells.append(f'<td class="{kind}" style="color:{shade}" title="{escape(text)}">{escape(text)}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
