"""Files of sampled responses: where an interrupted run resumes, and what is read from them."""

import json
from pathlib import Path
from typing import Any

import pytest

from crosstask.datamodules.scoring.sample_writer import SampleFile
from crosstask.datamodules.scoring.samples import ModelSamples, Sample, read_samples


def test_a_killed_run_goes_on_after_its_last_whole_example(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    file = SampleFile(path, {"seed": 0}, expected=2)
    for example in ("1", "2"):
        file.write(("t", example), [Sample("x y"), Sample("z")], "prompt")
    with pytest.raises(ValueError, match=r"another process is writing .*a\.jsonl"):
        SampleFile(path, {"seed": 0}, expected=2)
    file.close()
    whole = path.read_bytes()
    for torn in (Sample("half").line("t", "3").encode(), Sample("half").line("t", "3").encode()[:9]):
        path.write_bytes(whole + torn)
        file = SampleFile(path, {"seed": 0}, expected=2)
        assert set(file.done) == {("t", "1"), ("t", "2")}
        assert path.read_bytes() == whole
        file.close()
    with pytest.raises(ValueError, match=r'samples of other settings: +"seed": 0; expected +"seed": 1'):
        SampleFile(path, {"seed": 1}, expected=2)


def line(example: str, text: str) -> str:
    return Sample(text, "m", "beam").line("t", example)


@pytest.mark.parametrize(
    "content",
    [
        "".join(line(str(number), "one response each") for number in range(4)),
        "".join(line("1", text) for text in "ab") + line("2", "alone") + "".join(line("3", text) for text in "ab"),
        "".join(line("1", text) for text in "abc"),
    ],
    ids=["another program's", "an example torn in the middle", "a third sample of two"],
)
def test_a_file_that_no_interrupted_run_leaves_is_not_changed(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    path.with_suffix(".about.json").write_text(json.dumps({"seed": 0}, indent=1))
    with pytest.raises(ValueError, match=r"a\.jsonl:\d: a sample of t .* another program changed the file"):
        SampleFile(path, {"seed": 0}, expected=2)
    assert path.read_text() == content


def test_settings_of_a_file_without_samples_may_change(tmp_path: Path) -> None:
    """A command with a wrong word that was stopped before its first sample does not occupy the name."""
    SampleFile(tmp_path / "a.jsonl", {"seed": 0}, expected=2).close()
    SampleFile(tmp_path / "a.jsonl", {"seed": 1}, expected=2).close()


def test_samples_are_held_a_task_at_a_time(tmp_path: Path) -> None:
    """Lines of tasks may alternate, within a file and over files."""
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    first.write_text("".join(Sample(text).line(task, "1") for task, text in [("t", "a"), ("u", "ü"), ("t", "b")]))
    second.write_text("\n" + Sample("c").line("t", "2") + Sample("d").line("t", "1"))
    samples = ModelSamples([str(first), str(second)])
    assert samples.of("t") == {"1": ["a", "b", "d"], "2": ["c"]}
    assert samples.of("u") == {"1": ["ü"]}
    assert samples.of("t") == {"1": ["a", "b", "d"], "2": ["c"]}


@pytest.mark.parametrize(
    "field",
    [
        {"sample": "0"},
        {"sample": True},
        {"log_likelihood": "low"},
        {"log_likelihood": False},
        {"tokens": 1.5},
    ],
)
def test_a_field_of_another_type_is_named(tmp_path: Path, field: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"task": "t", "id": "1", "response": "a", **field}) + "\n")
    with pytest.raises(ValueError, match=rf"a.jsonl:1: {next(iter(field))} should be a (whole )?number"):
        list(read_samples([path]))


def test_a_number_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"task": "t", "id": "1", "response": "a", "log_likelihood": NaN}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: .*NaN"):
        list(read_samples([path]))


def test_a_sample_that_is_there_twice_is_named(tmp_path: Path) -> None:
    first, second, copy = (tmp_path / f"{name}.jsonl" for name in ("first", "second", "copy"))
    first.write_text("".join(Sample("a", "m", "nucleus", n).line("t", "1") for n in range(2)))
    second.write_text(Sample("b", "m", "nucleus", 1).line("t", "1"))
    copy.write_bytes(first.read_bytes())
    message = r"t 1 has sample 1 of nucleus by 'm' twice: remove the copy, or give generators different names"
    with pytest.raises(ValueError, match=message):
        ModelSamples([str(first), str(second)]).samples("t")
    with pytest.raises(ValueError, match=r"copy\.jsonl is a copy of .*first\.jsonl"):
        ModelSamples([str(first), str(copy)]).samples("t")
    second.write_text("".join(Sample("b", "m").line("t", "1") for _ in range(2)))  # not numbered: two draws of one text
    assert ModelSamples([str(second)]).of("t") == {"1": ["b", "b"]}
