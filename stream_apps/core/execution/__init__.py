"""Execution of signals on a venue as pure state machines: orders, protection, positions and guard rules. No I/O and no clock; time is an argument."""
