"""Responses of other programs: checked line by line and written as sample files."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ...datamodules.atomic_files import whole_file
from ...datamodules.file_digests import file_digest
from ...datamodules.scoring.sample_writer import require_settings
from .batch_requests import read_answers


class Imported(NamedTuple):
    """Numbers of imported responses.

    Args:
        examples: Examples with a response.
        fewer: Those of them that have fewer responses than others, e.g. since answers of a decoding are missing.
        empty: Responses without text, e.g. refusals, or calls of a tool.
    """

    examples: int
    fewer: int
    empty: int


def import_responses(
    answers: Sequence[str],
    known: set[tuple[str, str]],
    path: Path,
    *,
    name: str,
    rank: int = 0,
    size: int = 1,
    failed: Counter[str] | None = None,
) -> Imported:
    """Check responses that other programs have generated, line by line, and write them as a sample file.

    Returns their numbers over all processes.

    Args:
        answers: Files of samples, or of the answers to a batch of requests.
        known: (task, id) of the examples that may have responses.
        path: Sample file to write.
        name: Name of the generating model, for lines that do not state it.
        rank: Index of this process; it writes the samples of every `size`-th example.
        size: Number of processes.
        failed: Receives the number of failed requests, by the API's error code; None to count none.

    Raises:
        ValueError: A line is not a sample, or belongs to an example that is not `known`; or `path` holds other
            responses, and is not changed.
    """
    require_settings(path, {"imported": [file_digest(Path(file)) for file in answers], "name": name})
    numbers: dict[tuple[str, str, str, str], set[int]] = {}
    counts, empty = Counter[tuple[str, str]](), 0
    with whole_file(path) as out:
        for key, sample in read_answers(answers, known, Counter() if failed is None else failed):
            if key not in known:
                raise ValueError(
                    f"{', '.join(answers)}: a response to {key[0]} {key[1]}, which is none of the {len(known)} "
                    "examples: set the parts and counts of examples that were sampled"
                )
            sample = sample._replace(generator=sample.generator or name)
            taken = numbers.setdefault((*key, sample.generator, sample.decoding), set())
            number = len(taken) if sample.sample is None else sample.sample
            if number in taken:
                decoding = sample.decoding or "no decoding"
                raise ValueError(
                    f"{', '.join(answers)}: {key[0]} {key[1]} has sample {number} of {decoding} twice: remove the "
                    "copy, or leave `sample` out of all lines"
                )
            taken.add(number)
            counts[key] += 1
            empty += not sample.response
            sample = sample._replace(sample=number)
            if _shard(key, size) == rank:
                out.write(sample.line(*key))
    most = max(counts.values(), default=0)
    return Imported(len(counts), sum(count < most for count in counts.values()), empty)


def _shard(key: tuple[str, str], size: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "little") % size
