"""Dataset identities: one name for a dataset that collections call differently.

BoolQ is ``bool_q`` in FLAN, ``super_glue_boolq`` in PromptSource and ``task380_boolq_yes_no_question`` in
Super-NaturalInstructions. ``data/dataset_identities.yaml`` maps such names to one, the identity ``boolq``. Levels of
generalization, the rules that keep evaluation datasets out of training, and the report of shared text compare
identities.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path

from ...messages import expanded, kind, nearest
from ...schema import Task
from ...yaml_files import read_yaml

SHIPPED = Path(__file__).parents[1] / "data" / "dataset_identities.yaml"


SHORTEST_JOINED = 4
"""Characters of a name that may be written in several words: "cb" is no dataset in "task_c_b"."""

_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class DatasetIdentities:
    """Table that gives a dataset one name, its identity, in all collections, which call it differently.

    >>> table = DatasetIdentities.read()
    >>> [table.identity(name) for name in ("super_glue-boolq", "bool_q", "task380_boolq_yes_no_question")]
    ['boolq', 'boolq', 'boolq']
    >>> [table.identity(name) for name in ("superglue-cb", "cbt_raw", "squad", "squad_v2", "ethos-race")]
    ['cb', None, 'squad_v1', 'squad_v2', 'ethos']

    Args:
        file: File that the table was read from, for errors.
        names: All identities.
        phrases: Identity of each listed name; names are spelled as ``source_key`` returns them, with underscores and
            without.
    """

    file: Path
    names: tuple[str, ...]
    phrases: Mapping[str, str]

    @classmethod
    def read(cls, file: str | None = None) -> "DatasetIdentities":
        """Read a table from a YAML file; None for the installed one.

        Raises:
            ValueError: The file is missing, maps no datasets to lists of names, or lists a name for two datasets.
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
            for phrase in chain.from_iterable(map(_spellings, names)):
                if phrases.get(phrase, identity) != identity:
                    raise ValueError(f"{path}: the name {phrase!r} is of {phrases[phrase]} and of {identity}")
                phrases[phrase] = identity
        return cls(path, tuple(content), phrases)

    def identity(self, name: str) -> str | None:
        """Return the dataset mentioned in the name of a task or source, matched on whole words; None if it is unknown.

        Names differ in how they separate words: "arc_easy" is "ARC-Easy", "arcEasy" and "arceasy", too. The match of
        the most words wins; ties go to the leftmost. Capitals within a word separate words only if nothing matches
        otherwise.

        >>> table = DatasetIdentities.read()
        >>> [table.identity(name) for name in ("task380_boolq_yes_no_question", "anliR1", "arceasy")]
        ['boolq', 'anli', 'arc']
        """
        return self._mentioned(source_key(name)) or self._mentioned(source_key(_CAPITAL.sub("_", name)))

    def _mentioned(self, key: str) -> str | None:
        words = key.split("_")
        for length in range(len(words), 0, -1):
            for start in range(len(words) - length + 1):
                run = words[start : start + length]
                joined = "".join(run)
                identity = self.phrases.get("_".join(run))
                if identity or (len(joined) >= SHORTEST_JOINED and (identity := self.phrases.get(joined))):
                    return identity
        return None

    def identified(self, task: Task) -> Task:
        """Return a task with the names of its dataset and sources that all collections share.

        `dataset` becomes the table's name for the dataset that the task's name mentions, or else for its first known
        source. If none is known, it is the task's name in the spelling of ``source_key``, so that tasks of one name are
        the same dataset in all collections. Unknown sources are spelled by ``source_key``, too.
        """
        sources = tuple(dict.fromkeys(self.identity(source) or source_key(source) for source in task.sources))
        known = [source for source in sources if source in self.names]
        dataset = self.identity(task.name) or (known[0] if known else source_key(task.name))
        return replace(task, dataset=dataset, sources=sources)

    def require(self, datasets: Iterable[str], where: str) -> None:
        """Raise an error if a dataset is not in the table, e.g. because a user's rules misspell it.

        Args:
            datasets: Names of datasets.
            where: Where they are named, for the error, e.g. ``"rules 'opt_iml'"``.

        Raises:
            ValueError: One is not an identity; the error names the nearest and the ways out.
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
    """Return the table that is installed with the package; it is read once."""
    return DatasetIdentities.read()


def _spellings(name: str) -> tuple[str, str]:
    key = source_key(name)
    return key, key.replace("_", "")


def source_key(source: str) -> str:
    """Return a dataset's name in one spelling, to compare names: small letters and digits, joined by underscores.

    >>> source_key("Super_GLUE/BoolQ"), source_key("super-glue boolq")
    ('super_glue_boolq', 'super_glue_boolq')
    """
    return re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_")
