"""Recorded markets: file formats, events and what is derived from them."""
