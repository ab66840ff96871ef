"""Files of a model's scores that grow by batches, so that interrupted runs resume and processes share the work."""

import fcntl
import glob
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Generic, NamedTuple, TypeVar

from ...datamodules.atomic_files import naming
from ...datamodules.data_files import decoded, parse_json
from ...datamodules.packing.replicas import process_of_job
from ...datamodules.record_fields import number_field, whole_field
from ...datamodules.scoring.sample_writer import require_settings
from ...datamodules.scoring.truncated_texts import CutTexts
from .cross_encoder import PairCuts

ITEMS_AT_ONCE = 256
"""Items that are scored and written together: the most that an interrupted process loses."""

LARGEST = 1e38
"""Largest score that is read from a file; log-likelihoods and scores of models are far below."""

Item = TypeVar("Item")


class ItemScores(NamedTuple):
    """A model's scores of several items: questions with options, or examples with responses.

    Args:
        scores: For each item, the score of each of its options or responses.
        cuts: Number of texts that were scored (pairs or prompts), and of those that were too long and were cut.
        remainders: For each text that was cut, the digest of what remained, by the digest of the whole text. Different
            texts with equal remainders have equal scores; their number is ``cuts.equal``.
    """

    scores: list[list[float]]
    cuts: PairCuts
    remainders: Mapping[str, str] = MappingProxyType({})


class ScoreFiles(Generic[Item]):
    """Writes a model's scores of items to files, so that an interrupted job resumes and its processes share the work.

    An item is a question with options or an example with responses. Each process of the job has a file, with one line
    per batch of items. Batch number b is scored by process b modulo the number of processes, unless a file already has
    it. Files of an earlier job count, also if it had more or fewer processes.

    Args:
        folder: Folder of the files, ``<name>-<process>-of-<processes>.jsonl``.
        name: Name of the model.
        settings: Everything that determines the scores besides the items, as plain values; existing files must have
            the same.
        items: All items to score.

    Raises:
        ValueError: A file is of other settings or other items.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any], items: Sequence[Item]) -> None:
        digest = hashlib.sha256(repr(list(items)).encode()).hexdigest()[:16]
        self.settings, self.items = {**settings, "items": digest}, items
        self.folder, self.name, self.process = folder, name.replace("/", "-"), process_of_job()
        self.starts = range(0, len(items), ITEMS_AT_ONCE)
        for path in self._paths():
            require_settings(path, self.settings)

    def write(self, score: Callable[[Sequence[Item]], ItemScores], progress: Callable[[int], None]) -> None:
        """Score this process's batches that no file has yet, and append them to its file.

        Args:
            score: Returns the scores of some items, in their order.
            progress: Called after each batch with the cumulative number of scored items of this process's share.
        """
        share, finished = self.starts[self.process.rank :: self.process.size], self._batches()
        done = sum(len(finished[start].scores) for start in share if start in finished)
        with self._own_file() as file:
            for start in share:
                if start in finished:
                    continue
                batch = score(self.items[start : start + ITEMS_AT_ONCE])
                with naming(Path(file.name)):
                    line = {"first": start, **batch._asdict(), "remainders": dict(batch.remainders)}
                    file.write(json.dumps(line).encode() + b"\n")
                    file.flush()
                done += len(batch.scores)
                progress(done)

    def share(self) -> int:
        """Return the number of items of this process's share."""
        share = self.starts[self.process.rank :: self.process.size]
        return sum(min(ITEMS_AT_ONCE, len(self.items) - start) for start in share)

    def scores(self) -> ItemScores | None:
        """Return the scores of all items, in their order; None while some are not scored yet."""
        finished = self._batches()
        if len(finished) < len(self.starts):
            return None
        batches = [finished[start] for start in self.starts]
        cuts = PairCuts(*map(sum, zip(*(batch.cuts for batch in batches), strict=True)))
        remainders = {whole: of for batch in batches for whole, of in batch.remainders.items()}
        cuts = cuts._replace(equal=CutTexts(remainders).equal())  # also of texts in different batches
        return ItemScores([scores for batch in batches for scores in batch.scores], cuts, remainders)

    def _paths(self) -> list[Path]:
        number = "[0-9]" * 4
        return sorted(self.folder.glob(f"{glob.escape(self.name)}-{number}-of-{number}.jsonl"))

    def _batches(self) -> dict[int, ItemScores]:
        """Return the batches of all files by the index of their first item; incomplete lines are left out."""
        batches: dict[int, ItemScores] = {}
        remedy = "remove the file to score these items again"
        for path in self._paths():
            whole, _, _ = path.read_bytes().rpartition(b"\n")
            for number, line in enumerate(filter(None, decoded(whole, str(path)).split("\n")), start=1):
                place = f"{path}, line {number}"
                record = parse_json(line, place, remedy)
                try:
                    first, scored = self._batch(record)
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    raise ValueError(f"{place}: no scores of these items ({error}); {remedy}") from error
                batches.setdefault(first, scored)
        return batches

    def _batch(self, record: Any) -> tuple[int, ItemScores]:
        """Return the index of a batch's first item, and its scores.

        Raises:
            ValueError: They are not finite numbers of as many items; a missing field raises an error of its own kind.
        """
        first, of_items = whole_field(record, "first"), record["scores"]
        items = min(ITEMS_AT_ONCE, len(self.items) - first)
        if first not in self.starts or len(of_items) != items:
            raise ValueError(f"expected those of {items} items from number {first}, got {len(of_items)}")
        scores = [[number_field({"score": one}, "score", -LARGEST, LARGEST) for one in each] for each in of_items]
        cuts = PairCuts(*(whole_field({"cuts": count}, "cuts") for count in record["cuts"]))
        return first, ItemScores(scores, cuts, dict(record["remainders"]))

    @contextmanager
    def _own_file(self) -> Iterator[IO[bytes]]:
        """Open this process's file for appending, locked and without an incomplete last line.

        Raises:
            ValueError: Another process writes it.
        """
        path = self.folder / f"{self.name}-{self.process.rank:04}-of-{self.process.size:04}.jsonl"
        require_settings(path, self.settings)
        with open(path, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"another process is writing {path}: wait for it, or name another output") from error
            file.truncate(path.read_bytes().rfind(b"\n") + 1)
            yield file
