"""The TimescaleDB sink: every topic of the catalogue becomes rows of the table of the same name, exactly once (DESIGN 4)."""
