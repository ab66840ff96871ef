"""The table of docs/data.md shows what `crosstask download` reads."""

from pathlib import Path

import crosstask
from crosstask.datamodules import benchmarks
from crosstask.datamodules.downloads.sources import Collection, HubPart, Part, TemplateRowsPart, read_sources

PAGE = Path(crosstask.__file__).parent / "docs/data.md"


def table(collection: Collection) -> str:
    head = f"### `{collection.name}`: {collection.title}\nRead by `{collection.reader}`."
    note = f" {collection.note}" if collection.note else ""
    lines = [line(part) for part in collection.parts]
    columns = "| part | source | licence | MB | below the data folder |\n|---|---|---|---|---|"
    return "\n".join([f"{head}{note}", "", columns, *lines])


def line(part: Part) -> str:
    mark = " ✓" if part.checked else ""
    size = "" if part.megabytes is None else f"{part.megabytes:g}"
    rows = f" ({part.rows:,} rows)" if isinstance(part, HubPart) and part.rows else ""
    folder = "/<split>/<task>.jsonl" if isinstance(part, TemplateRowsPart) else ""
    targets = list(dict.fromkeys(part.targets))
    below = ", ".join(f"`{target}{folder}`" for target in targets[:4]) + (
        f" and {len(targets) - 4} more" if targets[4:] else ""
    )
    return f"| {part.name}{mark} | {part.origin}{rows} | {part.licence} | {size} | {below} |"


def test_the_page_shows_the_table_of_sources() -> None:
    expected = "\n\n".join(table(collection) for collection in read_sources().values())
    shown = PAGE.read_text().partition("<!-- sources -->\n")[2].partition("\n<!-- end -->")[0]
    assert shown == expected, f"put this between the marks of {PAGE}:\n{expected}"


def test_every_reader_is_one_of_the_package() -> None:
    assert {collection.reader for collection in read_sources().values()} <= set(benchmarks.__all__)
