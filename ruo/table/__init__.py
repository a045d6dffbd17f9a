"""Any table to blocks of rows, in row order and in bounded memory.

Reads files and data frames with polars; knows nothing of models, servers or HTTP.
"""
