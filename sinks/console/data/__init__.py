"""Reads of the console from the database."""
