"""One account: its execution book, reconciliation, funding payments and risk rules."""
