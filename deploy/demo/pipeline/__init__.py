"""The whole pipeline as separate processes over a running broker and database.

The demo runs it once and undisturbed. The system tests kill, freeze and restart its parts meanwhile.
"""
