"""Data quality: what is wrong with a market-data stream, found from the log alone, and a score out of 10.

``rules`` says what is a fault, from which limit on and what it costs; ``kernels`` walk the records of a topic; ``monitor`` steps by the progress
marks of a partition; ``capture`` checks recorded files line by line. Pure: no clock, no I/O.
"""
