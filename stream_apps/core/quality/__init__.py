"""Data quality: faults of a market-data stream, found from the log alone, and a score out of 10.

``rules`` lists the faults, their limits and their costs. ``kernels`` check the records of a topic;
``quote_kernel`` compares trades with quotes. ``monitor`` follows the progress marks
of a partition. ``capture_check`` checks recorded files line by line. Pure: no clock, no I/O.
"""
