"""The matching core of the simulated exchange: accounts, orders, margin, against a market that is given. Pure."""
