"""PromptSource's templates over rows: drawing, rendering, fingerprints, and the errors of broken files."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from jsonargparse import ArgumentParser

from crosstask.datamodules import InstructionTuningDataModule
from crosstask.datamodules.benchmarks.bench import Bench
from crosstask.datamodules.benchmarks.benchmark import Benchmark
from crosstask.datamodules.benchmarks.promptsource import PromptSource
from crosstask.datamodules.benchmarks.templates.template_rows import RowSource
from crosstask.datamodules.benchmarks.text_to_text import T5
from crosstask.datamodules.schema import Example, Task

TEMPLATES = """\
dataset: super_glue
subset: rte
templates:
  0000aaaa: !Template
    answer_choices: Yes ||| No
    id: 0000aaaa
    jinja: '{{premise}} Does it follow that {{hypothesis}} ||| {% if label != -1 %}{{answer_choices[label]}}{% endif %}'
    metadata: !TemplateMetadata
      choices_in_prompt: false
      languages: [en]
      metrics: [Accuracy]
      original_task: true
    name: does it follow
    reference: ''
  1111bbbb: !Template
    answer_choices: True ||| False
    id: 1111bbbb
    jinja: '{% if hypothesis %}{{premise}} True or false: {{hypothesis}} ||| {{answer_choices[label]}}{% endif %}'
    metadata: !TemplateMetadata {metrics: [Accuracy], original_task: true}
    name: true or false
    reference: ''
  2222cccc: !Template
    answer_choices: null
    id: 2222cccc
    jinja: 'Write what follows from: {{premise}} ||| {{hypothesis}}'
    metadata: !TemplateMetadata {metrics: [ROUGE], original_task: false}
    name: write
    reference: ''
