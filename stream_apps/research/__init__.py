"""Research on the results of replays: labels, splits without look-ahead, parameter search and its statistics. Pure functions."""
