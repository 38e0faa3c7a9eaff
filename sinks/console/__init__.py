"""The console: an HTTP API and web pages over the database and the topics (DESIGN section 9)."""
