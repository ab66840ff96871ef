"""BIG-bench: one JSON file a task, as its repository holds them, or the rows of TaskSource on the hub.

::

    folder/word_sorting/task.json                       a task: prefixes and examples
    folder/conlang_translation/adna_from/task.json      a task of several parts: "conlang_translation:adna_from"
    folder/word_sorting/{train,validation}.parquet      rows as in tasksource/bigbench; .jsonl, .json and .arrow too

Prompts are those of BIG-bench's own zero-shot queries (bigbench/api/json_task.py): task prefix, input prefix, input,
the choices where the task appends them, output prefix; white space around them is removed, as in the hub's rows.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch.utilities import rank_zero_info

from ..messages import existing_folder, expanded, kind, nearest
from ..schema import Example, Task
from .benchmark import Benchmark, Split
from .row_files import Row, file_digest, json_document, naming, rows, source_digest

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

Part = Literal["all", "train", "validation"]

VALIDATION_SHARE, FEWEST_VALIDATION = 5, 16
"""A fifth of a task's examples validates, rounded down, but at least 16 (the sizes of tasksource/bigbench)."""

REPEATED = "a repetition of an earlier example"
UNDECIDED = "all choices score the same"

METRICS: Mapping[str, Literal["rouge_l", "exact_match", "accuracy"]] = {
    "multiple_choice_grade": "accuracy",
    "exact_str_match": "exact_match",
}
"""Headline metric by a task's preferred score; all others (bleu, rouge ...) are reported by ROUGE-L."""

CAPPY = Path(__file__).parent / "data" / "cappy_bigbench.txt"
"""The 45 generative tasks that Cappy adapts to (arXiv 2311.06720, Figure 6)."""

ROW_FILES = (".parquet", ".arrow", ".jsonl", ".json")


