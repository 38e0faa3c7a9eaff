"""Commands that replay and search: backtests, research, evolution."""
