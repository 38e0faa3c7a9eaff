"""Replay: the topics are the backtest. The same cores as the worker and the paper executor, in process, without Faust."""
