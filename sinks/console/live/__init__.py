"""Live data of the console: one Kafka consumer a process, fanned out to browsers as server-sent events."""
