"""JSONL files of rows, with the columns that recipes make (``benchmarks/rows/column_mappings.py``)."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..atomic_files import whole_file
from ..benchmarks.rows.column_mappings import Recipe, with_columns
from ..benchmarks.rows.row import Row
from ..messages import nearest, some


def recipe_columns(row: Row, recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """Make the columns of an output file from a row of a published dataset; other columns are left out.

    Args:
        row: The row.
        recipes: For each column to write, the path of a value in the row, and steps that change it.

    Raises:
        ValueError: The row lacks a column that a recipe reads; the error names the nearest ones.
    """
    made = with_columns(row, recipes)
    for column, recipe in recipes.items():
        if column not in made.fields:
            paths = [recipe["from"]] if isinstance(recipe["from"], str) else recipe["from"]
            first = paths[0].split(".")[0]
            near = "" if first in row.fields else f"; {nearest(first, row.fields)}"
            raise row.error(
                f"nothing at {' or '.join(paths)}, from which {column!r} is made{near}; there are "
                f"{some(list(row.fields))}, so upstream has changed; correct `columns` in a table of your own "
                "(--sources)"
            )
    return {column: made.fields[column] for column in recipes}


def write_rows(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records to a JSONL file, and return their number; dates are written as text."""
    number = 0
    with whole_file(path) as output:
        for record in records:
            output.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
            number += 1
    return number