class BigBench(Benchmark):
    """Reads BIG-bench's JSON tasks: generative ones, and multiple choice with scored options.

    Instances of a task that is trained and validated, as by a scorer, are read apart with `part`. TaskSource's rows
    come in the two parts. For raw files the split is ours, of the same sizes: upstream's own permutation is not
    published with them, so the two hold different examples.

    Args:
        source: Folder of the tasks, e.g. ``$CROSSTASK_DATA/bigbench``, or a hub name: ``tasksource/bigbench``.
        part: Which instances to read: "train", "validation" (Cappy's test set), or "all".
        tasks: Names of the tasks to read; all that are there if empty, and of ``"cappy"`` the 45 generative ones of the
            paper, as far as they are there.
        seed: Of the split of raw files, and of the order in which choices are shown.
    """

    name = "bigbench"

    def __init__(
        self, source: str, part: Part = "all", tasks: Literal["cappy"] | Sequence[str] = (), seed: int = 0
    ) -> None:
        if part not in get_args(Part):
            raise ValueError(f"part must be one of {list(get_args(Part))}, got {part!r}")
        self.source = expanded(source)
        self.part = part
        self.tasks: Literal["cappy"] | Sequence[str] = "cappy" if tasks == "cappy" else tuple(tasks)
        self.seed = seed

    def task_names(self, split: Split) -> list[str]:
        """All tasks: under "train" where training instances are read, else under "test"."""
        if split != ("train" if self.part == "train" else "test"):
            return []
        known = self._known()
        if self.tasks == "cappy":
            listed = CAPPY.read_text().split()
            if missing := [name for name in listed if name not in known]:
                rank_zero_info(f"{self.source} lacks {len(missing)} of Cappy's {len(listed)}: {', '.join(missing)}")
            return [name for name in listed if name in known]
        if unknown := [name for name in self.tasks if name not in known]:
            raise ValueError(f"{self.source} has no BIG-bench task {unknown[0]!r}; {nearest(unknown[0], known)}")
        return list(self.tasks) or known

    def task(self, name: str) -> Task:
        """What the task's file says of the task itself; TaskSource's rows say nothing of it."""
        header: Mapping[str, Any] = {}
        if path := self._raw(name):
            with naming(self.name, name):
                header = _document(path).fields
        else:
            self._parts(name)  # refuses a name that is unknown
        keywords = header.get("keywords") or [self.name]
        parent, _, part = name.partition(":")
        return Task(
            benchmark=self.name,
            name=name,
            category=str(keywords[0]),
            instruction_level="instance",
            parent=parent if part else None,
            sources=(parent,),
            metric=METRICS.get(header.get("preferred_score", ""), "rouge_l"),
            licence="Apache 2.0",
        )

    def examples(self, name: str) -> Iterator[Example]:
        """The instances of the part that is read, in file order; repeated ones are refused, as upstream drops them."""
        with naming(self.name, name):
            path = self._raw(name)
            yield from self._raw_examples(name, path) if path else self._row_examples(name)

    def fingerprint(self, name: str) -> str:
        """SHA-256 of all that decides what examples return: this reader, its arguments, the files."""
        path = self._raw(name)
        if path:
            content = file_digest(path)
        else:
            content = " ".join(source_digest(at, config=config, split=split) for split, at, config in self._parts(name))
        header = f"{self.name} {READER_VERSION} {name} {self.part} {self.seed} {content}"
        return hashlib.sha256(header.encode()).hexdigest()

    def _raw_examples(self, name: str, path: Path) -> Iterator[Example]:
        header = _document(path)
        records = _records(header)
        first = _first_places(records)
        distinct = [place for place, earlier in enumerate(first) if place == earlier]
        held_out = set(validation_places(distinct, task=name, seed=self.seed))
        for place, record in enumerate(records):
            if self.part != "all" and (first[place] in held_out) != (self.part == "validation"):
                continue
            example = self._raw_example(name, place, header, Row(record, f"{path}, example {place}"))
            repeated = first[place] != place
            yield _skipped(example, REPEATED) if repeated and not example.skipped else example

    def _raw_example(self, name: str, place: int, header: Row, row: Row) -> Example:
        scores = _scores(row) if "target_scores" in row.fields else {}
        options = tuple(scores)
        asked = row.text("input")
        if options and header.fields.get("append_choices_to_input", True):
            shown = sorted(options)
            random.Random(f"{self.seed} {name} {place}").shuffle(shown)
            prefix = header.text("choice_prefix", "\n  choice: ")
            asked += "".join(prefix + option for option in shown)
        text = header.text("task_prefix", "") + header.text("example_input_prefix", "\nQ: ") + asked
        text += header.text("example_output_prefix", "\nA: ")
        best = [option for option in options if scores[option] == max(scores.values())]
        targets = row.texts("target") if "target" in row.fields or not options else tuple(best)
        if options and not set(targets) & set(options):
            raise row.error(f"the answer {kind(list(targets))} is none of the choices {list(options)}")
        example = _example(name, str(place), place, text, targets, options, options.index(best[0]) if best else None)
        return _skipped(example, UNDECIDED) if len(options) > 1 and len(best) == len(options) else example

    def _row_examples(self, name: str) -> Iterator[Example]:
        for split, source, config in self._parts(name):
            for place, row in enumerate(rows(source, config=config, split=split)):
                options = row.texts("multiple_choice_targets")
                scores = row.value("multiple_choice_scores")
                if not isinstance(scores, Sequence) or len(scores) != len(options):
                    raise row.error(f"expected a score for each of {len(options)} choices, got {kind(scores)}")
                answer = list(scores).index(max(scores)) if options else None
                number = row.integer("idx")
                yield _example(
                    name, f"{split}-{number}", place, row.text("inputs"), row.texts("targets"), options, answer
                )

    def _parts(self, name: str) -> list[tuple[str, str, str | None]]:
        """Split, source and hub configuration of a task's rows."""
        wanted = ("train", "validation") if self.part == "all" else (self.part,)
        if not self._folder():
            return [(split, self.source, name) for split in wanted]
        folder = self._folder() / name  # type: ignore[operator]
        found: list[tuple[str, str, str | None]] = [
            (split, str(path), None) for split in wanted for path in _row_files(folder, split)
        ]
        if not found:
            known = self._known()
            raise ValueError(
                f"no task {name!r} among the {len(known)} BIG-bench tasks of {self.source}: it needs a task.json, or "
                f"rows named {' and '.join(wanted)}; {nearest(name, known)}"
            )
        return found

    def _raw(self, name: str) -> Path | None:
        folder = self._folder()
        path = folder / name.replace(":", "/") / "task.json" if folder else None
        return path if path and path.is_file() else None

    def _folder(self) -> Path | None:
        path = Path(self.source)
        if path.is_absolute():
            existing_folder(path, "the BIG-bench tasks")
        return path if path.is_dir() else None

    def _known(self) -> list[str]:
        folder = self._folder()
        if not folder:
            import datasets

            return list(datasets.get_dataset_config_names(self.source.partition("@")[0]))
        raw = [":".join(path.relative_to(folder).parts[:-1]) for path in folder.rglob("task.json")]
        rowed = [path.name for path in folder.iterdir() if path.is_dir() and list(_row_files(path, "train"))]
        return sorted({*raw, *rowed})


