"""The table of docs/data.md shows what `crosstask download` reads."""

import re
from pathlib import Path, PurePosixPath

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


OTHER_LAYOUTS = {"opt_iml_small.yaml", "t5_small_pretraining.yaml"}
"""Small recipes that read P3's rendered rows and other files that are placed by hand, as the page says."""


def test_every_recipe_reads_what_is_downloaded() -> None:
    """A recipe's files are those of a part, in its folder, or above it."""
    parts = [part for collection in read_sources().values() for part in collection.parts]
    targets = {PurePosixPath(target) for part in parts for target in part.targets}
    targets |= {target / name for target in targets for name in ("train", "validation", "test")}
    configs = PAGE.parents[1] / "configs"
    unknown = {}
    for recipe in sorted(configs.rglob("*.yaml")):
        named = {PurePosixPath(name) for name in re.findall(r"\$CROSSTASK_DATA/([\w./-]+)", recipe.read_text())}
        strange = [str(n) for n in named if not any(n == t or n in t.parents or t in n.parents for t in targets)]
        if strange and recipe.name not in OTHER_LAYOUTS:
            unknown[recipe.name] = strange
    assert not unknown
    assert all(recipe in PAGE.read_text() for recipe in (name.removesuffix(".yaml") for name in OTHER_LAYOUTS))
