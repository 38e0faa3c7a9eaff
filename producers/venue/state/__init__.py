"""State of each symbol: order book, trade ids, funding schedule."""
