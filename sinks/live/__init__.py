"""Live execution: the pure execution book, connected to a trading venue, with a journal in the database. One process owns an account."""
