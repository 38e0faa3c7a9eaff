"""A simulated derivatives exchange: a pure matching core (``engine``) and the venue's own protocol around it (``binance``, ``server``)."""
