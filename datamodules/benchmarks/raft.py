"""RAFT (arXiv 2109.14076): eleven real-world classification tasks with 50 labelled examples each.

::

    folder/terms_of_service/train.csv, test_unlabeled.csv      header: the task's columns, Label, ID

The labels of the test rows are not published, so demonstrations and evaluation examples are both drawn from the 50
training rows. Instructions and prompts are those of the paper's baselines (oughtinc/raft-baselines,
in_context_classifier.py); data/raft.json holds them with the columns and labels of each task.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from ..data_files import read_json
from .benchmark import Split
from .catalogue import Catalogue, Dataset, Files, Layout, RenderedExample
from .multiple_choice import UNLABELLED, answer_index
from .rows.row import Row


class RAFT(Catalogue):
    """Reads the eleven classification tasks of RAFT (arXiv 2109.14076) for evaluation; no model is trained on them.

    A task has 50 labelled rows. The evaluated examples and the demonstrations are both drawn from these. Every input
    begins with the task's definition.

    Args:
        folder: Folder with a folder for each task; may be empty if all tasks are in `sources`.
        sources: File or hub name (``ought/raft``) of single tasks that are outside the folder, by task. On the hub, the
            configuration with the task's name is read.
        split: ``train``, the labelled rows. With ``test`` nothing can be evaluated: its labels are not published, so
            that all its rows are skipped.
    """

    name = "raft"
    listed: ClassVar[Split | None] = "test"

    def datasets(self) -> Mapping[str, Dataset]:
        """Return the eleven tasks."""
        return _datasets()


@lru_cache(maxsize=1)
def _datasets() -> dict[str, Dataset]:
    path = Path(__file__).parent / "data/raft.json"
    table = read_json(path)
    return {name: _dataset(name, entry) for name, entry in table.items()}


def _dataset(name: str, entry: Mapping[str, Any]) -> Dataset:
    columns, labels = tuple(entry["columns"]), tuple(entry["labels"])
    listed = "\n".join(f"{number}. {label}" for number, label in enumerate(labels, start=1))
    head = f"{entry['instruction']}\nPossible labels:\n{listed}"

    def render(row: Row) -> Iterable[RenderedExample]:
        fields = [f"{column}: {row.text(column)}" for column in columns if row.text(column).strip()]
        text = "\n".join([f"{head}\n", *fields, "Label:"])
        if (label := _label(row, labels)) is None:
            yield RenderedExample(text, (), labels, skipped=UNLABELLED)
        else:
            yield RenderedExample(text, (label,), labels, answer_index(row, labels, label))

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
    """Return the row's label; None if it has none. The hub numbers labels from 1, and 0 means no label."""
    value = row.fields.get("Label")
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= len(labels):
            raise row.error(f"'Label' should be a number from 0 to {len(labels)}, got {value}")
        return labels[value - 1] if value else None
    if value in (None, "", "Unlabeled"):
        return None
    return row.text("Label")
