"""Importers of the venues' public dump files: the same topics, marks and rules as live producers, from zip, gzip or plain CSV."""
