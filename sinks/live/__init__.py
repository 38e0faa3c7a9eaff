"""Live execution: the pure book around a trading venue, with its journal in the database. One process owns an account."""
