"""Download of collections into a data folder: each part is obtained completely, or reported with the reason why not.

A part is a set of files of a collection that are obtained together (``sources.py``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ..messages import nearest, some
from .git_files import fetch_git
from .hub_rows import NotOnTheHub, fetch_hub
from .manual_files import PartFolder
from .sources import Collection, GitPart, HandPart, HubPart, Part, TemplateRowsPart
from .template_parts import template_parts

Status = Literal["placed", "complete", "kept", "by hand", "left out", "failed"]
"""What happened to a part.

``placed``: obtained now. ``complete``: obtained earlier. ``kept``: placed by a person. ``by hand``: to be placed by a
person. ``left out``: a dataset under FLAN's or PromptSource's templates that is gone from the hub. ``failed``: not
obtained.
"""


class Outcome(NamedTuple):
    """Says what happened to a part, a set of files of one collection that are downloaded together.

    Args:
        collection: Name of the collection.
        part: Name of the part.
        status: What happened to the part.
        message: Where the files are, the steps for a person, or the error.
    """

    collection: str
    part: str
    status: Status
    message: str

    def __str__(self) -> str:
        return f"{self.collection}/{self.part}: {self.status}: {self.message}"


def chosen_collections(names: Sequence[str], sources: Mapping[str, Collection]) -> list[Collection]:
    """Return the collections that a user names for download; ``opt_iml`` stands for all of them.

    Args:
        names: Names of collections.
        sources: All collections that can be downloaded, by name.

    Raises:
        ValueError: There is no such collection, or no name is given.
    """
    if unknown := [name for name in names if name not in sources and name != OPT_IML]:
        raise ValueError(
            f"no collection {unknown[0]!r}; {nearest(unknown[0], [*sources, OPT_IML])}; there are "
            f"{', '.join(sources)}, and {OPT_IML} for all that OPT-IML trains and evaluates"
        )
    if not names:
        raise ValueError(f"name at least one collection; there are {', '.join(sources)}, and {OPT_IML}")
    return [sources[name] for name in sources if name in names or OPT_IML in names]


OPT_IML = "opt_iml"
"""Name that stands for all collections of OPT-IML."""


def download(collections: Iterable[Collection], folder: Path, *, verify: bool = False) -> Iterator[Outcome]:
    """Download collections part by part, and yield what happened to each part; errors are outcomes, too.

    A part is a set of files that are obtained together, e.g. from one repository.

    Args:
        collections: The collections to obtain.
        folder: Data folder.
        verify: Whether to read the files that were obtained earlier and compare their digests with the record.
    """
    for collection in collections:
        for part in collection.parts:
            yield from _outcomes(collection.name, part, folder, verify)


def _outcomes(
    collection: str, part: Part, folder: Path, verify: bool, *, may_be_gone: bool = False
) -> Iterator[Outcome]:
    try:
        if isinstance(part, TemplateRowsPart):
            for dataset in template_parts(part, folder):
                yield from _outcomes(collection, dataset, folder, verify, may_be_gone=True)
        else:
            yield Outcome(collection, part.name, *_obtain(part, PartFolder(folder, collection, part), verify))
    except NotOnTheHub as error:
        yield Outcome(collection, part.name, "left out" if may_be_gone else "failed", str(error))
    except ValueError as error:
        yield Outcome(collection, part.name, "failed", str(error))


def _obtain(part: Part, place: PartFolder, verify: bool) -> tuple[Status, str]:
    targets = some(list(part.targets), len(part.targets))
    if isinstance(part, HandPart):
        if missing := [target for target in part.targets if not (place.folder / target).exists()]:
            return (
                "by hand",
                f"{part.how} ({part.by_hand}; licence: {part.licence}). Place {some(missing)} below the folder",
            )
        return "kept", targets
    record = place.record()
    if record is not None and place.finish(record):
        if verify:
            place.require_unchanged(record)
        return "complete", targets
    if record is not None:
        place.require_gone(record)
    if record is None and all((place.folder / target).exists() for target in part.targets):
        return "kept", f"{targets} (placed by hand: not compared with {part.origin})"
    revision = record.revision if record is not None else ""
    if isinstance(part, GitPart):
        files = fetch_git(part, place.unfinished)
        licence = place.unfinished / "repository" / part.licence_file
        if part.licence_file:
            files[f"licences/{place.path.parent.name}-{part.name}.txt"] = licence
        placed = place.place(place.free_targets(files), part.commit)
        return "placed", f"{targets}: {len(placed.files)} files of {part.origin}"
    if isinstance(part, HubPart):
        rows = fetch_hub(part, place.unfinished, revision)
        place.place({part.to: rows.path}, rows.revision, rows.rows)
        return "placed", f"{targets}: {rows.kept} of {rows.rows} rows of {part.origin} @ {rows.revision[:12]}"
    raise AssertionError(f"no such kind of part: {part}")


def part_lines(collections: Iterable[Collection]) -> Iterator[str]:
    """Yield a line for every collection, and one for each set of its files that is downloaded together.

    The latter has the source, the files' places in the data folder, their size and their licence.
    """
    for collection in collections:
        yield f"{collection.name} ({collection.title}), read by {collection.reader}"
        for part in collection.parts:
            size = f"{part.megabytes:g} MB" if part.megabytes is not None else "size not measured"
            yield f"  {part.name}: {part.origin} -> {some(list(part.targets))}; {size}; licence: {part.licence}"
