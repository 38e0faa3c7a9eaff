"""Commands that set up and check a machine: doctor, stack, database, topics, demo, benchmark."""