def validation_places(places: Sequence[int], *, task: str, seed: int) -> list[int]:
    """Which examples of a task validate: a fifth, at least 16, drawn by (seed, task); all of a task of 16 or fewer.

    >>> len(validation_places(range(323), task="analogical_similarity", seed=0))
    64
    >>> len(validation_places(range(34), task="auto_debugging", seed=0))
    16
    """
    shuffled = list(places)
    digest = hashlib.sha256(repr((seed, "bigbench", task)).encode()).digest()
    random.Random(digest).shuffle(shuffled)
    return sorted(shuffled[: max(FEWEST_VALIDATION, len(places) // VALIDATION_SHARE)])


def _example(
    task: str, id: str, index: int, text: str, targets: Sequence[str], options: Sequence[str], answer: int | None
) -> Example:
    return Example(
        task=task,
        id=id,
        index=index,
        input=text.strip(),
        targets=tuple(dict.fromkeys(target.strip() for target in targets)),
        options=tuple(option.strip() for option in options),
        answer=answer,
    )


def _skipped(example: Example, reason: str) -> Example:
    return Example(example.task, example.id, example.index, example.input, targets=(), skipped=reason)


def _scores(row: Row) -> Mapping[str, float]:
    scores = row.value("target_scores")
    if not isinstance(scores, dict) or not scores:
        raise row.error(f"'target_scores' should give each choice a score, got {kind(scores)}")
    if wrong := [score for score in scores.values() if isinstance(score, bool) or not isinstance(score, int | float)]:
        raise row.error(f"the scores in 'target_scores' should be numbers, got {kind(wrong[0])}")
    return scores


def _records(header: Row) -> list[Mapping[str, Any]]:
    records = header.value("examples")
    if not isinstance(records, list):
        raise header.error(f"'examples' should be a list of objects, got {kind(records)}")
    for place, record in enumerate(records):
        if not isinstance(record, dict):
            raise header.error(f"example {place} should be an object, got {kind(record)}")
    return records


def _first_places(records: Sequence[Mapping[str, Any]]) -> list[int]:
    """Where each record stood for the first time."""
    seen: dict[str, int] = {}
    return [seen.setdefault(json.dumps(record), place) for place, record in enumerate(records)]


def _row_files(folder: Path, split: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{split}*") if path.suffix in ROW_FILES)


def _document(path: Path) -> Row:
    status = path.stat()
    return _parsed(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _parsed(path: Path, modified: int, size: int) -> Row:
    document = json_document(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected one JSON object, got {kind(document)}")
    return Row(document, str(path))
