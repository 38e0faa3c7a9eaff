"""Trading on Binance spot."""
