"""Evaluation sets on disk, so that a restarted run reads and renders no data files for its evaluation.

::

    store/evaluations/validation-9c1e....jsonl    counts and stamps, then one line per example

A stamp is the size and time of a data file, by which a changed file is noticed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from ..rendering.unknown_tokens import UnknownTokens
from ..schema import EvaluationExample, Prompt, Turn
from ..storage.checksums import read_sealed_lines, write_sealed_lines
from ..tracked_files import Stamp, is_current
from .evaluation_set import EvaluationSet

FOLDER = "evaluations"


def store_evaluation(path: Path, evaluated: EvaluationSet, lines: Sequence[str], read: Mapping[str, Stamp]) -> None:
    """Write the rendered examples of validation or test to a file, so that the next run reads no data files for them.

    An existing file is replaced.

    Args:
        path: The file.
        evaluated: The evaluation set.
        lines: Lines that a run prints about it.
        read: Stamps (size and time) of the files and folders that were read, by path.
    """
    head = {
        "skipped": evaluated.skipped,
        "available": evaluated.available,
        "unknown": evaluated.unknown,
        "lines": lines,
        "read": read,
    }
    records = (
        [example, {**asdict(prompt), "source": ""}, row]  # the source is the example's
        for example, prompt, row in zip(evaluated.examples, evaluated.prompts, evaluated.rows, strict=True)
    )
    write_sealed_lines(path, chain([json.dumps(head)], map(json.dumps, records)))


def current_evaluation(path: Path) -> tuple[EvaluationSet, list[str]] | None:
    """Read an evaluation set that an earlier run stored, and the lines to print about it.

    None is returned if the file does not exist, or if a data file has changed since it was written.
    """
    records = map(json.loads, read_sealed_lines(path))
    head = next(records, None)
    if head is None or not is_current(head["read"]):
        return None
    examples, prompts, rows = [], [], []
    for example, prompt, row in records:
        values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in example]
        examples.append(EvaluationExample(*values))
        prompts.append(_prompt({**prompt, "source": examples[-1].source}))
        rows.append(row)
    unknown = {task: UnknownTokens(*counts) for task, counts in head["unknown"].items()}
    return EvaluationSet(examples, prompts, head["skipped"], rows, head["available"], unknown), head["lines"]


def _prompt(content: Mapping[str, Any]) -> Prompt:
    return Prompt(**{**content, "turns": tuple(Turn(**turn) for turn in content["turns"])})
