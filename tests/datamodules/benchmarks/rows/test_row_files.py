import gzip
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import datasets
import pytest

from crosstask.datamodules import data_files
from crosstask.datamodules.benchmarks.rows.row import Row, error_prefix
from crosstask.datamodules.benchmarks.rows.row_files import json_rows, read_rows, table_rows
from crosstask.datamodules.benchmarks.rows.source_digests import source_digest
from crosstask.datamodules.file_digests import file_digest

FIELDS = [{"text": "one", "label": 0}, {"text": "zwei – two", "label": 1}]


def fields(found: Iterator[Row]) -> list[dict[str, object]]:
    return [dict(row.fields) for row in found]


@pytest.fixture(params=["jsonl", "json", "tsv", "csv", "parquet", "arrow", "folder", "folder of splits"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same two rows in every form that a user may have them in."""
    path = tmp_path / f"rows.{request.param}"
    dataset = datasets.Dataset.from_list(FIELDS)
    match request.param:
        case "jsonl":
            path.write_text("\n".join(json.dumps(row) for row in FIELDS) + "\n\n", encoding="utf-8")
        case "json":
            path.write_text(json.dumps(FIELDS, ensure_ascii=False), encoding="utf-8-sig")
        case "tsv":
            path.write_bytes("text\tlabel\r\none\t0\r\nzwei – two\t1\r\n".encode())
        case "csv":
            path.write_text('text,label\none,0\n"zwei – two",1\n', encoding="utf-8-sig")
        case "parquet":
            dataset.to_parquet(path)
        case "arrow":
            dataset.save_to_disk(str(tmp_path / "saved"))
            next((tmp_path / "saved").glob("*.arrow")).rename(path)
        case "folder":
            dataset.save_to_disk(str(path))
        case "folder of splits":
            datasets.DatasetDict({"train": dataset}).save_to_disk(str(path))
    return str(path)


def test_every_form_of_a_source_gives_the_same_rows(source: str) -> None:
    found = list(read_rows(source, split="train"))
    assert [(row.text("text"), row.integer("label")) for row in found] == [("one", 0), ("zwei – two", 1)]
    assert all(row.location.startswith(source) for row in found)
    assert source_digest(source, split="train") == source_digest(source, split="train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", '{"text": "a"}\n{"text": "b"}\n', "if every line is an object, name the file .jsonl"),
        ("rows.json", '{"version": 1, "data": [{"text": "a"}]}', "save the list under 'data' alone in a file"),
        ("rows.json", '{"text": ["a"], "label": ["b"]}', "these are columns: save rows, as pandas does with"),
        ("rows.tsv", "text,label\na,0\n", "which ',' would divide; save the table with tabs, or with commas as .csv"),
        (
            "rows.jsonl",
            '[\n {"text": "a"}\n]',
            "line 1: not valid JSON at column 2: Expecting value; if the file is one list",
        ),
        ("rows.jsonl", '[{"text": "a"}]', "of objects, end its name in .json"),
        ("rows.csv", "text;label\na;0\n", "which ';' would divide; save the table with commas, or with tabs as .tsv"),
    ],
)
def test_a_file_of_another_format_is_named_with_the_way_out(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        list(read_rows(str(tmp_path / name)))


def test_rows_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": \xff}\n')
    assert fields(islice(read_rows(str(path)), 2)) == [{"a": 1}, {"a": 2}]
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 3: not UTF-8 at byte 6")):
        list(read_rows(str(path)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n\n{"a": ', "line 3: not valid JSON at column 7: Expecting value; mend the file"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2: expected an object with named fields, got list [1]"),
        ("a.json", b'[{"a": 1},\n {"a"', ", line 2: not valid JSON at column 6"),
        ("a.json", b'{"a": 1}', ": expected a list of objects, got dict {'a': 1}"),
        ("a.json", b'[{"a": 1}, "b"]', "record 1: expected an object with named fields, got str 'b'"),
        ("a.json", "[{'a': 'é'}]".encode("latin-1"), ": not UTF-8 at byte 8; save the file as UTF-8"),
        ("a.tsv", b"a\tb\n1\t2\n3\n", "line 3: expected 2 values (a, b), got 1: list ['3']"),
        ("a.csv", b"a,b\n1,2,3\n", "line 2: expected 2 values (a, b), got 3: list ['1', '2', '3']"),
        ("a.csv", b'a,b\n1,"2\n\n3,4\n', "line 2: unexpected end of data; is a quotation mark left open?"),
        ("a.csv", b"a,a\n1,2\n", ": the header names a column twice: a, a"),
        ("a.parquet", b"PAR1", "; mend the file or fetch it again"),
        ("a.jsonl", gzip.compress(b"{}"), ", line 1: gzip by its first bytes; end its name in .gz"),
        ("a.csv", b"PAR1\x15\x04", ", line 1: Parquet by its first bytes; end its name in .parquet"),
        ("a.csv", b"PK\x03\x04\x14", ", line 1: a ZIP archive (as of Excel) by its first bytes; unpack it, or save"),
        ("a.json", gzip.compress(b"{}"), ": gzip by its first bytes; end its name in .gz"),
        ("a.txt", b"1", ": expected a file of rows, with one of the endings .jsonl, .json, .tsv"),
    ],
)
def test_a_broken_file_is_rejected_with_its_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        list(read_rows(str(path)))
    assert str(error.value).startswith(str(path))


def test_a_line_without_end_is_rejected_before_it_fills_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "LONGEST_LINE", 2**20)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "' + b"x" * 2**20)
    with pytest.raises(ValueError, match=r"line 2: longer than 1 MiB; expected one record a line"):
        list(read_rows(str(path)))


def test_a_quoted_value_holds_separators_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"say ""a, b""\nand",2\nlast,3\n', encoding="utf-8")
    found = list(table_rows(path, ["a", "b"]))
    assert [dict(row.fields) for row in found] == [{"a": 'say "a, b"\nand', "b": "2"}, {"a": "last", "b": "3"}]
    assert [row.location for row in found] == [f"{path}, line 1", f"{path}, line 3"]


def test_a_tsv_keeps_quotation_marks(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('"a\t2\n', encoding="utf-8")
    assert fields(table_rows(path, ["a", "b"])) == [{"a": '"a', "b": "2"}]


def test_records_may_stand_under_a_key(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"examples": [{"a": 1}], "canary": "x"}', encoding="utf-8")
    assert fields(json_rows(path, "examples")) == [{"a": 1}]
    with pytest.raises(ValueError, match=re.escape(f"{path}: no 'example'; nearest: examples")):
        list(json_rows(path, "example"))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda row: row.text("txt"), "no 'txt'; nearest: text; there are text, label"),
        (lambda row: row.text("label"), "'label' should be text, got int 7"),
        (lambda row: row.texts("label"), "'label' should be text or a list of texts, got int 7"),
        (lambda row: row.integer("text"), "'text' should be a whole number, got str 'one'"),
        (lambda row: row.integer("yes"), "'yes' should be a whole number, got bool True"),
    ],
)
def test_a_wrong_field_is_rejected_with_its_row(read: object, message: str) -> None:
    row = Row({"text": "one", "label": 7, "yes": True}, "rte.jsonl, line 7")
    with (
        pytest.raises(ValueError, match=re.escape(f"bench, task rte: rte.jsonl, line 7: {message}")),
        error_prefix("bench", "rte"),
    ):
        read(row)  # type: ignore[operator]


def test_defaults_stand_for_missing_fields_only() -> None:
    row = Row({"text": "one", "many": ["a", "b"], "number": "-3"}, "here")
    assert (row.text("text", default="two"), row.text("other", default="two")) == ("one", "two")
    assert (row.texts("text"), row.texts("many"), row.texts("other", default=())) == (("one",), ("a", "b"), ())
    assert row.integer("number") == -3


def test_a_missing_file_is_no_name_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(ValueError, match=re.escape(f"no row.jsonl in {tmp_path}, which holds rows.jsonl")):
        list(read_rows(str(tmp_path / "row.jsonl")))
    with pytest.raises(ValueError, match=re.escape(f"the path exists as far as {tmp_path}")):
        list(read_rows(str(tmp_path / "no/row.jsonl")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty, cannot be opened: EmptyDatasetError: "):
        list(read_rows(str(tmp_path / "empty")))


def test_a_folder_of_splits_names_them(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": datasets.Dataset.from_list(FIELDS)}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="holds the splits train; set `split` to one of them, got 'dev'"):
        list(read_rows(str(tmp_path / "saved"), split="dev"))


def test_a_digest_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    before = file_digest(path)
    assert before == file_digest(path)
    path.write_text('{"a": 21}\n')
    assert file_digest(path) != before


HUB = """\
---
configs:
- config_name: easy
  data_files: [{split: train, path: easy.parquet}, {split: test, path: easy_test.parquet}]
- config_name: hard
  data_files: [{split: train, path: hard.parquet}]
---
"""


def test_a_copy_of_a_dataset_of_the_hub_has_its_configurations_and_splits(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(HUB)
    for name in ("easy", "easy_test", "hard"):
        datasets.Dataset.from_list([{"name": name, "answers": {"text": ["a"]}}]).to_parquet(
            tmp_path / f"{name}.parquet"
        )
    found = [
        [row.fields["name"] for row in read_rows(str(tmp_path), config=config, split=split)]
        for config, split in (("easy", "train"), ("easy", "test"), ("hard", None))
    ]
    assert found == [["easy"], ["easy_test"], ["hard"]]
    with pytest.raises(ValueError, match=r"Bad split: dev\. Available splits: \['train', 'test'\]"):
        list(read_rows(str(tmp_path), config="easy", split="dev"))
    with pytest.raises(ValueError, match="BuilderConfig 'easie' not found"):
        list(read_rows(str(tmp_path), config="easie"))


def test_a_missing_folder_is_named_with_the_file_that_should_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder \S+/none, where rows.csv should be; the path exists as far as"):
        next(read_rows(str(tmp_path / "none/rows.csv")))
