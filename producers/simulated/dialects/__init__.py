"""The protocols of the venues: one file a venue, each a ``dialect.Dialect``."""
