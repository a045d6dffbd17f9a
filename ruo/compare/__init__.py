"""The system of 2023, ruo, and no network at all, side by side. Nothing is imported here, since every job is a new
process, and the paper's client must import gevent before sockets.
"""
