"""Opens the past of a table (`history.py`), whatever its format."""

from ...errors import InputError
from ...storage import StorageOptions
from ..location import DELTA, ICEBERG, parse_location
from ..table import open_table
from .delta import DeltaHistory
from .history import History
from .iceberg import IcebergHistory


def open_history(uri: str, options: StorageOptions) -> History:
    """The past of a table, as of now.

    Raises:
        InputError: as `open_table`; it is of no format with versions, or the URI selects one.
    """
    if parse_location(uri).selection:
        raise InputError(f"{uri}: selects one state of the table, which does not change. Leave out what follows the ?")
    table = open_table(uri, options)
    kind = table.pinned["format"]
    if kind == DELTA:
        return DeltaHistory(table, options)
    if kind == ICEBERG:
        return IcebergHistory(table, options)
    raise InputError(
        f"{uri}: is a plain table of {kind} files, which does not say what was deleted. Only Delta and Iceberg tables can "
        "be followed"
    )
