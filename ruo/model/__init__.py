"""A Keras model in one process, and the store that versions of it are published to.

Shared by the server and by the bound without a network; it imports neither polars nor an HTTP client.
"""
