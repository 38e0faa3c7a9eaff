"""The loop over the progress log of a partition, which every engine shares. Pure."""
