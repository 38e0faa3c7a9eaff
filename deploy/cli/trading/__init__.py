"""Commands for trading: strategies, settings, accounts, orders, positions, risk."""
