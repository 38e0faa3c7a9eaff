"""Tests of all rooms; support/ has the helpers that several rooms share."""
