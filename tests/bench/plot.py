"""The plot of a run: a bar a contestant, a panel a row. Run by the peers' Python, which has matplotlib: ``python plot.py ROWS.json PLOT.png``."""

from __future__ import annotations

import json
import sys
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

OURS, OTHERS = "#1f6f8b", "#c9c9c9"


def main(source: str, target: str) -> None:
    """Draw the rows that have a value."""
    with open(source, encoding="utf-8") as file:  # noqa: PTH123
        records: list[dict[str, Any]] = [record for record in json.load(file) if record["ours"] is not None]
    if not records:
        sys.exit("no row has a value: there is nothing to draw")
    heights = [1 + sum(value is not None for value in record["peers"].values()) for record in records]
    figure, panels = pyplot.subplots(
        len(records), figsize=(10, 0.32 * sum(heights) + 0.75 * len(records)), gridspec_kw={"height_ratios": heights}, squeeze=False
    )
    for (panel,), record in zip(panels, records, strict=True):
        values = {"ours": record["ours"], **{name: value for name, value in record["peers"].items() if value is not None}}
        colours = [OURS if name == "ours" else OTHERS for name in values]
        bars = panel.barh(list(values), list(values.values()), color=colours)
        ratios = [record["ratio"].get(name) for name in values]
        labels = [
            f" {value:,.0f}" if value >= 1000 else f" {value:,.3g}" + (f"  (ours {ratio:,.3g}x)" if ratio else "")
            for value, ratio in zip(values.values(), ratios, strict=True)
        ]
        panel.bar_label(bars, labels, fontsize=7)
        panel.set_title(f"{record['name']} ({record['unit']})", fontsize=8, loc="left")
        panel.set_xlim(0, 1.35 * max(values.values()))
        panel.invert_yaxis()
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"perpflow bench: {records[0]['hardware']}", fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
