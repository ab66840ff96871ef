"""Readers on the files that `crosstask download` writes, complete and in part."""

import json
from pathlib import Path

import pytest

from crosstask.datamodules.benchmarks import (
    RAFT,
    T5,
    NaturalInstructions,
    OptEvaluation,
    PretrainingText,
    PromptSource,
    Reasoning,
)
from crosstask.datamodules.benchmarks.bench import Bench
from crosstask.datamodules.benchmarks.flan import FLAN
from crosstask.datamodules.messages import MissingFiles
from crosstask.datamodules.toybench.families import write_families


def write(path: Path, *rows: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_below_templates_are_the_tasks_and_the_others_are_reported(tmp_path: Path) -> None:
    write_families(tmp_path)
    row = {"premise": "A cat.", "hypothesis": "An animal.", "label": 0}
    write(tmp_path / "promptsource/rows/train/super_glue_rte.jsonl", row)
    write(tmp_path / "flan/rows/train/rte.jsonl", row)
    templates, rows = str(tmp_path / "promptsource/templates"), str(tmp_path / "promptsource/rows")
    source = PromptSource(templates, rows_folder=rows)
    assert source.task_names("train") == ["super_glue_rte"]
    assert len(list(source.examples("super_glue_rte"))) == 1
    with pytest.raises(
        MissingFiles,
        match=r"rows/validation, where a \.jsonl file of rows for each task, as `crosstask download` writes it, should",
    ):
        PromptSource(templates, rows_folder=rows, split="validation").task_names("validation")
    flan = FLAN(str(tmp_path / "flan/templates.py"), rows_folder=str(tmp_path / "flan/rows"))
    assert flan.task_names("train") == ["rte"]
    assert len(list(flan.examples("rte"))) == 1
    assert flan.left_out()["cb"] == f"no rows in {tmp_path / 'flan/rows'}"
    with pytest.raises(MissingFiles, match="flan, task cb: no rows in"):
        flan.task("cb")  # a table of evaluation reports it as missing
    with pytest.raises(ValueError, match=r"flan, task cbb: no such task among 1"):
        flan.task("cbb")
    with pytest.raises(ValueError, match="rows and rows_folder both name the rows"):
        FLAN("templates.py", rows={}, rows_folder="rows")


def test_hub_rows_are_read_by_the_catalogues(tmp_path: Path) -> None:
    question = {"id": "a", "question": "Which purrs?", "choices": {"text": ["cat", "dog"], "label": ["A", "B"]}}
    write(tmp_path / "arc_easy/test.jsonl", question | {"answerKey": "A"})
    (example,) = OptEvaluation(str(tmp_path), split="test").examples("arc_easy")
    assert (example.options, example.answer) == (("cat", "dog"), 0)
    write(tmp_path / "raft/overruling/train.jsonl", {"Sentence": "We overrule it.", "ID": 0, "Label": 2})
    (example,) = RAFT(str(tmp_path / "raft")).examples("overruling")
    assert example.targets == ("overruling",)  # the hub numbers labels from 1
    ecqa = {f"q_op{number}": text for number, text in enumerate(("cat", "dog", "cow", "hen", "ant"), start=1)}
    write(tmp_path / "ecqa/train.jsonl", ecqa | {"q_text": "Which purrs?", "q_ans": "cat", "taskB": "Cats purr."})
    table = tmp_path / "flan_cot/ecqa_train.tsv"
    table.parent.mkdir()
    table.write_text("Which barks?\tdog\tDogs bark.\n")
    (example,) = Reasoning(str(tmp_path)).examples("ecqa")
    assert "Which purrs?" in example.input  # before FLAN's table


def test_every_task_file_trains_without_lists(toybench: Path) -> None:
    tasks = NaturalInstructions(str(toybench), splits="")
    assert tasks.task_names("train") == sorted(path.stem for path in (toybench / "tasks").glob("*.json"))
    assert tasks.task_names("test") == []


def test_a_partial_bench_reports_the_collections_without_files(toybench: Path, tmp_path: Path) -> None:
    collections = {
        "super_natural_instructions": NaturalInstructions(str(toybench)),
        "t5": T5(str(tmp_path / "t5")),
        "pretraining": PretrainingText({"documents": str(tmp_path / "c4.jsonl")}),
    }
    with pytest.raises(MissingFiles, match=r"no folder .*t5"):
        Bench(collections, rules="all").task_names("train")
    bench = Bench(collections, rules="all", partial=True)
    assert {name.partition("/")[0] for name in bench.task_names("train")} == {"super_natural_instructions"}
    assert bench.left_out() == {}
    assert bench.split.excluded["pretraining/*"] == f"no files: no file {tmp_path / 'c4.jsonl'} of documents"
    assert "t5/*" in bench.split.excluded
    with pytest.raises(MissingFiles, match=r"none of the collections has files; no files: .*t5.*crosstask download"):
        Bench({"t5": collections["t5"]}, partial=True).task_names("train")
