"""Strategies as revisions in a topic: writing, reading, history."""
