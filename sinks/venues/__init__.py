"""Adapters for trading on venues: one interface (``common.adapter``), one folder for each venue."""
