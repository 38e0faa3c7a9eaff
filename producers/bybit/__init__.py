"""Bybit v5: linear perpetuals and spot."""
