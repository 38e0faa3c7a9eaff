"""Queries of the command line and the console, to the database and the topics."""
