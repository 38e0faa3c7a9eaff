"""Self-contained HTML pages about what strategies did: of the demo's run, and of replays."""
