"""A Keras model in one process, and the store of its versions. It imports neither polars nor an HTTP client."""
