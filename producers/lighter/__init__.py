"""Lighter (perpetuals on zkLighter): funding, mark price and open interest only."""
