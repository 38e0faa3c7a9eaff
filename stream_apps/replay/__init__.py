"""Replay: the backtest over topics, archive, database or files.

It runs the cores of worker and paper executor in process, without Faust.
"""
