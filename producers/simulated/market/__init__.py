"""The markets that a simulated venue shows: recordings played back, and made-up ones."""
