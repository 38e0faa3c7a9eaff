"""Writes records to Kafka in order, with their progress marks. All producers share it."""
