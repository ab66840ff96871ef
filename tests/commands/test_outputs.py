"""Outputs of commands: results of something else are never overwritten."""

import json
from pathlib import Path

import pytest

from crosstask.cli import main
from crosstask.commands.shared.outputs import require_own_report
from crosstask.datamodules.decontamination.contamination_report import ContaminatedPair, write_decisions
from crosstask.lightning_modules.model_digest import model_digest


@pytest.mark.parametrize(
    "words",
    [
        "classify --benchmark NaturalInstructions --benchmark.folder {toybench} --scorer s --output {there}",
        "select --examples.benchmark NaturalInstructions --examples.benchmark.folder {toybench} --samples [a.jsonl] "
        "--output {there}",
        "export last.ckpt {there}",
        "tokenizer --benchmark NaturalInstructions --benchmark.folder {toybench} --folder {there}",
        "report runs/a --folder {there}",
        "adapt --train NaturalInstructions --train.folder {toybench} --samples [a.jsonl] --output {there}",
        "adaptations runs/a --output {there}",
        "decontaminate --config quickstart --folder {there}",
        "toybench --folder {there}",
        "scaling {there} --output {there}/figure.svg",
    ],
    ids=lambda words: words.split()[0],
)
def test_no_command_overwrites_what_another_wrote(words: str, toybench: Path, tmp_path: Path) -> None:
    for name in (
        "notes.json",
        "selection.json",
        "config.json",
        "tokenizer.json",
        "report.json",
        "report.md",
        "figure.svg",
    ):
        (tmp_path / name).write_text(f'{{"kept": "{name}"}}')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    reasons = r"exists and is not overwritten|no report of|was not written by|has no report.json beside it|new, empty"
    with pytest.raises(ValueError, match=reasons):
        main([word.format(toybench=toybench, there=tmp_path) for word in words.split()])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", [b"[1, 2]", b"\xff\xfe", b'{"methods": 1}', b"{"])
def test_a_report_of_something_else_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"report\.json is no report of `crosstask report`"):
        require_own_report(tmp_path, ("systems", "comparisons"), "report")
    (tmp_path / "report.json").write_text(json.dumps({"systems": [], "comparisons": [], "stage": "test"}))
    require_own_report(tmp_path, ("systems", "comparisons"), "report")


def test_decisions_outlive_pairs_that_are_not_listed_any_more(tmp_path: Path) -> None:
    path = tmp_path / "decisions.tsv"
    pairs = [ContaminatedPair("a", "x", 5, 10, []), ContaminatedPair("b", "x", 3, 10, [])]
    write_decisions(path, pairs)
    path.write_text(path.read_text().replace("undecided\ta", "drop_train\ta"))
    write_decisions(path, pairs[1:])
    write_decisions(path, pairs)
    rows = [line.split("\t")[:3] for line in path.read_text().splitlines()[1:]]
    assert rows == [["drop_train", "a", "x"], ["undecided", "b", "x"]]


def test_a_digest_is_of_the_files_of_a_model_and_not_of_their_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    assert model_digest(str(tmp_path / "a")) == model_digest(str(tmp_path / "b"))
    (tmp_path / "b" / "README.md").write_text("a note")
    assert model_digest(str(tmp_path / "a")) == model_digest(str(tmp_path / "b"))
    (tmp_path / "b" / "model.safetensors").write_bytes(b"weightz")
    assert model_digest(str(tmp_path / "a")) != model_digest(str(tmp_path / "b"))
    with pytest.raises(ValueError, match="no model 'runs/absent': expected a hub name or a folder"):
        model_digest("runs/absent")
