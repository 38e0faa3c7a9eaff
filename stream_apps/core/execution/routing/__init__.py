"""How entries are cut into slices, what execution cost, and the routing table that follows from it."""
