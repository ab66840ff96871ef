"""RAFT (arXiv 2109.14076): eleven classification tasks of the real world with 50 labelled examples each.

::

    folder/terms_of_service/train.csv, test_unlabeled.csv      header: the task's columns, Label, ID

The labels of the test rows are not published, so that a score needs the training rows: demonstrations and tests are
drawn from the 50. Instructions and prompts are those of the paper's baselines (oughtinc/raft-baselines,
in_context_classifier.py); they lie in data/raft.json, with each task's columns and labels.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, Rendered, chosen
from .row_files import Row

UNLABELLED = "its label is not published"


class RAFT(Catalogue):
    """Reads RAFT's tasks. Every input begins with the task's definition. The hub's name is ``ought/raft``.

    Args:
        folder: Folder that holds a folder for each task.
        sources: Where to read a task by its name instead; see ``Catalogue``.
        split: "train", the labelled rows, or "test", all of which are refused for want of labels.
    """

    name = "raft"
    listed: ClassVar[Split | None] = "test"

    def datasets(self) -> Mapping[str, Dataset]:
        return _datasets()


@lru_cache(maxsize=1)
def _datasets() -> dict[str, Dataset]:
    path = Path(__file__).parent / "data/raft.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    return {name: _dataset(name, entry) for name, entry in table.items()}


def _dataset(name: str, entry: Mapping[str, Any]) -> Dataset:
    columns, labels = tuple(entry["columns"]), tuple(entry["labels"])
    listed = "\n".join(f"{number}. {label}" for number, label in enumerate(labels, start=1))
    head = f"{entry['instruction']}\nPossible labels:\n{listed}"

    def render(row: Row) -> Iterable[Rendered]:
        shown = [f"{column}: {row.text(column)}" for column in columns if row.text(column).strip()]
        text = "\n".join([f"{head}\n", *shown, "Label:"])
        if (label := _label(row, labels)) is None:
            yield Rendered(text, (), labels, skipped=UNLABELLED)
        else:
            yield Rendered(text, (label,), labels, chosen(row, labels, label))

    return Dataset(
        name=name,
        category="Text Categorization",
        layouts=(Layout(columns, render),),
        files={
            "train": (Files((f"{name}/train.csv",)),),
            "test": (Files((f"{name}/test_unlabeled.csv",)),),
        },
        config=name,
        definition=head,
        metric="accuracy",
    )


def _label(row: Row, labels: tuple[str, ...]) -> str | None:
    """The row's label; the hub numbers labels from 1, and 0 stands for none."""
    value = row.fields.get("Label")
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= len(labels):
            raise row.error(f"'Label' should be a number from 0 to {len(labels)}, got {value}")
        return labels[value - 1] if value else None
    if value in (None, "", "Unlabeled"):
        return None
    return row.text("Label")
