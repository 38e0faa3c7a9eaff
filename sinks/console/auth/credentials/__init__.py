"""Proofs of who somebody is: passwords, second factors, signed tokens."""
