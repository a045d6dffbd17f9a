"""Other inference servers, each in an environment of its own, that `ruo.bench` measures ruo beside."""
