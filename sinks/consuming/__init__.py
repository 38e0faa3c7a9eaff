"""The shared consumer of sinks: group membership, prefetched record sets, and the loop that passes them to a writer."""
