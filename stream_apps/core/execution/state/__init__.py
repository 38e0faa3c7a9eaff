"""What is known of an account and its trades: trades, entry runs, quotes, and the records that are written."""
