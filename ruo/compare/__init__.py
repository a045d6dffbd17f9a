"""The system of 2023, ruo, and no network at all, side by side.

Every job runs in a process of its own. Nothing is imported here: the paper's client must import gevent before any socket.
"""
