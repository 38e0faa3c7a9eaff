"""Market state: panes, windows, bars, ATR, large prints, books, analytics. Pure."""
