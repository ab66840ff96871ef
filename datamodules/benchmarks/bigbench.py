"""Benchmark reader of BIG-bench (arXiv 2206.04615): the JSON files of its repository, or TaskSource's rows on the hub.

::

    folder/word_sorting/task.json                       a task: prefixes and examples
    folder/conlang_translation/adna_from/task.json      a subtask: "conlang_translation:adna_from"
    folder/word_sorting/{train,validation}.parquet      rows as in tasksource/bigbench; .jsonl, .json and .arrow too

Prompts are BIG-bench's zero-shot queries (bigbench/api/json_task.py): task prefix, input prefix, input, the choices if
the task appends them, output prefix. White space around the prompt is removed, as in the hub's rows.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from ..data_files import format_of, read_json
from ..file_digests import file_digest
from ..folder_files import files_below
from ..messages import existing_folder, expanded, kind, nearest
from ..schema import Example, Task
from .benchmark import Benchmark, Split
from .rows.row import Row, error_prefix
from .rows.row_files import SUFFIXES, read_rows
from .rows.source_digests import source_digest
from .rows.unread_files import unread_files, unread_line

READER_VERSION = 1
"""Part of every fingerprint: raise it when the same file is to be read differently."""

Part = Literal["all", "train", "validation"]
"""Examples of each task that are read."""

VALIDATION_SHARE, FEWEST_VALIDATION = 5, 16
"""A fifth of a task's examples is for validation, rounded down, and at least 16 (as in tasksource/bigbench)."""

REPEATED = "a repetition of an earlier example"
UNDECIDED = "all choices score the same"

METRICS: Mapping[str, Literal["rouge_l", "exact_match", "accuracy"]] = {
    "multiple_choice_grade": "accuracy",
    "exact_str_match": "exact_match",
}
"""Headline metric by a task's preferred score; for all others (bleu, rouge ...) it is ROUGE-L."""

CAPPY = Path(__file__).parent / "data" / "cappy_bigbench.txt"
"""File that lists the 45 generative tasks to which Cappy adapts models (arXiv 2311.06720, Figure 6)."""

FIRST_SENTENCE = r"[^\.\?\!\;\n]+"
"""Answer in a response, for tasks without ``output_regex`` and ``stop_string`` (bigbench/api/json_task.py)."""


