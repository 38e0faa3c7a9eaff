"""The measures, one file each: formula, source and units in its docstring."""
