"""Commands that run one service until it is stopped, and the importer of dump files."""
