"""Sample files: responses of language models, one JSON object per line, the samples of an example one after another::

    {"task": "task001_copy", "id": "task001-7", "response": "a b c", "generator": "flan-t5-small",
     "decoding": "nucleus", "sample": 0, "log_likelihood": -2.13, "tokens": 4, "prompt": "5f0c1a9e2b7d4463"}

The scorer trains on ``task``, ``id`` and ``response`` (read by ``ModelSamples``). The other fields are used by the
selection among samples, and files of other programs may lack them.
"""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..data_files import decoded, parse_json, read_json
from ..file_digests import file_digest
from ..messages import counted, expanded
from ..record_fields import number_field, text_field, whole_field


class Sample(NamedTuple):
    """One response of a model to an example.

    Args:
        response: Text of the response, without surrounding white space.
        generator: Name of the model.
        decoding: Name of the decoding method, e.g. ``"nucleus"``.
        sample: Number of the sample among those of its decoding method, from 0; None if unknown.
        log_likelihood: Log-likelihood of the response with eos, given the prompt, in nats at temperature 1; None if
            unknown.
        tokens: Number of tokens that `log_likelihood` sums over; None if unknown.
        prompt: Digest of the prompt (``prompt_digest``); None if unknown.
    """

    response: str
    generator: str = ""
    decoding: str = ""
    sample: int | None = None
    log_likelihood: float | None = None
    tokens: int | None = None
    prompt: str | None = None

    def line(self, task: str, example: str) -> str:
        """Return the sample as a JSON line of a file of samples.

        Args:
            task: Name of the task.
            example: Id of the example.
        """
        fields = {key: value for key, value in self._asdict().items() if value is not None}
        return json.dumps({"task": task, "id": example, **fields}, ensure_ascii=False) + "\n"


Key = tuple[str, str]
"""(task, id) of an example."""


def read_samples(files: Iterable[str | Path]) -> Iterator[tuple[Key, Sample]]:
    """Yield ((task, id), sample) of each line of sample files, in order.

    Raises:
        ValueError: A file is missing, or a line is not a sample.
    """
    for path in map(Path, files):
        if not path.is_file():
            raise ValueError(f"no file {path} with model samples")
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield read_sample(line, f"{path}:{number}")


def read_sample(line: bytes, where: str) -> tuple[Key, Sample]:
    """Return ((task, id), sample) of one line; missing fields have their defaults.

    Args:
        line: The line in UTF-8.
        where: File and line number, for errors.

    Raises:
        ValueError: The line is not JSON, or a field is missing or has another type; the message begins with `where`.
    """
    text = decoded(line, where)
    record = parse_json(text, where)
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("task", "id", "response")):
        raise ValueError(f'{where}: expected an object with the texts "task", "id" and "response", got {text[:80]!r}')
    try:
        sample = checked_sample(record)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return (record["task"], record["id"]), sample


def checked_sample(record: Mapping[str, Any]) -> Sample:
    """Return the sample of a record with the fields of ``Sample``; missing fields have their defaults.

    Raises:
        ValueError: A field has another type or is out of range, or there is no response.
    """
    given = {key: record[key] for key in Sample._fields if record.get(key) is not None}
    for name in ("generator", "decoding", "prompt"):
        if name in given:
            text_field(given, name)
    for name in ("sample", "tokens"):
        if name in given:
            whole_field(given, name)
    if "log_likelihood" in given:
        # A probability of 1 has log-likelihood 0; rounding in half precision can give a little more.
        given["log_likelihood"] = number_field(given, "log_likelihood", -1e9, 1e-3)
    return Sample(**given)._replace(response=text_field(record, "response").strip())


def generator_size(files: Iterable[str | Path]) -> int | None:
    """Return the number of parameters of the model that wrote sample files; None if unknown, or if models differ."""
    notes = [Path(path).with_suffix(".model.json") for path in files]
    generators = {_generator(note) if note.is_file() else None for note in notes}
    generator = generators.pop() if len(generators) == 1 else None
    return None if generator is None else generator[1]


def _generator(path: Path) -> tuple[str, int]:
    """Return the name of the sampled model and its number of parameters."""
    try:
        record = read_json(path)
        return text_field(record, "generator"), whole_field(record, "parameters")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} does not describe a generator ({error}): remove it") from error


def _sample_files(name: str | Path) -> list[str]:
    """Return the path of a file, or the paths of the sample files in a folder.

    Raises:
        ValueError: The folder has no sample file.
    """
    folder = expanded(name)
    if not folder.is_dir():
        return [str(folder)]
    files = sorted(str(path) for path in folder.glob("*-of-*.jsonl"))
    if not files:
        raise ValueError(
            f"no sample file (<name>-<process>-of-<processes>.jsonl) in the folder {folder}: `crosstask samples` "
            "writes them; or name other files"
        )
    return files


