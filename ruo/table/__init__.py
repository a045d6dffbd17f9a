"""Any table to blocks of rows, in row order and in bounded memory.

Reads files and data frames with polars; knows nothing of models, servers or HTTP. Rows are cut in three ways:

- a `Piece` is what one read returns: a few megabytes of a file, 20,000 rows of a DataFrame;
- a `Block` holds the same rows, cut to the request size;
- a `Chunk` (`ruo.client.records`) is a block encoded for the wire, ready to send.
"""

from __future__ import annotations

from ruo.table.base import Source, Span, Table, fingerprint_table
from ruo.table.blocks import NO_LABEL, Block, Labels, class_indices
from ruo.table.open import open_table

__all__ = ["NO_LABEL", "Block", "Labels", "Source", "Span", "Table", "class_indices", "fingerprint_table", "open_table"]
