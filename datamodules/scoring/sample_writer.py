"""Sample files while they are written: whole examples alone, so that an interrupted run can resume."""

import fcntl
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..atomic_files import naming, write_whole
from .samples import Key, Sample, read_sample


class SampleFile:
    """Writes sampled responses to a JSONL file one example at a time, so that an interrupted run can resume.

    The file ``<name>.about.json`` beside it has the settings. If the file exists with equal settings, an incomplete
    last example is deleted, and writing continues after it. If its settings differ or are missing, or if other lines
    are not complete samples, it is rejected and not changed. The file is locked until ``close``.

    Args:
        path: The file; created if it does not exist.
        about: The settings that decide the samples (model, decoding, benchmark, ...), JSON-like.
        expected: Number of samples of each example.

    Raises:
        ValueError: The file has other settings or broken lines, or another process writes it.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], *, expected: int) -> None:
        self.path, self.expected = path, expected
        self.done: dict[Key, str | None] = {}
        """Examples with all their samples, and the digest of each example's prompt."""
        require_settings(path, about)
        with naming(path):
            self._file = open(path, "ab")  # noqa: SIM115 - open and locked as long as this object
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"another process is writing {path}: wait for it, or name another output") from error
            self._keep_whole_examples()

    def _keep_whole_examples(self) -> None:
        """Read the examples in the file, and delete the samples of an incomplete last one.

        Raises:
            ValueError: Another example than the last one is incomplete.
        """
        incomplete: list[Key] = []
        whole = position = 0
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                position += len(line)
                if not line.endswith(b"\n"):
                    break
                key, sample = read_sample(line, f"{self.path}:{number}")
                if key in self.done or incomplete[:1] not in ([], [key]):
                    raise ValueError(
                        f"{self.path}:{number}: a sample of {key[0]} {key[1]} where {self.expected} samples of each "
                        "example should be in a row: another program changed the file; name another output"
                    )
                incomplete.append(key)
                if len(incomplete) == self.expected:
                    self.done[key] = sample.prompt
                    incomplete, whole = [], position
        self._file.truncate(whole)

    def holds(self, key: Key, prompt: str) -> bool:
        """Return whether the file has all samples of an example.

        Args:
            key: (task, id) of the example.
            prompt: Text of its prompt.

        Raises:
            ValueError: The samples are responses to another prompt.
        """
        if key in self.done and self.done[key] != prompt_digest(prompt):
            raise ValueError(
                f"{self.path} holds responses to another prompt of {key[0]} {key[1]}: the benchmark has changed since; "
                "name another output"
            )
        return key in self.done

    def write(self, key: Key, samples: Sequence[Sample], prompt: str) -> None:
        """Append all samples of one example; `key` is (task, id), and `prompt` the text of the prompt."""
        assert len(samples) == self.expected, (key, len(samples))
        digest = prompt_digest(prompt)
        with naming(self.path):
            self._file.write("".join(s._replace(prompt=digest).line(*key) for s in samples).encode())
            self._file.flush()
        self.done[key] = digest

    def close(self) -> None:
        """Unlock the file."""
        self._file.close()


def prompt_digest(prompt: str) -> str:
    """Return a digest of a prompt, 16 hexadecimal digits, which a sample has so that a changed prompt is noticed."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def require_settings(path: Path, about: Mapping[str, Any]) -> None:
    """Write the settings of a new file of samples beside it, or compare them with those of an existing file.

    Args:
        path: The sample file.
        about: The settings that decide the samples (model, decoding, benchmark, ...), JSON-like.

    Raises:
        ValueError: The file has samples of other settings, or its settings are unknown.
    """
    settings, text = path.with_suffix(".about.json"), json.dumps(about, sort_keys=True, indent=1)
    with naming(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.stat().st_size == 0:
        write_whole(settings, text)
        return
    if not settings.is_file():
        raise ValueError(
            f"{path} holds responses of unknown settings ({settings.name} is missing), and is not changed: name "
            "another output"
        )
    if (written := settings.read_text(encoding="utf-8", errors="replace")) != text:
        ours, theirs = set(text.splitlines()), set(written.splitlines())
        raise ValueError(
            f"{path} holds samples of other settings: {', '.join(sorted(theirs - ours))[:300]}; expected "
            f"{', '.join(sorted(ours - theirs))[:300]}; name another output"
        )


def write_generator_info(path: Path, name: str, parameters: int) -> None:
    """Write the name of the sampled model and its number of parameters beside its file of samples."""
    write_whole(path.with_suffix(".model.json"), json.dumps({"generator": name, "parameters": parameters}))
