"""What every venue adapter shares: the adapter protocol, REST connection, response parsing and user stream."""
