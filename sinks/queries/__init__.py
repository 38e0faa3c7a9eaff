"""What the command line reads from the database and the topics to show it."""
