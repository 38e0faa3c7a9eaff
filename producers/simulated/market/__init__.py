"""The markets of a simulated venue: played recordings, and made-up ones."""
