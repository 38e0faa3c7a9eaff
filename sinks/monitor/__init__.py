"""The data-quality monitor as a process: market-data topics in, ``data_quality`` out. ``stream_apps.core.quality`` has its rules.

It is a sink: it only reads the logs and reports findings, it can be restarted alone, and no decision depends on it.
"""
