"""Download of a hub dataset as JSONL, from the parquet files that the hub makes of every public dataset.

No code of a dataset is run, and ``huggingface_hub`` resumes interrupted files and verifies them. The commit that a
branch stands for is recorded, so that the same rows are obtained again.
"""

import heapq
import random
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..benchmarks.rows.row import Row
from ..benchmarks.rows.row_files import file_rows
from ..messages import some
from .row_output import recipe_columns, write_rows
from .sources import HubPart


class NotOnTheHub(ValueError):
    """The hub has no such dataset, no parquet files of it, or no such configuration and split."""


class FetchedRows(NamedTuple):
    """JSONL file that a download of a hub dataset has written, with the dataset's commit and the numbers of rows.

    Args:
        path: The JSONL file.
        revision: Commit of the dataset.
        rows: Number of rows of the split.
        kept: Number of rows that were written.
    """

    path: Path
    revision: str
    rows: int
    kept: int


def fetch_hub(part: HubPart, staging: Path, revision: str = "") -> FetchedRows:
    """Download one split of a hub dataset, and write its rows as a JSONL file.

    Args:
        part: Which dataset, configuration and split, and how its rows are converted.
        staging: Folder of unfinished files, in which the file is written.
        revision: Commit to download, e.g. that of an earlier download; empty for the revision of `part`.

    Returns:
        The file, its number of rows, and the commit.

    Raises:
        ValueError: The dataset, configuration, split or a column does not exist, access is not granted, there is no
            connection, or the number of rows differs from the part's.
    """
    snapshot = _snapshot(part, revision or part.revision)
    files = parquet_files(part, snapshot)
    counts = {"rows": 0}
    path = staging / Path(part.to).name
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = write_rows(path, part_records(part, _counted(files, counts)))
    if part.rows is not None and counts["rows"] != part.rows:
        path.unlink()
        raise ValueError(
            f"{part.origin}: {counts['rows']} rows, and there were {part.rows} when the table was written, so upstream "
            "has changed; look at its history, and set `rows` or an older `revision` in a table of your own (--sources)"
        )
    return FetchedRows(path, snapshot.name, counts["rows"], kept)


def parquet_files(part: HubPart, snapshot: Path) -> list[Path]:
    """Return the parquet files of one configuration and split among the downloaded files of a hub dataset.

    Of a dataset above 5 GB, the hub converts only the beginning, in folders that begin with ``partial-``; these files
    are returned if there are no others.

    Args:
        part: The dataset, its configuration and split.
        snapshot: Folder of the dataset's files in the hub's cache.

    Raises:
        NotOnTheHub: There are none.
        ValueError: The dataset has several configurations, and the part names none.
    """
    for prefix in ("", "partial-"):
        files = sorted(snapshot.glob(f"{part.config or '*'}/{prefix}{part.split}/{part.parquet}"))
        configs = sorted({file.parent.parent.name for file in files})
        if len(configs) > 1 and part.config != "*":
            raise ValueError(f"{part.origin}: the dataset has the configurations {some(configs)}: set `config` to one")
        if files:
            return files
    raise NotOnTheHub(f"{part.origin}: no such configuration and split; there are {some(_splits(part, snapshot.name))}")


def _splits(part: HubPart, revision: str) -> list[str]:
    """Return the configurations and splits that the hub has, e.g. ``aidayago2/train``."""
    from huggingface_hub import HfApi

    files = HfApi().list_repo_files(part.hub, repo_type="dataset", revision=revision)
    return sorted({str(Path(file).parent) for file in files if file.endswith(".parquet")})


def part_records(part: HubPart, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Convert rows of a hub dataset to the records that are written to a file of the data folder.

    Args:
        part: Settings of the conversion: rows to skip, columns to make, whether rows with equal inputs are merged, and
            how many records are drawn at random.
        rows: Rows of the dataset.
    """
    kept = (row for row in rows if not _skipped(part, row))
    records: Iterable[dict[str, Any]] = (_record(part, index, row) for index, row in enumerate(kept))
    if part.merged:
        records = _merged(records)
    return iter(records) if part.most is None else _drawn(records, part.most, part.to)


def _record(part: HubPart, index: int, row: Row) -> dict[str, Any]:
    if not part.columns and not part.one_of:
        return dict(row.fields)
    # A string seeds the same numbers in every Python.
    recipes = random.Random(f"{part.to} {index}").choice(part.one_of) if part.one_of else part.columns
    return recipe_columns(row, recipes)


def _skipped(part: HubPart, row: Row) -> bool:
    return any(re.search(pattern, row.text(column)) for column, pattern in part.skip.items())


def _merged(records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    targets: dict[str, list[str]] = {}
    for record in records:
        new = record["targets"] if isinstance(record["targets"], list) else [record["targets"]]
        targets.setdefault(record["inputs"], []).extend(new)
    return ({"inputs": inputs, "targets": texts} for inputs, texts in targets.items())


def _drawn(records: Iterable[dict[str, Any]], most: int, seed: str) -> Iterator[dict[str, Any]]:
    """Return at most `most` records in their order, drawn at random; the others are not kept in memory."""
    rng = random.Random(seed)
    keyed = ((rng.random(), index, record) for index, record in enumerate(records))
    smallest = heapq.nsmallest(most, keyed, key=lambda item: item[:2])
    return (record for _, _, record in sorted(smallest, key=lambda item: item[1]))


def _counted(files: Iterable[Path], counts: dict[str, int]) -> Iterator[Row]:
    for file in files:
        for row in file_rows(file):
            counts["rows"] += 1
            yield row


def _snapshot(part: HubPart, revision: str) -> Path:
    """Return the folder of the dataset's files in the hub's cache; its name is the commit."""
    from huggingface_hub import snapshot_download  # takes a second to import
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    patterns = [f"{part.config or '*'}/{prefix}{part.split}/{part.parquet}" for prefix in ("", "partial-")]
    set_verbosity_error()  # files that the hub lacks are reported by this program
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        folder = snapshot_download(part.hub, repo_type="dataset", revision=revision, allow_patterns=patterns)
    except GatedRepoError as error:
        raise ValueError(
            f"{part.origin}: request access on https://huggingface.co/datasets/{part.hub}; accept the licence "
            f"({part.licence}) there, log in with `hf auth login`, and run the command again"
        ) from error
    except RepositoryNotFoundError as error:
        raise NotOnTheHub(
            f"{part.origin}: no such dataset on the hub, or it is private; if it was renamed, correct `hub` in a table "
            "of your own (--sources)"
        ) from error
    except RevisionNotFoundError as error:
        raise NotOnTheHub(
            f"{part.origin}: no revision {revision!r}: the hub has made no parquet files of it, or its history was "
            "rewritten; set another `revision` in a table of your own (--sources)"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise  # a full disk
        answered = error if isinstance(error, HfHubHTTPError) else error.__cause__
        status = answered.response.status_code if isinstance(answered, HfHubHTTPError) else None
        problem = f"the hub answered with the error {status}" if status else "no connection to the hub"
        raise ValueError(
            f"{part.origin}: {problem} ({type(error).__name__}); run the command again: what arrived is kept"
        ) from error
    return Path(folder)
