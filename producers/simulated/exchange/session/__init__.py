"""API calls, keys and user streams: what all simulated exchanges share."""
