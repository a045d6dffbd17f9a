"""Other inference servers, each in its own environment, to measure beside ruo."""
