"""The claims of speed, measured again beside their targets: `make bench`.

For developers; not part of the installed package.
"""
