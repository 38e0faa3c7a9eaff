"""The policy of live execution: every setting with its default, and the routing table."""
