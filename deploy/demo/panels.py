"""Check that every SQL panel of the dashboards shows data of the demo (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.demo.outcome import Check
from deploy.grafana import BOARDS
from deploy.grafana.preview.pages import Rendered

# Panels that the demo's data cannot fill, with the reason. Each panel shows the reason too.
MAY_BE_EMPTY = {
    "Sharpe": "a ratio of daily returns needs three days, and the longest recording has two",
    "Labels by score": "a label needs an hour of mark prices: the recorded trades have none, and the generated market lasts less",
    # On a busy machine signals are late. Then the live executor correctly rejects all of them as too old.
    "Costs of live trades": "no live trade closed: the generated market lasts less than a minute, and late signals are not traded",
    "Friction of live trades": "no live trade closed: the generated market lasts less than a minute, and late signals are not traded",
}


def panel_checks(pages: Sequence[Rendered]) -> list[Check]:
    """Return one check per dashboard: the number of SQL panels that show data for at least one market.

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
        found = f"{len(wanted) - len(blank)} of {len(wanted)}" + (f"; no data in {', '.join(blank)}" if blank else "")
        checks.append(
            Check(
                f"panels with rows: {board['title']}",
                f"{len(wanted)} of {len(wanted)}",
                found,
                not blank,
                "",
                "the queries of the dashboards",
            )
        )
    return checks
