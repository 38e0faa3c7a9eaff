"""The part that the producers of all venues share. A venue's own folder holds its ``Adapter`` and its mapping."""
