"""Imports the venues' public dump files (zip, gzip or plain CSV) with the topics, marks and rules of live producers."""
