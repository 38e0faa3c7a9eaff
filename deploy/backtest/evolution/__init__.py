"""Auto-evolve: its daily run, the stored trades that it judges by, and its schedule."""
