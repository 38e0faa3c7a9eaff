"""The whole pipeline as separate processes over a running broker and database.

The demo runs it once, undisturbed. The system tests kill, freeze and restart its parts during the run.
"""
