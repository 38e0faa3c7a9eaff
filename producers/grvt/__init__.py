"""GRVT: funding, mark price and open interest only."""
