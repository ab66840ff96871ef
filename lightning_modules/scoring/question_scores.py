"""A file of a model's scores of questions, which grows by batches, so that an interrupted run resumes."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...datamodules.data_files import parse_json
from ...datamodules.scoring.samples import require_settings
from .classification import Question
from .cross_encoder import PairCuts

QUESTIONS_AT_ONCE = 256
"""Questions that are scored and written together: the most that an interrupted run loses."""


class QuestionScores(NamedTuple):
    """A model's scores of the options of questions.

    Args:
        scores: For each question, a score for each option.
        cuts: What was cut from the pairs, or prompts, that were too long.
    """

    scores: list[list[float]]
    cuts: PairCuts


def write_question_scores(
    path: Path,
    about: Mapping[str, Any],
    questions: Sequence[Question],
    score: Callable[[Sequence[Question]], QuestionScores],
    progress: Callable[[int], None],
) -> QuestionScores:
    """Score the questions that the file lacks, and return the scores of all.

    Args:
        path: The file: a line for each batch of questions, in their order.
        about: The settings that decide the scores; those of an existing file must be equal.
        questions: All questions.
        score: Scores some questions.
        progress: Called with the number of questions that have scores, after each batch.

    Raises:
        ValueError: The file is of other settings or other questions.
    """
    digest = hashlib.sha256(repr(list(questions)).encode()).hexdigest()[:16]
    require_settings(path, {**about, "questions": digest})
    batches = _whole_batches(path)
    done = sum(len(batch.scores) for batch in batches)
    with open(path, "ab") as file:
        for start in range(done, len(questions), QUESTIONS_AT_ONCE):
            batch = score(questions[start : start + QUESTIONS_AT_ONCE])
            file.write(json.dumps(batch._asdict()).encode() + b"\n")
            file.flush()
            batches.append(batch)
            progress(start + len(batch.scores))
    cuts = [batch.cuts for batch in batches]
    return QuestionScores(
        [scores for batch in batches for scores in batch.scores], PairCuts(*map(sum, zip(*cuts, strict=True)))
    )


def _whole_batches(path: Path) -> list[QuestionScores]:
    """The batches of a file, which loses an incomplete last line."""
    if not path.exists():
        return []
    whole, _, rest = path.read_bytes().rpartition(b"\n")
    if rest:
        with open(path, "r+b") as file:
            file.truncate(len(whole) + bool(whole))
    lines = enumerate(whole.decode().split("\n"), start=1)
    remedy = "remove the file to score these questions again"
    records = [parse_json(line, f"{path}, line {number}", remedy) for number, line in lines if line]
    return [QuestionScores(record["scores"], PairCuts(*record["cuts"])) for record in records]
