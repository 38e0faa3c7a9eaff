"""Endpoints of the console, one file a subject."""
