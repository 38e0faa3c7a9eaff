"""Orders: client ids, states, events, and venue reports."""
