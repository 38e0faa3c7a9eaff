"""Bitget USDT-M perpetual futures."""
