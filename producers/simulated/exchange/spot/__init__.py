"""The simulated exchange as a spot exchange: balances instead of positions, order lists, and Binance's spot protocol."""
