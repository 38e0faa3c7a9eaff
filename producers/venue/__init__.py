"""What the producers of all venues share; a venue's own folder holds an ``Adapter`` and its mapping."""