"""
ROWS = [
    {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0},
    {"premise": "It ||| snows.", "hypothesis": "It is hot.", "label": 1},
    {"premise": "It hails.", "hypothesis": "", "label": -1},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "templates/super_glue/rte"
    place.mkdir(parents=True)
    (place / "templates.yaml").write_text(TEMPLATES, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return tmp_path


def reader(folder: Path, source: str = "rows.jsonl", **options: Any) -> PromptSource:
    rows = {"super_glue_rte": RowSource(str(folder / source))}
    return PromptSource(str(folder / "templates"), **{"rows": rows, **options})


def read(folder: Path, **options: Any) -> list[Example]:
    return list(reader(folder, **options).examples("super_glue_rte"))


def test_every_prompt_of_every_row(folder: Path) -> None:
    yes, true = ("Yes", "No"), ("True", "False")
    follow, either = "does it follow", "true or false"
    task = "super_glue_rte"
    expected = [
        Example(task, f"{task}-0-{follow}", 0, "It rains. Does it follow that It is wet.", ("Yes",), follow, yes, 0),
        Example(task, f"{task}-0-{either}", 0, "It rains. True or false: It is wet.", ("True",), either, true, 0),
        Example(task, f"{task}-1-{follow}", 1, "It ||| snows. Does it follow that It is hot.", ("No",), follow, yes, 1),
        Example(task, f"{task}-1-{either}", 1, "It ||| snows. True or false: It is hot.", ("False",), either, true, 1),
        Example(task, f"{task}-2-{follow}", 2, "", (), follow, skipped=f"template {follow!r} does not apply"),
        Example(task, f"{task}-2-{either}", 2, "", (), either, skipped=f"template {either!r} does not apply"),
    ]
    assert read(folder, prompts="all") == expected
    assert reader(folder).task(task) == Task(
        benchmark="promptsource",
        name=task,
        category="Textual Entailment",
        instruction_level="instance",
        sources=("rte",),
        metric="accuracy",
    )


def test_as_many_prompts_are_drawn_as_there_are_rows(folder: Path) -> None:
    with (folder / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps({**ROWS[0], "premise": f"It rains {n} times."}) + "\n" for n in range(300))
    examples = read(folder)
    assert [example.index for example in examples] == list(range(300))
    assert len({example.id for example in examples}) == 300
    counts = Counter(example.template for example in examples)
    assert sorted(counts) == ["does it follow", "true or false"]
    assert min(counts.values()) > 120  # of 150; 4 standard deviations are 35
    assert examples == read(folder) != read(folder, seed=1)


def test_a_row_gets_a_template_that_applies_to_it(folder: Path) -> None:
    examples = read(folder, original_task=False)
    assert [example.skipped for example in examples] == ["", "", "no template applies"]
    only = read(folder, without={"super_glue_rte": ["does it follow"]})
    assert [example.template for example in only] == ["true or false", "true or false", None]
    assert only[2].skipped == "template 'true or false' does not apply"


def test_a_dataset_without_a_template_of_the_original_task_is_left_out_and_reported(folder: Path) -> None:
    place = folder / "templates/trec"
    place.mkdir()
    text = TEMPLATES.replace("original_task: true", "original_task: false").replace("super_glue\nsubset: rte", "trec")
    (place / "templates.yaml").write_text(text, encoding="utf-8")
    bench = Bench({"promptsource": PromptSource(str(folder / "templates")), "t5": T5("", {"wmt14_ende_v003": "x.tsv"})})
    assert bench.task_names("train") == ["t5/wmt14_ende_v003"]  # and rte is held out
    assert bench.split.excluded["promptsource/trec"] == "no template of the original task"
    assert "1 task does not train, no template of the original task: promptsource/trec" in bench.split.lines()
    alone = InstructionTuningDataModule(PromptSource(str(folder / "templates")), tokenizer="none")
    assert alone.split_lines() == ["1 dataset is left out, no template of the original task: trec"]
    every = PromptSource(str(folder / "templates"), original_task=False)
    assert (every.task_names("train"), every.left_out()) == (["super_glue_rte", "trec"], {})
    named = PromptSource(str(folder / "templates"), {"trec": RowSource("x.jsonl")})
    with pytest.raises(
        ValueError, match=r"none of 3 templates is left .* set original_task to false, or take the task"
    ):
        named.task("trec")
    official = PromptSource(str(folder / "templates"), split="validation")
    assert (official.task_names("train"), official.task_names("validation")) == ([], ["super_glue_rte"])
    assert official._source("super_glue_rte").split == "validation"


def test_templates_that_change_the_task_are_left_out_by_default(folder: Path) -> None:
    assert {e.template for e in read(folder, prompts="all")} == {"does it follow", "true or false"}
    free = [e for e in read(folder, prompts="all", original_task=False) if e.template == "write"]
    assert (free[0].input, free[0].targets, free[0].options, free[0].answer) == (
        "Write what follows from: It rains.",
        ("It is wet.",),
        (),
        None,
    )
    assert reader(folder, original_task=False).task("super_glue_rte").metric == "accuracy"  # as two of three ask


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "saved"])
def test_rows_may_be_a_dataset(folder: Path, suffix: str) -> None:
    dataset = datasets.Dataset.from_list(ROWS)
    dataset = dataset.cast_column("label", datasets.ClassLabel(names=["entailment", "not_entailment"]))
    place = folder / f"rows.{suffix}"
    if suffix == "parquet":
        dataset.to_parquet(place)
    else:
        dataset.save_to_disk(str(folder / "rows.saved"))
        if suffix == "arrow":
            next((folder / "rows.saved").glob("*.arrow")).rename(place)
    assert list(reader(folder, f"rows.{suffix}").examples("super_glue_rte")) == read(folder)


def test_rows_of_another_coding_are_adapted(folder: Path) -> None:
    row = {"pair": {"a": "It rains.", "b": "It is wet."}, "gold": "not"}
    (folder / "other.jsonl").write_text(json.dumps(row))
    source = RowSource(
        str(folder / "other.jsonl"),
        templates="super_glue_rte",
        parent="rte",
        columns={"premise": "pair.a", "hypothesis": "pair.b", "label": "gold"},
        codes={"label": {"entails": 0, "not": 1}},
    )
    benchmark = PromptSource(str(folder / "templates"), {"rte_r1": source}, prompts="all")
    assert [e.targets for e in benchmark.examples("rte_r1")] == [("No",), ("False",)]
    assert (benchmark.task_names("train"), benchmark.task_names("test")) == (["rte_r1"], [])
    assert benchmark.task("rte_r1").parent == "rte"

    source.codes["label"].pop("not")
    with pytest.raises(ValueError, match=r"task rte_r1: .*line 1: 'label' is str 'not', and `codes` has entails"):
        list(benchmark.examples("rte_r1"))
    source.columns["premise"] = "pair.premise"
    with pytest.raises(ValueError, match=r"nothing at 'pair.premise', where `columns` looks for 'premise'"):
        list(benchmark.examples("rte_r1"))


def test_without_rows_every_dataset_is_a_task_of_the_hub(folder: Path) -> None:
    benchmark = PromptSource(str(folder / "templates"))
    assert benchmark.task_names("train") == ["super_glue_rte"]
    file = benchmark._file("super_glue_rte")
    assert (file.dataset, file.subset) == ("super_glue", "rte")


def test_a_fingerprint_follows_rows_templates_and_settings(folder: Path) -> None:
    name = "super_glue_rte"
    prints = [reader(folder).fingerprint(name)]
    assert prints == [reader(folder).fingerprint(name)]
    prints.append(reader(folder, prompts="all").fingerprint(name))
    prints.append(reader(folder, seed=1).fingerprint(name))
    prints.append(reader(folder, without={name: ["does it follow"]}).fingerprint(name))
    with (folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps(ROWS[0]))
    prints.append(reader(folder).fingerprint(name))
    path = folder / "templates/super_glue/rte/templates.yaml"
    path.write_text(TEMPLATES.replace("True or false", "Right or wrong"))
    prints.append(reader(folder).fingerprint(name))
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dataset: super_glue\n", "", "no 'dataset'; none has a similar name"),
        ("    name: write\n", "", "template 2222cccc: no 'name'"),
        ("jinja: 'Write", "jinjas: 'Write", "template 2222cccc: no 'jinja'; nearest: jinjas"),
        ("    answer_choices: null\n", "", "template 2222cccc: no 'answer_choices'"),
        ("{metrics: [ROUGE], original_task: false}", "7", "no valid YAML: expected a mapping node"),
        ("!Template\n", "!!python/object:os.system\n", "could not determine a constructor for the tag"),
        ("!Template\n", "!!python/name:os.system\n", "could not determine a constructor for the tag"),
        (
            "{{premise}} Does",
            "{{premise.__class__}} Does",
            "'does it follow' was stopped: it accesses the attribute",
        ),
        ("{{premise}} Does", "{{premise} Does", "template 'does it follow' does not compile: "),
        (
            "{{premise}} Does",
            "{{premises}} Does",
            "rows.jsonl, line 1: template 'does it follow' reads a column: 'premises'",
        ),
    ],
)
def test_broken_templates_are_rejected_with_their_names(folder: Path, old: str, new: str, message: str) -> None:
    path = folder / "templates/super_glue/rte/templates.yaml"
    assert old in TEMPLATES
    path.write_text(TEMPLATES.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(folder, original_task=False, prompts="all")
    assert str(error.value).startswith("promptsource, task super_glue_rte: ")


def test_a_yaml_of_a_billion_entries_is_named_shortly(folder: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    path = folder / "templates/super_glue/rte/templates.yaml"
    path.write_text(bomb + "dataset: x\ntemplates: {t: *a39}\n")
    with pytest.raises(ValueError, match=r"aliases \(\*name\) repeat its lists to more than 10,000,000 values"):
        read(folder)


def test_broken_rows_are_rejected_with_their_place(folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + '\n{"premise": "It r')
    with pytest.raises(
        ValueError, match=re.escape(f"promptsource, task super_glue_rte: {path}, line 2: not valid JSON")
    ):
        read(folder)
    path.write_text(json.dumps({"premise": "a", "label": 0}))
    with pytest.raises(ValueError, match="'hypothesis' is undefined; the row has label, premise; list the column in"):
        read(folder)
    path.write_bytes(b'{"premise": "\xff"}')
    with pytest.raises(ValueError, match="line 1: not UTF-8 at byte 13"):
        read(folder)
    path.write_text(json.dumps({**ROWS[0], "label": 5}))  # no such choice: an empty answer, as in PromptSource
    assert [example.skipped for example in read(folder)] == ["no template applies"]


def test_an_empty_choice_is_skipped_and_counted(folder: Path) -> None:
    path = folder / "templates/super_glue/rte/templates.yaml"
    path.write_text(TEMPLATES.replace("answer_choices: Yes ||| No", "answer_choices: Yes |||"))
    first = read(folder, prompts="all")[0]
    assert (first.skipped, first.targets, first.template) == ("an answer choice is empty", (), "does it follow")


def test_wrong_names_are_answered_with_the_nearest(folder: Path) -> None:
    benchmark = reader(folder)
    with pytest.raises(
        ValueError, match="promptsource, task super_glue_rt: no such task among 1; nearest: super_glue_rte"
    ):
        benchmark.task("super_glue_rt")
    with pytest.raises(ValueError, match=r"no templates 'super_rte' below .*; nearest: super_glue_rte"):
        reader(folder, rows={"rte_r1": RowSource("x.jsonl", templates="super_rte")}).task("rte_r1")
    with pytest.raises(
        ValueError, match="`without` names 'follow', and the templates are does it follow, true or false"
    ):
        read(folder, without={"super_glue_rte": ["follow"]})
    with pytest.raises(ValueError, match="prompts must be 'one' or 'all', got 'each'"):
        reader(folder, prompts="each")
    with pytest.raises(
        ValueError, match=r"none of 3 templates is left \(original_task is True, `without` leaves out 2\)"
    ):
        read(folder, without={"super_glue_rte": ["does it follow", "true or false"]})
    empty = folder / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"no templates\.yaml below"):
        PromptSource(str(empty)).task_names("train")


def test_a_yaml_names_rows_and_their_columns(folder: Path) -> None:
    """As LightningCLI parses it: rows are dataclasses below a dictionary."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--benchmark", type=Benchmark)
    columns = {"columns": {"premise": "a"}, "codes": {"label": {"yes": 0}}, "constants": {"b": "c"}}
    rows = {"rte": {"source": "rows.jsonl", "templates": "super_glue_rte", **columns}}
    arguments = {"templates": str(folder / "templates"), "rows": rows, "prompts": "all"}
    config = parser.parse_object({"benchmark": {"class_path": "PromptSource", "init_args": arguments}})
    benchmark = parser.instantiate(config).benchmark
    assert isinstance(benchmark, PromptSource)
    assert benchmark._rows == {
        "rte": RowSource(
            "rows.jsonl",
            templates="super_glue_rte",
            columns={"premise": "a"},
            codes={"label": {"yes": 0}},
            constants={"b": "c"},
        )
    }
