"""FLAN's datasets: sources of their rows, and rules for the columns, options and answers of FLAN's templates.

``data/flan_datasets.yaml`` has an entry for each dataset. Rows come from the hub, or from a file of the reader with the
hub's columns, the original columns, or the columns of FLAN's templates with ``options`` and ``answer``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..yaml_files import read_yaml
from .benchmark import Split
from .rows.column_mappings import MISSING, Recipe, recipe_value, value_at, with_columns
from .rows.row import Row, holds_null

SHIPPED = Path(__file__).parent / "data" / "flan_datasets.yaml"

FIELD = re.compile(r"\{(\w+)\}")
OPTIONS = ("options_", "options_str")  # columns of FLAN's templates that list the options


@dataclass(frozen=True)
class FlanDataset:
    """Declares one of FLAN's datasets: its source, and how the columns of FLAN's templates are made from its rows.

    A recipe (``rows/column_mappings.py``) says from which columns, and by which steps, a value is made.

    Args:
        source: Name on the hub; None if upstream publishes none there.
        config: Configuration on the hub.
        splits: The hub's names of the splits that are read. A split that is missing here has no labels, or trains in
            another task.
        templates: Name of its entry in FLAN's templates, if it is not the dataset's name.
        each: For rows that hold several items: path of a list by the name of the new column for its items. The lists
            must have equal lengths; each item becomes a row.
        rows: Indices of the first row and of the row after the last; None for all rows.
        columns: Recipe of each column that the templates read and the rows lack.
        constants: Columns to add with the same value in every row.
        options: Texts of the options with ``{column}`` filled in, or the recipe of a list of options.
        label: Recipe of the index of the correct option. Its ``codes`` map values that are not numbers to an index.
        answer: Recipe of the answer's text, for datasets without options.
        number_of_options: Rows with another number of options are skipped; None accepts any number.
        skip: Rows to skip: for each reason a ``column``, and the regular expression that it ``matches`` or the column
            that it ``equals``.
    """

    source: str | None = None
    config: str | None = None
    splits: Mapping[Split, str] = field(default_factory=dict)
    templates: str | None = None
    each: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[int, int] | None = None
    columns: Mapping[str, Recipe] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    options: list[str] | Recipe = field(default_factory=list)
    label: Recipe | None = None
    answer: Recipe | None = None
    number_of_options: int | None = None
    skip: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class AnsweredRow(NamedTuple):
    """Row of a dataset with the columns that FLAN's templates read, and its options and correct answer.

    Args:
        row: The row, whose column ``answer`` is the text of the answer.
        options: Options of the question; empty if it has none.
        answer: Index of the correct option; None without options.
        skipped: Reason why the row cannot be used; empty if it can.
    """

    row: Row
    options: tuple[str, ...]
    answer: int | None
    skipped: str


@cache
def flan_datasets() -> Mapping[str, FlanDataset]:
    """Return the declarations of FLAN's datasets by task name, read once from the installed file."""
    content = read_yaml(SHIPPED)
    return {name: FlanDataset(**entry) for name, entry in content.items()}


def separate_rows(rows: Iterator[Row], dataset: FlanDataset) -> Iterator[Row]:
    """Divide rows that hold several examples, e.g. a passage with a list of questions, into one row for each.

    Args:
        rows: Rows of the dataset.
        dataset: Declaration whose `each` names the lists; rows without these lists are yielded unchanged.

    Raises:
        ValueError: The lists of a row are not lists of equal length.
    """
    for row in rows:
        lists = {column: value_at(row, path) for column, path in dataset.each.items()}
        if not lists or MISSING in lists.values():
            yield row
            continue
        sizes = {len(values) for values in lists.values()}
        if len(sizes) != 1:
            raise row.error(f"{', '.join(dataset.each.values())} should be lists of equal length, got {sorted(sizes)}")
        for place in range(sizes.pop()):
            items = {column: values[place] for column, values in lists.items()}
            yield Row({**row.fields, **items}, f"{row.location}, item {place}")


