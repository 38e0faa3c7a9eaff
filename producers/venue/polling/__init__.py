"""Data that venues serve only over REST: history, past bars, polls."""
