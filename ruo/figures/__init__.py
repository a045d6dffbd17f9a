"""Figures, one file a subject.

Draws results and measures nothing.
"""
