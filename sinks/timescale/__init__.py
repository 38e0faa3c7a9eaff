"""The TimescaleDB sink: it writes every record of a topic once to the table of the same name (DESIGN 4)."""
