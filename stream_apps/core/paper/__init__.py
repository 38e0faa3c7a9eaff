"""The paper execution model (DECISIONS D19-D22): signals and trades in; orders, fills, positions and closed trades out. Pure."""
