"""Live analytics beyond the seeds, one file per measure: formula, source and units stand in its docstring.

``store`` keeps their state beside the market state of a partition, ``compose`` runs them, ``wide`` adds exactly, ``intake`` holds what waits for its pane.
A field is null until its measure has enough history, and while an input of it is missing or stale; never zero instead.
"""
