"""Samples of a model: read by task and example, and named where they cannot be used."""

from pathlib import Path

import pytest
from written_samples import written

from crosstask.datamodules.scoring.samples import ModelSamples


def test_samples_are_read_by_task_and_example(tmp_path: Path) -> None:
    lines = [{"task": "t", "id": "1", "response": text, "generator": "flan"} for text in ("a", " b ")]
    samples = ModelSamples([written(tmp_path, *lines)])
    assert samples.of("t") == {"1": ["a", "b"]}
    assert samples.of("u") == {}
    assert samples.fingerprint("u") == ModelSamples().fingerprint("u") != samples.fingerprint("t")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json\n", r"samples.jsonl:1: not valid JSON"),
        ({"task": "t", "id": 7, "response": "a"}, r'samples.jsonl:1: expected .* "id" .* got \'\{"task"'),
        ({"task": "t", "response": "a"}, r"samples.jsonl:1: expected an object with the texts"),
    ],
)
def test_a_malformed_sample_is_named_by_file_and_line(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSamples([written(tmp_path, line)]).of("t")


def test_samples_of_unknown_tasks_and_examples_are_rejected(tmp_path: Path) -> None:
    samples = ModelSamples([written(tmp_path, {"task": "t", "id": "1", "response": "a"})])
    with pytest.raises(ValueError, match=r"samples of 1 task that no split lists, e.g. 't'"):
        samples.require_tasks(["u"])
    with pytest.raises(ValueError, match=r"samples of 1 example that t does not have, e.g. '1'"):
        samples.require_examples("t", ["0"])
    with pytest.raises(ValueError, match=r"no file or folder .*absent.jsonl"):
        ModelSamples([str(tmp_path / "absent.jsonl")]).of("t")
