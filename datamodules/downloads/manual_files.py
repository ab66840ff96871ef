"""Files that a download has placed in the data folder, and the record of these files.

::

    data/.downloads/bbh/tasks.json          where the files came from, and size and digest of each
    data/.downloads/bbh/tasks.unfinished/   remains of an interrupted download; readers never look here

The record is written when all files of a part are in the unfinished folder, and then these are renamed. So a file
without a record was placed by hand, and is never replaced; a record whose files are missing is completed or repeated.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..atomic_files import write_whole
from ..data_files import read_json
from ..messages import some
from ..record_fields import text_field, whole_field
from .sources import Part

RECORDS = ".downloads"
"""Folder of the records in the data folder."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Says which files a download has placed in the data folder, and from where, so that changes are noticed.

    Args:
        origin: Source of the files, as text.
        licence: Licence of the files when they were obtained.
        revision: Commit of the repository or dataset.
        rows: Rows of a dataset; 0 for files.
        targets: Files and folders that were placed, relative to the data folder.
        files: (size in bytes, SHA-256) of every file, by its path in the data folder.
    """

    origin: str
    licence: str
    revision: str
    rows: int = 0
    targets: tuple[str, ...] = ()
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)


class PartFolder:
    """Places the downloaded files of one part of a collection, all or none, and records them.

    Files without a record were placed by a person and are never replaced.

    Args:
        folder: Data folder.
        collection: Name of the collection.
        part: The part: a set of files of the collection that are obtained together.
    """

    def __init__(self, folder: Path, collection: str, part: Part) -> None:
        self.folder, self.part = folder, part
        self.path = folder / RECORDS / collection / f"{part.name}.json"
        self.unfinished = self.path.with_suffix(".unfinished")

    def record(self) -> Record | None:
        """Return the record of an earlier download; None if there is none.

        Raises:
            ValueError: The file is no record.
        """
        if not self.path.is_file():
            return None
        content = read_json(self.path)
        try:
            return _record(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.path} is no record of a download ({error!r}); remove it: files that are there are kept then as "
                "if they were placed by hand"
            ) from error

    def missing(self, record: Record) -> list[str]:
        """Return the recorded files that are missing or whose size has changed."""
        paths = {path: self.folder / path for path in record.files}
        sizes = {path: file.stat().st_size if file.is_file() else -1 for path, file in paths.items()}
        return [path for path, (size, _) in record.files.items() if sizes[path] != size]

    def changed(self, record: Record) -> list[str]:
        """Return the recorded files that are missing or whose content has changed."""
        missing = self.missing(record)
        present = {path: self.folder / path for path in record.files if path not in missing}
        return missing + [path for path, file in present.items() if _sha256(file) != record.files[path][1]]

    def free_targets(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Return the files whose target does not exist; existing targets were placed by hand and are kept."""
        return {target: file for target, file in files.items() if not (self.folder / target).exists()}

    def place(self, files: Mapping[str, Path], revision: str, rows: int = 0) -> Record:
        """Record finished files, rename each to its target, and return the record.

        Args:
            files: Finished file or folder by target, relative to the data folder.
            revision: Commit of the repository or dataset.
            rows: Rows of a dataset; 0 for files.
        """
        ready = self.unfinished / "ready"
        shutil.rmtree(ready, ignore_errors=True)
        for target, file in files.items():
            (ready / target).parent.mkdir(parents=True, exist_ok=True)
            file.rename(ready / target)
        contents = {
            str(file.relative_to(ready)): (file.stat().st_size, _sha256(file))
            for file in sorted(ready.rglob("*"))
            if file.is_file()
        }
        earlier = self.record()
        kept = (
            {}
            if earlier is None
            else {path: earlier.files[path] for path in earlier.files if (self.folder / path).exists()}
        )
        record = Record(
            origin=self.part.origin,
            licence=self.part.licence,
            revision=revision,
            rows=rows,
            targets=tuple(dict.fromkeys([*(earlier.targets if earlier else ()), *files])),
            files=kept | contents,
        )
        write_whole(self.path, json.dumps(asdict(record), indent=1) + "\n")
        self.finish(record)
        return record

    def finish(self, record: Record) -> bool:
        """Place recorded files that an interrupted download left; return whether all recorded files are in place.

        Args:
            record: The files of the download.
        """
        for target in record.targets:
            waiting, place = self.unfinished / "ready" / target, self.folder / target
            if waiting.exists() and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                waiting.rename(place)
        if left := self.missing(record):
            return not left
        shutil.rmtree(self.unfinished, ignore_errors=True)
        return True

    def require_gone(self, record: Record) -> None:
        """Raise an error if downloading missing files again would replace files that are still there.

        Args:
            record: The files of the earlier download.

        Raises:
            ValueError: A placed folder is there, and some of its recorded files are missing or changed.
        """
        missing = [Path(path) for path in self.missing(record)]
        incomplete = [target for target in record.targets if any(path.is_relative_to(target) for path in missing)]
        if left := [target for target in incomplete if (self.folder / target).exists()]:
            raise self._changed_error(list(map(str, missing)), left)

    def require_unchanged(self, record: Record) -> None:
        """Raise an error if a recorded file has changed since it was downloaded, by its digest.

        Raises:
            ValueError: A file was changed or removed after the download.
        """
        if changed := self.changed(record):
            raise self._changed_error(changed, list(record.targets))

    def _changed_error(self, changed: list[str], targets: list[str]) -> ValueError:
        return ValueError(
            f"{some(changed, len(changed))} changed after the download, or was removed; remove "
            f"{some(targets, len(targets))} below {self.folder} and run the command again"
        )


def _record(content: Any) -> Record:
    """Return the record that a file holds; raise an error of any kind if it holds something else."""
    files = {path: (int(size), str(digest)) for path, (size, digest) in content["files"].items()}
    targets = tuple(text_field({"target": target}, "target") for target in content["targets"])
    texts = {name: text_field(content, name) for name in ("origin", "licence", "revision")}
    return Record(**{**content, **texts, "rows": whole_field(content, "rows"), "targets": targets, "files": files})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
