"""The recorded venue: recordings of real markets, served on real sockets as the venue would. Start at ``venue.RecordedVenue``."""
