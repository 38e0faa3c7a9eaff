"""The signals engine: strategies, scoring models, decisions. Pure."""
