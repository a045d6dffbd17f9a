"""Other inference servers, each in an environment of its own, that `benchmarks.__main__` measures ruo beside."""
