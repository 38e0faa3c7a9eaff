"""The matching core of the simulated exchange: accounts, orders and margin, against a given market. Pure."""
