import json
import re
from pathlib import Path

import pytest

from crosstask.datamodules.benchmarks.rows.dataset_forms import multirc, record, wino_bias
from crosstask.datamodules.benchmarks.templates.template_rows import RowSource, template_rows

PASSAGE = {
    "passage": {
        "text": "Ann met Bob.",
        "questions": [{"question": "Who?", "answers": [{"text": "Ann", "label": 1}, {"text": "Eve", "label": 0}]}],
        "entities": [{"start": 8, "end": 10}, {"start": 0, "end": 2}, {"start": 0, "end": 2}],
    },
    "qas": [{"query": "@placeholder met Bob.", "answers": [{"text": "Ann"}, {"text": "Ann"}]}],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.jsonl").write_text(json.dumps(PASSAGE) + "\n")
    return tmp_path / "a.jsonl"


def test_a_passage_is_a_row_for_each_answer_or_query(path: Path) -> None:
    question = {"paragraph": "Ann met Bob.", "question": "Who?"}
    assert [dict(row.fields) for row in multirc(path)] == [
        {**question, "answer": "Ann", "label": 1},
        {**question, "answer": "Eve", "label": 0},
    ]
    query = {"passage": "Ann met Bob.", "query": "@placeholder met Bob."}
    assert [dict(row.fields) for row in record(path)] == [{**query, "entities": ["Ann", "Bob"], "answers": ["Ann"]}]


def test_brackets_become_spans_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "pro.txt.dev"
    path.write_text("1 The cook liked [the new guard] 's car, so [he] kept [his] promise.\n\n")
    (row,) = wino_bias(path)
    tokens = "The cook liked the new guard 's car , so he kept his promise .".split()
    assert dict(row.fields) == {"tokens": tokens, "coreference_clusters": ["3", "5", "10", "10", "12", "12"]}
    path.write_text("1 The cook liked [the guard].\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 1: expected a person and a pronoun in brackets")):
        list(wino_bias(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"passage": "text"}, "line 1: 'passage' should be an object, got str 'text'"),
        ({"qas": {}}, "line 1: 'qas' should be a list of objects, got dict {}"),
        ({"qas": [{"query": "a", "answers": ["b"]}]}, "line 1, qas[0]: 'answers'[0] should be an object, got str 'b'"),
        ({"qas": [{"answers": []}]}, "line 1, qas[0]: no 'query'"),
    ],
)
def test_a_wrong_passage_is_rejected_with_its_place(path: Path, change: dict[str, object], message: str) -> None:
    path.write_text(json.dumps({**PASSAGE, **change}))
    with pytest.raises(ValueError, match=re.escape(f"{path}, {message}")):
        list(record(path))


def test_a_row_source_names_its_form(path: Path) -> None:
    assert len(list(template_rows(RowSource(str(path), form="multirc"), "x"))) == 2
    with pytest.raises(ValueError, match="no form 'squad' of rows; there are multirc, record, wino_bias"):
        list(template_rows(RowSource(str(path), form="squad"), "x"))
    with pytest.raises(ValueError, match=r"no file x, whose rows should be of the form 'record'"):
        list(template_rows(RowSource(form="record"), "x"))
