"""The system of 2023 and the bound without a network, beside ruo.

Its jobs run in processes of their own; nothing outside imports `paper/`.
"""
