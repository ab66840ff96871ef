"""FLAN's datasets: the columns, options and answers that are made of rows in the form of the hub.

``flan_columns.txt`` is to be read by a person. After a change, print and read it again::

    python tests/datamodules/benchmarks/test_flan_datasets.py > tests/datamodules/benchmarks/flan_columns.txt
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import crosstask
from crosstask.datamodules.benchmarks.flan import FLAN
from crosstask.datamodules.benchmarks.flan_datasets import answered_row, flan_datasets, separate_rows
from crosstask.datamodules.benchmarks.levels.taxonomy import shipped_taxonomy
from crosstask.datamodules.benchmarks.rows.column_mappings import recipe_value
from crosstask.datamodules.benchmarks.rows.row import Row

HERE = Path(__file__).parent
RECIPE = Path(crosstask.__file__).parent / "configs/evaluation/flan.yaml"


def hub_rows() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((HERE / "flan_hub_rows.yaml").read_text(encoding="utf-8"))


def templates_in_upstreams_form(folder: Path) -> Path:
    """A file like flan/templates.py of upstream, with its keys and the columns that its templates read."""
    reads = {(flan_datasets()[name].templates or name): entry["reads"] for name, entry in hub_rows().items()}
    patterns = {}
    for key, columns in reads.items():
        target = next(c for c in columns.split() if c not in ("options_", "options_str"))
        fields = " | ".join(f"{{{c}}}" for c in columns.split() if c != target)
        patterns[key] = [(fields, f"{{{target}}}")] * 10
    path = folder / "templates.py"
    path.write_text(f"import os\nPATTERNS = {patterns!r}\n", encoding="utf-8")
    return path


def made_columns() -> str:
    """The columns that upstream's templates read, made of the rows of the hub."""
    lines = []
    for name, entry in hub_rows().items():
        dataset = flan_datasets()[name]
        for row in separate_rows(iter([Row(entry["row"], name)]), dataset):
            answer = answered_row(row, dataset)
            lines.append(f"{name}{f' (skipped: {answer.skipped})' if answer.skipped else ''}")
            lines += [f"  {column}: {answer.row.value(column)!r}" for column in entry["reads"].split()]
    return "\n".join(lines) + "\n"


def test_every_dataset_of_upstream_is_made_as_the_golden_file_shows() -> None:
    assert set(hub_rows()) == set(flan_datasets())
    assert made_columns() == (HERE / "flan_columns.txt").read_text(encoding="utf-8")


def test_every_dataset_has_a_category_and_templates_under_upstreams_key() -> None:
    upstream = yaml.safe_load((HERE / "upstream_names.yaml").read_text(encoding="utf-8"))["flan"]["names"].split()
    for name, dataset in flan_datasets().items():
        assert {name, dataset.templates or name} <= set(upstream)
        assert shipped_taxonomy().category("flan", name)


def test_the_recipe_of_table_11_reads_what_is_downloaded(tmp_path: Path) -> None:
    """Upstream's templates, and rows in the form of the hub in the files of `crosstask download flan`."""
    collection = yaml.safe_load(RECIPE.read_text())["data"]["init_args"]["benchmark"]["init_args"]
    settings = collection["collections"]["flan"]["init_args"]
    names = sorted(name.partition("/")[2] for column in collection["expected"] for name in column["tasks"])
    (tmp_path / "rows/test").mkdir(parents=True)
    for name in names:
        (tmp_path / f"rows/test/{name}.jsonl").write_text(json.dumps(hub_rows()[name]["row"]) + "\n")
    paths = {"templates": str(templates_in_upstreams_form(tmp_path)), "rows_folder": str(tmp_path / "rows")}
    flan = FLAN(**{**settings, **paths})
    assert flan.task_names("test") == names
    for name in names:
        examples = list(flan.examples(name))
        assert len(examples) == 10
        assert {example.skipped for example in examples} == {""}
        assert all(example.answer is not None for example in examples)
        assert flan.task(name).metric == "accuracy"


def test_rows_in_flans_own_columns_are_kept() -> None:
    ready = {"context": "Ann called because", "options": ["a", "b"], "answer": "b"}
    answer = answered_row(Row(ready, "here"), flan_datasets()["winogrande"])
    assert (answer.options, answer.answer, answer.row.value("context")) == (("a", "b"), 1, "Ann called because")
    words = answered_row(
        Row({"text": "t", "title": "T", "question": "q", "answer": "yes"}, "here"), flan_datasets()["bool_q"]
    )
    assert (words.answer, words.row.value("title")) == (1, "T")


def test_rows_that_upstream_leaves_out_are_skipped() -> None:
    def skipped(name: str, **changes: object) -> str:
        return answered_row(Row({**hub_rows()[name]["row"], **changes}, "here"), flan_datasets()[name]).skipped

    assert skipped("gigaword", document="UNK rose") == "an unknown word or a number sign"
    assert skipped("true_case", translation={"en": "in may."}) == "nothing to correct"
    assert skipped("arc_challenge", choices={"text": ["a", "b", "c"], "label": []}) == "not 4 options"
    assert skipped("sentiment140", sentiment=2) == "no label"
    assert skipped("snli", label=-1) == "no label"
    assert skipped("hellaswag", label="") == "no label"


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("rte", {"premise": "a", "hypothesis": "b"}, "here: no 'label'"),
        (
            "rte",
            {"premise": "a", "label": "true"},
            "the label is 'true', and there are 2 options, and the codes are entail",
        ),
        ("ag_news_subset", {"label": 0, "title": "T", "description": "d"}, "the label is 0, and there are 4 options"),
        ("hellaswag", {"label": 1, "ctx": "c"}, "expected a list of options at endings, or FLAN's"),
        ("quac", {"questions": ["a"], "orig_answers": {"texts": []}}, "should be lists of equal length, got [0, 1]"),
        ("stsb", {"label": "much"}, "expected a number to make a column from, got str 'much'"),
        ("imdb_reviews", {"text": 3, "label": 0}, "expected text to make a column from, got int 3"),
    ],
)
def test_rows_with_other_columns_are_rejected_by_name(name: str, row: dict[str, object], message: str) -> None:
    dataset = flan_datasets()[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        [answered_row(one, dataset) for one in separate_rows(iter([Row(row, "here")]), dataset)]


def test_an_unknown_step_is_named() -> None:
    with pytest.raises(ValueError, match="no step 'befor' to make a column; nearest: before"):
        recipe_value(Row({"a": "x"}, "here"), {"from": "a", "befor": "x"})


if __name__ == "__main__":
    print(made_columns(), end="")
