"""A Keras model in one process, and the store of its published versions.

The server and the in-process bound share it; it imports neither polars nor an HTTP client.
"""
