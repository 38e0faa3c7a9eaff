"""What every process has: health and metrics endpoint, stop on SIGTERM, memory settings, pinned libraries, dead letters."""
