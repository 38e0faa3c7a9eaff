"""Compiled inner loops of the market state, one file a subject."""
