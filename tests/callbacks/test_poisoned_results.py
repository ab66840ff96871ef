"""Results that something else has changed: they are rejected in a sentence, and harm neither a terminal nor a page."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from crosstask.callbacks.report.coverage_text import terminal_coverage
from crosstask.callbacks.report.model_card import read_run_files
from crosstask.callbacks.report.model_sizes import read_model_scores
from crosstask.callbacks.report.predictions import is_prediction_of, read_predictions, written_coverage
from crosstask.callbacks.report.scores import build_report
from crosstask.callbacks.report.text import render_markdown, render_terminal
from crosstask.callbacks.unfinished_predictions import read_part
from crosstask.datamodules.evaluation.coverage import Coverage, TaskCoverage
from crosstask.datamodules.schema import EvaluationExample
from crosstask.datamodules.scoring.samples import generator_size, read_samples
from crosstask.datamodules.visible_text import markdown_code
from crosstask.lightning_modules.evaluation.aggregation import ScoredInstance
from crosstask.lightning_modules.inference.answer_file import AnswerFile
from crosstask.lightning_modules.inference.prompt_file import Question
from crosstask.lightning_modules.instructions.stored_instructions import read_instructions, write_instructions
from crosstask.lightning_modules.scoring.calibration import load_calibration
from crosstask.lightning_modules.scoring.cross_encoder import PairCuts
from crosstask.lightning_modules.scoring.score_files import ItemScores, ScoreFiles

PREDICTION: dict[str, Any] = {
    "number": 0,
    "benchmark": "b",
    "task": "t",
    "parent": None,
    "category": "c",
    "level": "fully_held_out",
    "shots": 0,
    "metric": "rouge_l",
    "id": "1",
    "prompt": "p",
    "references": ["r"],
    "prediction": "x",
    "rouge_l": 0.5,
    "exact_match": False,
}


def write_predictions(folder: Path, *lines: str) -> Path:
    path = folder / "predictions" / "test.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"rouge_l": 1e308},
        {"rouge_l": float("nan")},
        {"rouge_l": -0.25},
        {"rouge_l": True},
        {"rouge_l": "0.5"},
        {"rouge_l": None},
        {"rouge_l": 10**400},
        {"token_f1": float("inf")},
        {"accuracy": 2},
        {"exact_match": 0.5},
        {"exact_match": "yes"},
        {"exact_match": [True]},
        {"shots": True},
        {"shots": -1},
        {"shots": 0.5},
        {"references": "r"},
        {"references": [1]},
        {"references": None},
        {"prompt": 3},
        {"prediction": None},
        {"task": ["t"]},
        {"parent": 1},
        {"id": 7},
        {"level": "easy"},
        {"level": []},
        {"metric": "bleu"},
        {"metric": "token_f1"},
    ],
    ids=json.dumps,
)
def test_a_field_of_another_type_or_range_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write_predictions(tmp_path, json.dumps(PREDICTION), json.dumps(PREDICTION | change))
    with pytest.raises(ValueError, match=r"test\.jsonl, line 2: .*evaluate again"):
        read_predictions(path)


@pytest.mark.parametrize("line", ["[]", "null", "7", '"x"', "{", "[" * 100_000, "1" * 5000, '{"rouge_l": 1'])
def test_a_line_that_is_no_prediction_is_named(tmp_path: Path, line: str) -> None:
    path = write_predictions(tmp_path, json.dumps(PREDICTION), line)
    with pytest.raises(ValueError, match=r"test\.jsonl, line 2: "):
        read_predictions(path)


def test_a_flipped_bit_that_leaves_no_utf_8_is_located(tmp_path: Path) -> None:
    path = write_predictions(tmp_path, json.dumps(PREDICTION))
    path.write_bytes(path.read_bytes().replace(b'"p"', b'"\xba"'))
    with pytest.raises(ValueError, match=r"test\.jsonl.*: not UTF-8"):
        read_predictions(path)


def test_whole_and_missing_scores_are_read(tmp_path: Path) -> None:
    path = write_predictions(tmp_path, json.dumps(PREDICTION | {"rouge_l": 1, "exact_match": 1.0}))
    (prediction,) = read_predictions(path)
    assert (prediction.instance.score, prediction.instance.exact_match) == (1.0, 1.0)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        json.dumps({"coverage": {"stated_by": 1, "tasks": []}}),
        json.dumps({"coverage": {"stated_by": "Table 1", "tasks": [{"task": "a"}]}}),
        json.dumps({"coverage": {"stated_by": "x", "tasks": [
            {"task": "a", "column": "B", "level": "easy", "expected": 1, "available": 1, "run": 1}
        ]}}),
        json.dumps({"coverage": {"stated_by": "x", "tasks": [
            {"task": "a", "column": "B", "level": "fully_held_out", "expected": -1, "available": 1, "run": 1}
        ]}}),
    ],
)  # fmt: skip
def test_a_coverage_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "report" / "test").mkdir(parents=True)
    (tmp_path / "report" / "test" / "report.json").write_text(content)
    with pytest.raises(ValueError, match=r"report\.json is no report of an evaluation"):
        written_coverage(write_predictions(tmp_path, json.dumps(PREDICTION)))


@pytest.mark.parametrize(
    "change",
    [
        {"sample": True},
        {"sample": -1},
        {"tokens": 1.5},
        {"tokens": float("nan")},
        {"log_likelihood": float("nan")},
        {"log_likelihood": float("-inf")},
        {"log_likelihood": 3.5},
        {"log_likelihood": False},
        {"decoding": 4},
        {"generator": ["m"]},
        {"prompt": 1},
    ],
    ids=json.dumps,
)
def test_a_response_with_a_field_of_another_type_or_range_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"task": "t", "id": "1", "response": "a", **change}) + "\n")
    with pytest.raises(ValueError, match=rf"a\.jsonl:1: ({next(iter(change))} should be|\S+ is not a JSON number)"):
        list(read_samples([path]))


@pytest.mark.parametrize("line", ["[" * 100_000, "1" * 5000, "null", "{"])
def test_a_line_that_is_no_response_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(
        ValueError,
        match=r"a\.jsonl:1: (not valid JSON|expected an object|lists and objects are nested|a whole number of more)",
    ):
        list(read_samples([tmp_path / "a.jsonl"]))


@pytest.mark.parametrize("content", ["[]", "{", '{"generator": "m", "parameters": "many"}', '{"parameters": -1}'])
def test_a_description_of_a_generator_is_checked(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.model.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.model\.json does not describe a generator"):
        generator_size([tmp_path / "a.jsonl"])


@pytest.mark.parametrize(
    "content",
    [
        '{"scores": [0, 1], "correctness": [0, NaN]}',
        '{"scores": [1, 0], "correctness": [0, 1]}',
        '{"scores": [0], "correctness": [2]}',
        '{"scores": [0, 1], "correctness": [0]}',
        '{"scores": ["a"], "correctness": ["b"]}',
        '{"scores": [], "correctness": []}',
        '{"slope": 1}',
        "3",
    ],
)
def test_a_calibration_is_checked(tmp_path: Path, content: str) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(ValueError, match=r"calibration\.json holds no calibration"):
        load_calibration(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [{"mean": {"template_mean": 1e308}}, {"mean": {}}, {"parameters": 0}, {"parameters": "1e9"}, {"mean": [1]}],
    ids=json.dumps,
)
def test_a_report_of_models_is_checked(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "accuracies.json"
    path.write_text(json.dumps({"models": {"m": {"parameters": 80, "mean": {"template_mean": 0.5}, **change}}}))
    with pytest.raises(ValueError, match=r"accuracies\.json"):
        read_model_scores(str(path))


# --- predictions of an interrupted run ---


def test_lines_of_an_interrupted_run_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / ".test-0.part"
    lines = ['{"header": {"weights": "a"}}', '{"number": 0}', "{x", "[]", '{"number": true}', '{"number": 1}', '{"num']
    path.write_text("\n".join(lines))
    assert read_part(path) == ({"weights": "a"}, {0: '{"number": 0}', 1: '{"number": 1}'})


@pytest.mark.parametrize("change", [{"rouge_l": 7}, {"prompt": "another"}, {"id": "2"}, {"options": {}}, {"shots": 5}])
def test_a_prediction_that_was_changed_is_not_reused(change: dict[str, Any]) -> None:
    example = EvaluationExample(0, "t", "c", "fully_held_out", "1", "p", ("r",))
    assert is_prediction_of(PREDICTION, example)
    assert not is_prediction_of(PREDICTION | change, example)


# --- names that are commands of a terminal, or markup ---

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\r\x08"
NAME = f"a|b[red]{ESCAPES}<img src=x>\n# heading [x](javascript:y) `c` \u202e"


def hostile_report() -> Any:
    row = ScoredInstance(NAME, NAME, None, NAME, "fully_held_out", 0, "rouge_l", "1", 0.5, 0.5, 0.0)
    task = TaskCoverage(NAME, NAME, "fully_held_out", 3, 1, 0, NAME)
    return build_report([[row]], expected=2, coverage=Coverage(NAME, [task]))


def test_a_terminal_obeys_no_name() -> None:
    report = hostile_report()
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=False, width=400)
    console.print(render_terminal(report, NAME))
    console.print(terminal_coverage(report.coverage))
    assert "⟨U+001B⟩" in shown.getvalue()
    assert "[red]" in shown.getvalue()
    assert not set(shown.getvalue()) & set("\x1b\x07\x9b\r\x08\u202e")


def test_markdown_shows_names_as_they_are() -> None:
    text = render_markdown(hostile_report(), NAME)
    assert not set(text) & set("\x1b\x07\x9b\r\x08\u202e")
    assert "<img" not in text
    assert not re.search(r"(?<!\\)\]\(", text)  # no link
    assert "\n# heading" not in text
    assert "| a|b" not in text
    assert "| a\\|b\\[red\\]" in text


@pytest.mark.parametrize("text", ["`", "a``b", "```\n# x", "plain", "``"])
def test_code_in_markdown_cannot_be_left(text: str) -> None:
    code = markdown_code(text)
    fence = code[: len(code) - len(code.lstrip("`"))]
    assert "\n" not in code
    assert code.endswith(fence)
    assert fence not in code[len(fence) : -len(fence)]


# --- other files that commands write and read back ---


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\n",
        b"3\n",
        b'{"first": 0}\n',
        b'{"first": 1, "scores": [[1.0], [2.0]], "cuts": [], "remainders": {}}\n',
        b'{"first": 0, "scores": [[1.0]], "cuts": [], "remainders": {}}\n',
        b'{"first": 0, "scores": [[1.0], [1e300]], "cuts": [], "remainders": {}}\n',
        b'{"first": 0, "scores": [[1.0], ["2"]], "cuts": [], "remainders": {}}\n',
        b'{"first": 0, "scores": [[1.0], [2.0]], "cuts": [-1], "remainders": {}}\n',
        b'{"first": 0, "scores": [[1.0], [2.0]], "cuts": [], "remainders": 3}\n',
    ],
)
def test_scores_of_an_interrupted_run_are_checked(tmp_path: Path, line: bytes) -> None:
    files = ScoreFiles(tmp_path, "m", {}, ["one", "two"])
    files.write(lambda items: ItemScores([[1.0], [2.0]], PairCuts()), lambda done: None)
    path = tmp_path / "m-0000-of-0001.jsonl"
    assert files.scores() == ItemScores([[1.0], [2.0]], PairCuts(), {})
    path.write_bytes(line)
    with pytest.raises(ValueError, match=r"m-0000-of-0001\.jsonl"):
        files.scores()


@pytest.mark.parametrize(
    "line",
    ["{", "3", '{"line": 1}', '{"line": "1", "answer": "a"}', '{"line": 1, "answer": 3}', '{"line": 7, "answer": "a"}'],
)
def test_answers_of_an_interrupted_command_are_checked(tmp_path: Path, line: str) -> None:
    questions = [Question(number, None, [{"role": "user", "content": "?"}]) for number in (1, 2)]
    part = tmp_path / "a.jsonl.part"
    part.write_text(f'{{"model": "m"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl\.part.*; remove the file, or name another output"):
        AnswerFile(tmp_path / "a.jsonl", {"model": "m"}).missing(questions)
    part.write_text('{"model": "m"}\n{"line": 1, "answer": "a"}\n')
    assert AnswerFile(tmp_path / "a.jsonl", {"model": "m"}).missing(questions) == questions[1:]


DESCRIPTION = {"kind": "direct_embedder", "tasks": ["t"], "chosen": {"t": [{"exemplar": 0, "id": "1", "text": "a"}]}}


@pytest.mark.parametrize(
    ("change", "weights"),
    [
        ({"kind": 3}, None),
        ({"tasks": None}, None),
        ({"tasks": [1]}, None),
        ({"chosen": {"t": 3}}, None),
        ({"chosen": {"t": [{"exemplar": "0", "id": "1", "text": "a"}]}}, None),
        ({}, b"\x00" * 64),
        ({}, torch.full([1, 2], float("nan"))),
    ],
)
def test_learned_instructions_are_checked(tmp_path: Path, change: dict[str, Any], weights: Any) -> None:
    write_instructions(tmp_path, DESCRIPTION, {"table": torch.ones(1, 2)})
    assert read_instructions(tmp_path).tasks == ["t"]
    table = weights if torch.is_tensor(weights) else torch.ones(1, 2)
    write_instructions(tmp_path, DESCRIPTION | change, {"table": table})
    if isinstance(weights, bytes):
        (tmp_path / "instructions.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match=r"instructions\.(json|safetensors)"):
        read_instructions(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"trainer: {max_steps: [\n"),
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", b"3"),
        ("run.json", b"{"),
        ("run.json", b"[]"),
        ("mixture.txt", b"\x80"),
        ("report/test/report.md", b"\x80"),
    ],
)
def test_the_files_of_a_run_are_checked_for_its_card(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / "version_0" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_run_files(tmp_path)
