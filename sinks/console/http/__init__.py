"""HTTP of the console: problem details, security headers, caching."""
