"""The interface that each venue implements, and the helpers for its implementations."""
