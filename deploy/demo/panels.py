"""Does every panel of the dashboards that asks the database show something of what the demo left there (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.demo.outcome import Check
from deploy.grafana import BOARDS
from deploy.grafana.preview.pages import Rendered

# Panels that the demo's data cannot fill, with the reason; each says so itself, too.
MAY_BE_EMPTY = {
    "Sharpe": "a ratio of daily returns says nothing before the third day, and the longest recording has two",
    # On a machine so busy that signals are decided late, the live executor refuses all of them as too old, which is right.
    "Costs of live trades": "no live trade ended: the made-up market lasts less than a minute, and late signals are not traded",
    "Friction of live trades": "no live trade ended: the made-up market lasts less than a minute, and late signals are not traded",
}


def panel_checks(pages: Sequence[Rendered]) -> list[Check]:
    """Return a check a dashboard: of its panels of SQL, how many show something for at least one of the markets.

    Args:
        pages: The dashboards, drawn for each market.
    """
    checks = []
    for make in BOARDS.values():
        board = make()
        asked = [panel["title"] for panel in board["panels"] if any("rawSql" in target for target in panel.get("targets", ()))]
        wanted = [title for title in asked if title not in MAY_BE_EMPTY]
        mine = [page for page in pages if page.title == board["title"]]
        blank = [title for title in wanted if all(title in page.empty or title in page.errors for page in mine)]
        found = f"{len(wanted) - len(blank)} of {len(wanted)}" + (f"; nothing in {', '.join(blank)}" if blank else "")
        checks.append(
            Check(
                f"panels with rows: {board['title']}",
                f"{len(wanted)} of {len(wanted)}",
                found,
                not blank,
                "",
                "the dashboards' own queries",
            )
        )
    return checks
