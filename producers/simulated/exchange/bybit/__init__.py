"""Bybit v5 trading in linear perpetuals: signed REST and the private stream, on the same core."""
