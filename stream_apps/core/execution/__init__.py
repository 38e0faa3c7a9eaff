"""Execution of signals on a venue, as pure state machines: orders, protection, positions, guard rules. No I/O, no clock (time is an argument)."""
