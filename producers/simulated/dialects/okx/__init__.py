"""The protocol of OKX perpetual swaps."""
