"""The contract: topics, Avro schemas, codec, partition rule, settings and metric names. Imports no other room."""
