"""The base class of all dialects."""