def answered_row(row: Row, dataset: FlanDataset) -> AnsweredRow:
    """Return a row of a FLAN dataset as FLAN's templates read it.

    Columns are renamed to the variables of the templates, the options become one text (``OPTIONS:`` and a line for
    each), and the label, an index in most datasets, becomes the text of the right option.

    Args:
        row: The row as upstream has it.
        dataset: Declaration of the dataset: its columns, options and label.

    Raises:
        ValueError: The row lacks a column, or its label is outside the options.
    """
    original = Row({**row.fields, **dataset.constants}, row.location)
    row = with_columns(original, dataset.columns)
    given = _given_options(original)
    options = given or _options(row, original, dataset)
    fields = dict(row.fields)
    place, skipped = None, ""
    if not given:
        if dataset.label is not None and not _answered_in_words(original, dataset.label, options):
            place = _label(original, dataset.label, options)
            skipped = "no label" if place is None else ""
            fields["answer"] = options[place] if place is not None else ""
        elif dataset.answer is not None and (answer := recipe_value(row, dataset.answer, original)) is not MISSING:
            fields["answer"] = answer
    fields |= dict.fromkeys(OPTIONS, "OPTIONS:" + "".join(f"\n- {option}" for option in options))
    row = Row(fields, row.location)
    if place is None and fields.get("answer") in options:
        place = options.index(fields["answer"])
    return AnsweredRow(row, options, place, skipped or _skipped(row, options, dataset))


def filled(pattern: str, row: Row) -> str:
    """Return a template of FLAN with each ``{column}`` replaced by the row's value.

    Braces around anything but a name are kept, as in FLAN.

    >>> filled("{text} Is it {good} or {bad}?", Row({"text": "Fine.", "good": "good", "bad": 0}, ""))
    'Fine. Is it good or 0?'

    Raises:
        ValueError: The row lacks a column.
    """
    return FIELD.sub(lambda match: _text(row.value(match[1])), pattern)


def reads_null(pattern: str, row: Row) -> bool:
    """Return whether a column that the pattern reads is null, which would be written as the word None."""
    return any(holds_null(row.fields.get(name, "")) for name in FIELD.findall(pattern))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if holds_null(value) else str(value)


def _given_options(row: Row) -> tuple[str, ...]:
    """Return the options of a row that has FLAN's own columns ``options`` and ``answer``; () for other rows."""
    given = isinstance(row.fields.get("options"), list | tuple) and isinstance(row.fields.get("answer"), str)
    return row.texts("options") if given else ()


def _answered_in_words(row: Row, label: Recipe, options: tuple[str, ...]) -> bool:
    """Return whether the column ``answer`` is one of the options, and no label contradicts it."""
    answer = row.fields.get("answer")
    return answer in options and recipe_value(row, label) in (MISSING, answer)


def _options(row: Row, original: Row, dataset: FlanDataset) -> tuple[str, ...]:
    if isinstance(dataset.options, Mapping):
        value = recipe_value(row, dataset.options, original)
        if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
            raise row.error(
                f"expected a list of options at {dataset.options['from']}, or FLAN's `options` and `answer`"
            )
        return tuple(value)
    return tuple(filled(option, row) for option in dataset.options) or row.texts("options", default=())


def _label(row: Row, label: Recipe, options: tuple[str, ...]) -> int | None:
    """Return the index of the correct option; None for -1, a row whose answer is not published."""
    value = recipe_value(row, label)
    if value is MISSING:
        paths = [label["from"]] if isinstance(label["from"], str) else label["from"]
        return row.integer(paths[0])  # the error names the nearest columns
    codes = label.get("codes", {})
    number = codes.get(str(value), value)
    if isinstance(number, str) and number.strip().removeprefix("-").isdecimal():
        number = int(number)
    if not isinstance(number, int) or not -1 <= number < len(options):
        known = f", and the codes are {', '.join(codes)}" if codes else ""
        raise row.error(f"the label is {value!r}, and there are {len(options)} options{known}")
    return int(number) if number >= 0 else None


def _skipped(row: Row, options: tuple[str, ...], dataset: FlanDataset) -> str:
    if not all(option.strip() for option in options):
        return "an option is empty"
    if dataset.number_of_options not in (None, len(options)):
        return f"not {dataset.number_of_options} options"
    if options and row.fields.get("answer") not in options:
        return "the answer is none of the options"
    for reason, test in dataset.skip.items():
        text = str(row.value(test["column"]))
        if re.search(test["matches"], text) if "matches" in test else text == str(row.value(test["equals"])):
            return reason
    return ""
