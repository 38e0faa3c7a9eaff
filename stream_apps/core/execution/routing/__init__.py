"""Execution cost, and the routing table that is estimated from it."""
