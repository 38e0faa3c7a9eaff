"""A simulated exchange: a pure matching core (``engine``) and the venue's protocol around it (``binance``, ``server``)."""
