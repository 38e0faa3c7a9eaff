"""The dialects of Binance USD-M and Binance spot."""
