"""Trading on venues: one adapter shape, a folder per venue."""
