"""Experiments: randomised runs, written to disk one by one, and what they say.

Measures through `ruo.client`; draws nothing.
"""
