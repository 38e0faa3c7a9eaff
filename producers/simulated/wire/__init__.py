"""Connections of the simulated venues: subscriptions, faults, rate limits."""
