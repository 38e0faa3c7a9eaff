"""What sinks have in common: membership in a group, record sets fetched ahead, and the loop that hands them to a writer."""
