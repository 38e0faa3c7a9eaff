"""Bybit linear contracts: signed REST (v5) and the private stream."""
