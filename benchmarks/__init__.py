"""The claims of speed, measured again beside their targets (`make bench`); not part of the installed package."""
