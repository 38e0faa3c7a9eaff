"""What each venue's protocol is: one file a venue, all of the shape of ``dialect.Dialect``."""
