"""Binance USD-M trading: signed REST and the user data stream, as documented in 2026."""
