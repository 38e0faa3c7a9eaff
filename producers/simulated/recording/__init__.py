"""Recorded markets: file formats, events and derived data."""
