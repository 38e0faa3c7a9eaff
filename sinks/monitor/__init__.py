"""The data-quality monitor as a process: market-data topics in, ``data_quality`` out. What it judges by is ``stream_apps.core.quality``.

It stands among the sinks: like them it only reads the logs and tells what it found, can be killed and restarted alone, and nothing is decided by it.
"""
