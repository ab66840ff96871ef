"""Sample files: responses of language models, one JSON object a line, all samples of an example in a row::

    {"task": "task001_copy", "id": "task001-7", "response": "a b c", "generator": "flan-t5-small",
     "decoding": "nucleus", "sample": 0, "log_likelihood": -2.13, "tokens": 4}

Training pairs are made of ``task``, ``id`` and ``response`` (``ModelSamples``). The other fields serve selection, and
files of other programs may lack them.
"""

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple


class Sample(NamedTuple):
    """One response of a model to an example.

    Args:
        response: The text, without surrounding white space.
        generator: Name of the model.
        decoding: Name of the decoding, e.g. ``"nucleus"``.
        sample: Its number among the samples of that decoding.
        log_likelihood: Of the response with eos, given the prompt, in nats at temperature 1; None if unknown.
        tokens: Number of tokens in that log-likelihood.
    """

    response: str
    generator: str = ""
    decoding: str = ""
    sample: int = 0
    log_likelihood: float | None = None
    tokens: int | None = None

    def line(self, task: str, example: str) -> str:
        """The sample as a line of a file."""
        fields = {key: value for key, value in self._asdict().items() if value is not None}
        return json.dumps({"task": task, "id": example, **fields}, ensure_ascii=False) + "\n"


Key = tuple[str, str]
"""(task, id) of an example."""


def read_samples(files: Iterable[str | Path]) -> Iterator[tuple[Key, Sample]]:
    """Yield the samples of files, in order.

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
    """The example and the sample of one line; missing fields have their defaults.

    Raises:
        ValueError: The line is not JSON, or a field has another type; the message begins with `where`.
    """
    try:
        text = line.decode("utf-8-sig")  # some editors write a byte order mark
        record = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not valid JSON: {error.msg}") from error
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("task", "id", "response")):
        raise ValueError(f'{where}: expected an object with the texts "task", "id" and "response", got {text[:80]!r}')
    fields = {key: record[key] for key in Sample._fields if key in record}
    for key, kinds in (("sample", int), ("log_likelihood", int | float | None), ("tokens", int | None)):
        if not isinstance(fields.get(key, 0), kinds):
            raise ValueError(f"{where}: {key} should be a number, got {fields[key]!r}")
    return (record["task"], record["id"]), Sample(**fields)._replace(response=record["response"].strip())


class SampleFile:
    """A sample file that grows by whole examples, so that an interrupted run can resume.

    The file ``<name>.about.json`` beside it holds the settings; a file with other settings is rejected.

    Args:
        path: The file.
        about: The settings that decide the samples.
        expected: Number of samples of each example.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], *, expected: int) -> None:
        self.path, self.expected = path, expected
        self.done: set[Key] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._require_settings(path.with_suffix(".about.json"), json.dumps(about, sort_keys=True, indent=1))
        if path.exists():
            self._keep_whole_examples()

    def _require_settings(self, path: Path, about: str) -> None:
        if not path.exists():
            path.write_text(about, encoding="utf-8")
        elif (written := path.read_text(encoding="utf-8")) != about:
            ours, theirs = set(about.splitlines()), set(written.splitlines())
            raise ValueError(
                f"{self.path} holds samples of other settings: {', '.join(sorted(theirs - ours))[:300]}; expected "
                f"{', '.join(sorted(ours - theirs))[:300]}; name another output"
            )

    def _keep_whole_examples(self) -> None:
        """Read which examples are complete, and truncate an incomplete last one."""
        counts: Counter[Key] = Counter()
        whole = position = 0
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                position += len(line)
                if not line.endswith(b"\n"):
                    break
                key, _ = read_sample(line, f"{self.path}:{number}")
                counts[key] += 1
                if counts[key] == self.expected:
                    self.done.add(key)
                    whole = position
        os.truncate(self.path, whole)

    def write(self, key: Key, samples: Sequence[Sample]) -> None:
        """Append the samples of one example."""
        assert len(samples) == self.expected, (key, len(samples))
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(sample.line(*key) for sample in samples))
        self.done.add(key)


def write_generator_info(path: Path, name: str, parameters: int) -> None:
    """Write the generator's name and size beside its sample file."""
    path.with_suffix(".model.json").write_text(json.dumps({"generator": name, "parameters": parameters}))


def generator_size(files: Iterable[str | Path]) -> int | None:
    """Number of parameters of the model that wrote sample files; None if unknown, or if the files differ."""
    notes = [Path(path).with_suffix(".model.json") for path in files]
    generators = {json.dumps(json.loads(note.read_text())) if note.is_file() else "" for note in notes}
    if len(generators) != 1 or generators == {""}:
        return None
    return int(json.loads(generators.pop())["parameters"])


class ModelSamples:
    """Samples of language models from files, one task in memory at a time.

    A first pass indexes the files, in 16 bytes for each run of lines of one task; `crosstask samples` writes task by
    task.

    Args:
        files: Paths of sample files; may be empty.
    """

    def __init__(self, files: Sequence[str] = ()) -> None:
        self.files = tuple(files)
        if twice := [path for path, count in Counter(Path(path).absolute() for path in files).items() if count > 1]:
            raise ValueError(f"the file of samples {twice[0]} is given twice, and each sample would count twice")
        self._fingerprints: dict[str, str] = {}
        self._loaded: tuple[str, dict[str, list[Sample]]] = "", {}

    def require_files(self) -> None:
        """Raise ValueError if a file is missing."""
        for path in map(Path, self.files):
            if not path.is_file():
                raise ValueError(f"no file {path} with model samples")

    @cached_property
    def _runs(self) -> dict[str, list["array[int]"]]:
        """The runs of lines of each task in each file, in bytes: start, end, start, end ..."""
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
        """Responses to a task's examples, by their ids."""
        return {example: [sample.response for sample in drawn] for example, drawn in self.samples(task).items()}

    def samples(self, task: str) -> Mapping[str, list[Sample]]:
        """Samples of a task's examples, by their ids, in the order of the files."""
        if self._loaded[0] != task:
            samples: dict[str, list[Sample]] = {}
            for path, runs in zip(self.files, self._runs.get(task, ()), strict=False):
                with open(path, "rb") as file:
                    for start, end in zip(runs[::2], runs[1::2], strict=True):
                        file.seek(start)
                        for line in filter(bytes.strip, file.read(end - start).split(b"\n")):
                            (_, example), sample = read_sample(line, path)
                            samples.setdefault(example, []).append(sample)
            self._loaded = task, samples
        return self._loaded[1]

    def fingerprint(self, task: str) -> str:
        """A digest of the samples of one task."""
        if task not in self._fingerprints:
            self._fingerprints[task] = hashlib.sha256(json.dumps(self.of(task), sort_keys=True).encode()).hexdigest()
        return self._fingerprints[task]

    def require_tasks(self, known: Collection[str]) -> None:
        """Raise ValueError if there are samples of tasks that are not `known`."""
        if unknown := sorted(set(self._runs) - set(known)):
            raise ValueError(
                f"{', '.join(self.files)}: samples of {len(unknown)} tasks that no split lists, e.g. {unknown[0]!r}"
            )

    def require_examples(self, task: str, known: Collection[str]) -> None:
        """Raise ValueError if there are samples of examples of a task that are not `known`."""
        if unknown := sorted(set(self.of(task)) - set(known)):
            raise ValueError(
                f"{', '.join(self.files)}: samples of {len(unknown)} examples that {task} does not have, "
                f"e.g. {unknown[0]!r}"
            )
