"""Pure cores: no I/O, no clock, no randomness, no global state; they know neither Kafka nor Faust."""
