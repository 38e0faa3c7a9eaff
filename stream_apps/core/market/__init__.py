"""What the market is: panes, windows, bars, ATR, large prints, books, analytics. Pure."""
