"""Verbs of the command line that are more than a call; the others are in ``ruo.__main__``."""
