"""Live analytics beyond the seeds. ``measures`` has one file per measure; its docstring gives formula, source and units.

``store`` keeps their state beside the market state of a partition. ``compose`` runs them, ``int128`` adds exactly, ``intake`` holds what
waits for its pane. A field is null until its measure has enough history, and while an input is missing or stale. It is never zero instead.
"""
