"""The risk guard of an account: rules, commands, preflight checks and the kill switch."""
