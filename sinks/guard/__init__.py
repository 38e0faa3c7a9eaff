"""The risk guard: watches an account and says what it may do; commands and the kill switch."""
