"""Tables of the lake as streams of record batches, whatever their format, and tables of ids.

Read first `table.py` (what a URI names), then `read.py` (its rows). docs/lake.md says what is read and what is refused.
"""

from .columns import ID_COLUMNS, Columns, interactions_of
from .csv import read_csv
from .data_file import Table
from .files import LakeFile
from .id_files import read_ids
from .read import columns_of, read_columns, read_table
from .table import list_table, open_table, table_holding

__all__ = [
    "ID_COLUMNS",
    "Columns",
    "LakeFile",
    "Table",
    "columns_of",
    "interactions_of",
    "list_table",
    "open_table",
    "read_columns",
    "read_csv",
    "read_ids",
    "read_table",
    "table_holding",
]
