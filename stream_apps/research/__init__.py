"""Research on what replays left: labels, splits that keep the future out, and what a search through many trials is worth. Pure functions."""
