"""The dataset that a task was made from, under one name for all collections.

BoolQ is ``bool_q`` in FLAN, ``super_glue_boolq`` in PromptSource and ``task380_boolq_yes_no_question`` in
Super-NaturalInstructions. ``data/dataset_identities.yaml`` maps such names to one. Levels of generalization, the rules
that keep evaluation datasets out of training, and the report of shared text all read this table.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ..messages import expanded, kind, nearest
from ..schema import Task
from ..yaml_files import read_yaml

SHIPPED = Path(__file__).parent / "data" / "dataset_identities.yaml"


@dataclass(frozen=True)
class DatasetIdentities:
    """Datasets, and the names by which collections call them.

    >>> table = DatasetIdentities.read()
    >>> [table.identity(name) for name in ("super_glue-boolq", "bool_q", "task380_boolq_yes_no_question")]
    ['boolq', 'boolq', 'boolq']
    >>> [table.identity(name) for name in ("superglue-cb", "cbt_raw", "squad", "squad_v2", "ethos-race")]
    ['cb', None, 'squad_v1', 'squad_v2', 'ethos']

    Args:
        file: The table's file, for errors.
        names: All identities.
        phrases: Identity by a name in words that are joined by underscores.
    """

    file: Path
    names: tuple[str, ...]
    phrases: Mapping[str, str]

    @classmethod
    def read(cls, file: str | None = None) -> "DatasetIdentities":
        """Read a table; the shipped one if `file` is None.

        Raises:
            ValueError: The file is missing, is no mapping of datasets to lists of names, or lists a name twice.
        """
        path = SHIPPED if file is None else expanded(file)
        if not path.is_file():
            raise ValueError(f"no table of dataset identities {path}; copy {SHIPPED} and edit the copy")
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path}: expected datasets with lists of their names, got {kind(content)}")
        phrases: dict[str, str] = {}
        for identity, names in content.items():
            if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
                raise ValueError(f"{path}: {identity} should have a list of names, got {kind(names)}")
            for phrase in map(source_key, names):
                if phrases.get(phrase, identity) != identity:
                    raise ValueError(f"{path}: the name {phrase!r} is of {phrases[phrase]} and of {identity}")
                phrases[phrase] = identity
        return cls(path, tuple(content), phrases)

    def identity(self, name: str) -> str | None:
        """The dataset that a task's or a source's name contains in whole words; None if the table has none of it.

        The longest run of words decides, and of equally long runs the first.
        """
        words = source_key(name).split("_")
        for length in range(len(words), 0, -1):
            for start in range(len(words) - length + 1):
                if identity := self.phrases.get("_".join(words[start : start + length])):
                    return identity
        return None

    def identified(self, task: Task) -> Task:
        """The task with `dataset` and `sources` in the words of the table.

        Without an entry in the table, the dataset is the task's name and a source is its own name in one spelling, so
        that the same name in two collections is the same dataset.
        """
        sources = tuple(dict.fromkeys(self.identity(source) or source_key(source) for source in task.sources))
        known = [source for source in sources if source in self.names]
        dataset = self.identity(task.name) or (known[0] if known else source_key(task.name))
        return replace(task, dataset=dataset, sources=sources)

    def require(self, datasets: Iterable[str], where: str) -> None:
        """Check that the table has these datasets.

        Raises:
            ValueError: It lacks one; the error names the nearest and the ways out.
        """
        for dataset in datasets:
            if dataset not in self.names:
                raise ValueError(
                    f"{where}: no dataset {dataset!r} in {self.file}; {nearest(dataset, self.names)}; write one of its "
                    "datasets or a pattern of task names with a slash, like '*/race*', or add the dataset to a copy of "
                    "the table and name the copy as `identities`"
                )


@cache
def shipped_identities() -> DatasetIdentities:
    """The shipped table."""
    return DatasetIdentities.read()


def source_key(source: str) -> str:
    """A source's name in one spelling for all collections.

    >>> source_key("Super_GLUE/BoolQ") == source_key("super-glue boolq")
    True
    """
    return re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_")
