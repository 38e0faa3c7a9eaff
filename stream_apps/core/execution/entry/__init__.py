"""Opening a position: admission, size, and the entry machine."""