class ModelSamples:
    """Samples of language models, read from files one task at a time.

    The first access indexes the files, in 16 bytes for each run of lines of one task; `crosstask samples` writes one
    task after another. A sample that occurs twice is an error.

    Args:
        files: Paths of sample files, and of folders in which `crosstask samples` wrote some; may be empty.

    Raises:
        ValueError: A folder has no sample file, or a file is given twice.
    """

    def __init__(self, files: Sequence[str | Path] = ()) -> None:
        self.files = tuple(path for name in files for path in _sample_files(name))
        paths = Counter(Path(path).absolute() for path in self.files)
        if twice := [path for path, count in paths.items() if count > 1]:
            raise ValueError(f"the file of samples {twice[0]} is given twice, and each sample would count twice")
        self._fingerprints: dict[str, str] = {}
        self._loaded: tuple[str, dict[str, list[Sample]]] = "", {}

    def require_files(self) -> None:
        """Reject files that do not exist, or are copies of another one, with a ValueError."""
        by_size: dict[int, list[Path]] = {}
        for path in map(Path, self.files):
            if not path.is_file():
                raise ValueError(f"no file or folder {path} with model samples: `crosstask samples` writes them")
            by_size.setdefault(path.stat().st_size, []).append(path)
        for paths in by_size.values():
            copies: dict[str, Path] = {}
            for path in paths if len(paths) > 1 else ():
                if (first := copies.setdefault(file_digest(path), path)) != path and path.stat().st_size:
                    raise ValueError(f"{path} is a copy of {first}, and each sample would count twice: name one")

    @cached_property
    def _runs(self) -> dict[str, list["array[int]"]]:
        """For each task, the byte ranges of its lines in each file: start, end, start, end ..."""
        self.require_files()
        runs: dict[str, list[array[int]]] = {}
        for place, path in enumerate(map(Path, self.files)):
            position, last = 0, None
            with open(path, "rb") as lines:
                for number, line in enumerate(lines, start=1):
                    start, position = position, position + len(line)
                    if not line.strip():
                        continue
                    (task, _), _ = read_sample(line, f"{path}:{number}")
                    ends = runs.setdefault(task, [array("q") for _ in self.files])[place]
                    if task == last:
                        ends[-1] = position
                    else:
                        ends.extend((start, position))
                    last = task
        return runs

    def of(self, task: str) -> Mapping[str, list[str]]:
        """Return the sampled responses to a task's examples, by example id."""
        return {example: [sample.response for sample in drawn] for example, drawn in self.samples(task).items()}

    def samples(self, task: str) -> Mapping[str, list[Sample]]:
        """Return the samples of a task's examples, by example id, in the order of the files."""
        if self._loaded[0] != task:
            samples: dict[str, list[Sample]] = {}
            for path, runs in zip(self.files, self._runs.get(task, ()), strict=False):
                with open(path, "rb") as file:
                    for start, end in zip(runs[::2], runs[1::2], strict=True):
                        file.seek(start)
                        for line in filter(bytes.strip, file.read(end - start).split(b"\n")):
                            (_, example), sample = read_sample(line, path)
                            samples.setdefault(example, []).append(sample)
            self._require_different(task, samples)
            self._loaded = task, samples
        return self._loaded[1]

    def _require_different(self, task: str, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Reject an example that has a numbered sample twice, with a ValueError."""
        for example, drawn in samples.items():
            numbers = Counter((one.generator, one.decoding, one.sample) for one in drawn if one.sample is not None)
            if twice := [name for name, count in numbers.items() if count > 1]:
                generator, decoding, number = twice[0]
                raise ValueError(
                    f"{', '.join(self.files)}: {task} {example} has sample {number} of {decoding or 'no decoding'} by "
                    f"{generator!r} twice: remove the copy, or give generators different names (crosstask samples "
                    "--name)"
                )

    def examples_beyond(self, known: Mapping[str, Collection[str]]) -> int:
        """Return the number of examples that have samples and are not among the ids `known` of their task.

        All examples of a task that `known` lacks are counted.
        """
        return sum(len(set(self.samples(task)) - set(known.get(task, ()))) for task in self._runs)

    def fingerprint(self, task: str) -> str:
        """Return the SHA-256 of one task's responses."""
        if task not in self._fingerprints:
            self._fingerprints[task] = hashlib.sha256(json.dumps(self.of(task), sort_keys=True).encode()).hexdigest()
        return self._fingerprints[task]

    def require_tasks(self, known: Collection[str]) -> None:
        """Reject samples of tasks that are not among the names `known`, with a ValueError."""
        if unknown := sorted(set(self._runs) - set(known)):
            raise ValueError(
                f"{', '.join(self.files)}: samples of {counted(len(unknown), 'task')} that no split lists, "
                f"e.g. {unknown[0]!r}"
            )

    def require_examples(self, task: str, known: Collection[str]) -> None:
        """Reject samples of examples of a task whose ids are not among `known`, with a ValueError."""
        if unknown := sorted(set(self.of(task)) - set(known)):
            raise ValueError(
                f"{', '.join(self.files)}: samples of {counted(len(unknown), 'example')} that {task} does not have, "
                f"e.g. {unknown[0]!r}"
            )
