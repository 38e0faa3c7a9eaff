"""Compiled inner loops of the market state, a file for each thing they are about."""
