"""Labels: what the mark price did after an evaluation (S1 10.4)."""