class BigBench(Benchmark):
    """Reads BIG-bench's generative and multiple-choice tasks, from its JSON files or from TaskSource's rows on the hub.

    TaskSource publishes a task's rows in a training and a validation part. JSON files are split at random into parts of
    the same sizes: the original permutation is not published, so the parts hold different examples than TaskSource's.

    Args:
        source: Folder of the tasks, e.g. ``$CROSSTASK_DATA/bigbench``, or a hub name: ``tasksource/bigbench``.
        part: Examples of each task to read: ``train``, ``validation`` (Cappy's test set) or ``all``.
        tasks: Names of the tasks to read; all tasks of the source if empty. ``"cappy"`` reads Cappy's 45 generative
            tasks, as far as the source has them.
        seed: Seed of the split of JSON files, and of the order of choices in prompts.
    """

    name = "bigbench"

    def __init__(
        self, source: str, part: Part = "all", tasks: Literal["cappy"] | Sequence[str] = (), seed: int = 0
    ) -> None:
        if part not in get_args(Part):
            raise ValueError(f"part must be one of {list(get_args(Part))}, got {part!r}")
        self.source = str(expanded(source))
        self.part = part
        self.tasks: Literal["cappy"] | Sequence[str] = "cappy" if tasks == "cappy" else tuple(tasks)
        self.seed = seed

    def task_names(self, split: Split) -> list[str]:
        """Return the names of all tasks, in the split "train" if `part` is "train", and else in "test".

        Raises:
            ValueError: The argument `tasks` names a task that the source lacks.
        """
        if split != ("train" if self.part == "train" else "test"):
            return []
        available = self._available()
        if self.tasks == "cappy":
            listed = CAPPY.read_text().split()
            if missing := [name for name in listed if name not in available]:
                from lightning.pytorch.utilities import rank_zero_info  # slow to import: help must not wait for it

                rank_zero_info(f"{self.source} lacks {len(missing)} of Cappy's {len(listed)}: {', '.join(missing)}")
            return [name for name in listed if name in available]
        if unknown := [name for name in self.tasks if name not in available]:
            raise ValueError(f"{self.source} has no BIG-bench task {unknown[0]!r}; {nearest(unknown[0], available)}")
        return list(self.tasks) or available

    def task(self, name: str) -> Task:
        """Return a task's metadata from its JSON file; TaskSource's rows have none, so that defaults are used."""
        score, pattern = "", ""
        keywords: tuple[str, ...] = (self.name,)
        if path := self._raw(name):
            with error_prefix(self.name, name):
                document = _document(path)
                score, keywords = document.text("preferred_score", ""), document.texts("keywords", ()) or keywords
                pattern = answer_pattern(document) if score == "exact_str_match" else ""
        else:
            self._parts(name)  # rejects an unknown name
        parent, _, part = name.partition(":")
        return Task(
            benchmark=self.name,
            name=name,
            category=keywords[0],
            instruction_level="instance",
            parent=parent if part else None,
            sources=(parent,),
            metric=METRICS.get(score, "rouge_l"),
            match="bigbench",
            answer_pattern=pattern,
            licence="Apache 2.0",
        )

    def examples(self, name: str) -> Iterator[Example]:
        """Yield the examples of `part` in file order; repeated ones are skipped, since BIG-bench drops them."""
        with error_prefix(self.name, name):
            path = self._raw(name)
            yield from self._raw_examples(name, path) if path else self._row_examples(name)

    def fingerprint(self, name: str) -> str:
        """Return the SHA-256 of reader version, arguments and files."""
        path = self._raw(name)
        if path:
            content = file_digest(path)
        else:
            content = " ".join(
                source_digest(source, config=config, split=split) for split, source, config in self._parts(name)
            )
        header = f"{self.name} {READER_VERSION} {name} {self.part} {self.seed} {content}"
        return hashlib.sha256(header.encode()).hexdigest()

    def unread_lines(self) -> list[str]:
        """Return a line that counts data files that belong to no task of the folder."""
        folder = self._folder()
        if not folder:
            return []
        tasks = [folder / name.replace(":", "/") for name in self._available()]
        read = [path for task in tasks for path in (task / "task.json", *_row_files(task, "train"))]
        files = unread_files(folder, [*read, *(path for task in tasks for path in _row_files(task, "validation"))])
        return [unread_line(folder, files)] if files else []

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
        query = row.text("input")
        if options and header.fields.get("append_choices_to_input", True):
            choices = sorted(options)
            random.Random(f"{self.seed} {name} {place}").shuffle(choices)
            prefix = header.text("choice_prefix", "\n  choice: ")
            query += "".join(prefix + option for option in choices)
        text = header.text("task_prefix", "") + header.text("example_input_prefix", "\nQ: ") + query
        text += header.text("example_output_prefix", "\nA: ")
        best = [option for option in options if scores[option] == max(scores.values())]
        targets = row.texts("target") if "target" in row.fields or not options else tuple(best)
        if options and not set(targets) & set(options):
            raise row.error(f"the answer {kind(list(targets))} is none of the choices {list(options)}")
        example = _example(name, str(place), place, text, targets, options, options.index(best[0]) if best else None)
        return _skipped(example, UNDECIDED) if len(options) > 1 and len(best) == len(options) else example

    def _row_examples(self, name: str) -> Iterator[Example]:
        for split, source, config in self._parts(name):
            for place, row in enumerate(read_rows(source, config=config, split=split)):
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
        """Return (split, source, hub configuration) of a task's rows."""
        wanted = ("train", "validation") if self.part == "all" else (self.part,)
        if not self._folder():
            return [(split, self.source, name) for split in wanted]
        folder = self._folder() / name  # type: ignore[operator]
        parts: list[tuple[str, str, str | None]] = [
            (split, str(path), None) for split in wanted for path in _row_files(folder, split)
        ]
        if not parts:
            available = self._available()
            raise ValueError(
                f"no task {name!r} among the {len(available)} BIG-bench tasks of {self.source}: it needs a task.json, "
                f"or rows named {' and '.join(wanted)}; {nearest(name, available)}"
            )
        return parts

    def _raw(self, name: str) -> Path | None:
        folder = self._folder()
        path = folder / name.replace(":", "/") / "task.json" if folder else None
        return path if path and path.is_file() else None

    def _folder(self) -> Path | None:
        path = Path(self.source)
        if path.is_absolute():
            existing_folder(path, "the BIG-bench tasks")
        return path if path.is_dir() else None

    def _available(self) -> list[str]:
        folder = self._folder()
        if not folder:
            import datasets

            name, _, revision = self.source.partition("@")
            return list(datasets.get_dataset_config_names(name, revision=revision or None))
        documents = [
            ":".join(path.relative_to(folder).parts[:-1]) for path in files_below(folder) if path.name == "task.json"
        ]
        row_folders = [path.name for path in folder.iterdir() if path.is_dir() and list(_row_files(path, "train"))]
        return sorted({*documents, *row_folders})


def answer_pattern(header: Row) -> str:
    """Return the regular expression that finds a task's answer in a generated response; its first match is the answer.

    It is the task's ``output_regex``, or else the text before its ``stop_string``, or else the first sentence. An empty
    pattern means the whole response.

    >>> answer_pattern(Row({"output_regex": "[-+]?[0-9]+"}, "task.json"))
    '[-+]?[0-9]+'

    Args:
        header: The task's JSON object.

    Raises:
        ValueError: The expression is not valid, or has several groups.
    """
    regex, stop = header.text("output_regex", ""), header.text("stop_string", "")
    if regex:
        pattern = f"(?m:{regex})" if stop == "\n" else regex  # "$" ends a line, before the stop
    elif stop:
        pattern = rf"(?s:\A.+?)(?={re.escape(stop)}|\Z)"
    else:
        pattern = "" if "output_regex" in header.fields else FIRST_SENTENCE
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise header.error(f"'output_regex' is not a valid regular expression: {error}") from error
    if groups > 1:
        raise header.error(f"'output_regex' should have at most one group, which is the answer, got {groups}")
    return pattern


def validation_places(places: Sequence[int], *, task: str, seed: int) -> list[int]:
    """Return the indices of a task's validation examples: a fifth, but at least 16, drawn by (seed, task).

    A task of 16 or fewer examples has no training examples.

    >>> len(validation_places(range(323), task="analogical_similarity", seed=0))
    64
    >>> len(validation_places(range(34), task="auto_debugging", seed=0))
    16

    Args:
        places: Indices of the task's distinct examples.
        task: Name of the task.
        seed: Seed of the draw.
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
    """Return, for each record, the index of the first equal record."""
    seen: dict[str, int] = {}
    return [seen.setdefault(json.dumps(record), place) for place, record in enumerate(records)]


def _row_files(folder: Path, split: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{split}*") if format_of(path) in SUFFIXES)


def _document(path: Path) -> Row:
    status = path.stat()
    return _parsed(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _parsed(path: Path, modified: int, size: int) -> Row:
    """Return the object of a JSON file; `modified` and `size` are part of the cache's key."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected one JSON object, got {kind(document)}")
    return Row(document, str(path))
