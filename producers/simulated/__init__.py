"""The simulated venue: recordings of real markets and made-up ones, served on real sockets in any venue's protocol.

Start at ``venue.RecordedVenue``; a venue's protocol is one file in ``dialects``.
"""
