"""Binance USD-M futures: signed REST and the user data stream."""
