"""Hyperliquid perpetual futures."""
