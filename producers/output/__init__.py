"""From records to Kafka: order, pace, progress marks; the same for all producers."""
