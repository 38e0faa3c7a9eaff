"""Commands of a desk: strategies, accounts, orders, positions, risk."""
