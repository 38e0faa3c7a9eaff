"""Orders: ids, states, events, and what a venue reports of them."""
