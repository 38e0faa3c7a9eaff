"""API calls, keys and user streams of all simulated exchanges."""
