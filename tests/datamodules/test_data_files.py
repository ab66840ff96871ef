"""Text and JSON of data files: what Python's own reader would accept silently is rejected with file and line."""

import ast
import gzip
import json
import re
from pathlib import Path

import pytest

import crosstask
from crosstask.datamodules import data_files
from crosstask.datamodules.benchmarks import FileTasks, NaturalInstructions
from crosstask.datamodules.data_files import format_of, listed_lines, parse_json, read_json, read_text, text_lines
from crosstask.datamodules.scoring.samples import read_samples

ROOT = Path(crosstask.__file__).parent

PRETTY = '{"note": "} NaN 1e999 \\" \\\\",\n "before": {"input": 1},\n "value":\n  %s\n}'
"""A document whose fourth line holds a value; the texts before it would mislead a search for the place."""

REJECTED = {
    '{"input": "a", "output": "b", "input": "c"}': "the key 'input' occurs twice in an object",
    '{"": 1, "": 1}': "the key '' occurs twice",
    "NaN": "NaN is not a JSON number; write null",
    "-Infinity": "-Infinity is not a JSON number",
    "1e999": "the number '1e999' is larger than a float can be",
    "-2.5E400": "the number '-2.5E400' is larger",
    "-" + "7" * 5000: "a whole number of more than 4300 digits",
    '"so \\ud83d so"': "\\ud83d is half of a surrogate pair",
    '"\\ude00\\ud83d"': "\\ude00 is half of a surrogate pair",
    '"\\\\\\udfff"': "\\udfff is half of a surrogate pair",
    "[1, 2": "not valid JSON at column ",
}


@pytest.mark.parametrize("value", REJECTED, ids=[message[:24] for message in REJECTED.values()])
def test_what_json_leaves_open_is_rejected_with_its_line(value: str, tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text(PRETTY % value)
    line = 5 if value == "[1, 2" else 4  # a list that is left open is wrong where the next thing comes
    with pytest.raises(ValueError, match=re.escape(f"{path}, line {line}: {REJECTED[value]}")):
        read_json(path)
    rows = tmp_path / "train/rows.jsonl"
    rows.parent.mkdir()
    rows.write_text(f'{{"input": "a", "output": "b"}}\n{{"input": "c", "output": {value}}}\n')
    with pytest.raises(ValueError, match=re.escape(f"{rows}, line 2: ")):
        list(FileTasks(str(tmp_path)).examples("rows"))


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"b":['])
def test_deep_nesting_is_rejected_and_does_not_end_the_process(opening: str) -> None:
    with pytest.raises(ValueError, match=r"^deep\.jsonl, line 3: lists and objects are nested too deeply"):
        parse_json(opening * 100_000, "deep.jsonl, line 3")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\\\ud83d"', "\\ud83d"),  # a backslash and five letters
        ('"\\\\\\ud83d\\ude00"', "\\😀"),
        ('[{"a": 1}, {"a": 2}, {"a": {"a": 3}}]', [{"a": 1}, {"a": 2}, {"a": {"a": 3}}]),
        ('"NaN"', "NaN"),
        ("1e308", 1e308),
        ("9" * 4300, int("9" * 4300)),
    ],
)
def test_what_json_allows_is_read(text: str, value: object) -> None:
    assert parse_json(text, "a") == value


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named(encoding: str, tmp_path: Path) -> None:
    """Python's json reads UTF-16, and its csv reads the zero bytes between the letters."""
    path = tmp_path / "rows.tsv"
    path.write_bytes("question\tanswer\nwhere\there\n".encode(encoding))
    with pytest.raises(ValueError, match=rf"line 1: (UTF-..|a zero byte, as in UTF-16).*{'save the file as UTF-8'}"):
        list(text_lines(path))
    path.write_bytes('{"question": "where"}'.encode(encoding))
    with pytest.raises(ValueError, match=r"(UTF-..|zero byte).*save the file as UTF-8"):
        read_json(path)


def test_a_byte_order_mark_belongs_to_no_value(tmp_path: Path) -> None:
    """Windows editors write it: the first name of a list of tasks would be unknown."""
    lists = tmp_path / "splits/default"
    lists.mkdir(parents=True)
    (lists / "train_tasks.txt").write_text("task1\ntask2\n", encoding="utf-8-sig")
    (tmp_path / "tasks").mkdir()
    for name in ("task1", "task2"):
        (tmp_path / f"tasks/{name}.json").write_text("{}", encoding="utf-8-sig")
    assert NaturalInstructions(str(tmp_path)).task_names("train") == ["task1", "task2"]
    assert listed_lines(lists / "train_tasks.txt")[0] == (1, "task1")
    assert read_text(tmp_path / "tasks/task1.json") == "{}"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'{"a": "caf\xe9"}', ": not UTF-8 at byte 10"),
        (b'{"a": 1,\n "b": "\xed\xa0\x80"}', ", line 2: not UTF-8 at byte 16"),
    ],
)
def test_bytes_that_are_not_utf8_are_named(content: bytes, place: str, tmp_path: Path) -> None:
    """Latin-1, and a surrogate in the bytes themselves."""
    path = tmp_path / "task.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}{place}")):
        read_json(path)


def test_compressed_files_are_read_and_cut_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.JSONL.gz"
    path.write_bytes(gzip.compress(b'{"input": "a"}\n' * 1000))
    assert (format_of(path), len(list(text_lines(path)))) == (".jsonl", 1000)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cannot be decompressed .*mend the file or fetch it again"):
        list(text_lines(path))
    path.write_bytes(b"not compressed")
    with pytest.raises(
        ValueError, match=r"cannot be decompressed .*if it is not compressed, leave \.gz out of its name"
    ):
        read_text(path)


@pytest.mark.parametrize("content", [b" ", b'{"input": "a"}\n'])
def test_a_small_file_that_expands_without_end_is_left(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of a stranger: 10 MB that become 10 GB, for memory or for an hour."""
    monkeypatch.setattr(data_files, "MOST_EXPANDED", 2**22)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(b"".join([gzip.compress(content * 2**21, compresslevel=9)] * 3))
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz: expands to more than 400 times its size"):
        read_text(path)
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz: expands to more than 400 times its size"):
        list(text_lines(path))
    path.write_bytes(gzip.compress(content * 2**15))  # small files may be all alike
    assert len(read_text(path)) == len(content) * 2**15


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"task": "t", "id": "1", "response": "a", "response": "b"}', "the key 'response' occurs twice"),
        (b'{"task": "t", "id": "1", "response": "a", "log_likelihood": NaN}', "NaN is not a JSON number"),
        (b'{"task": "t", "id": "1", "response": "\\udc80"}', "half of a surrogate pair"),
    ],
)
def test_samples_are_read_by_the_same_rules(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'{"task": "t", "id": "0", "response": "a"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=f"samples.jsonl:2: .*{message}"):
        list(read_samples([path]))


def test_no_other_file_reads_json() -> None:
    """Where Python's own reader is called, a new format would get none of these rules."""
    round_trips = {
        "answer_file.py",
        "resumed_settings.py",
        "scorer_records.py",
        "special_tokens.py",
        "sweep_collections.py",
        "generation_settings.py",
        "prepared_starts.py",  # sealed, as the next one is
        "stored_evaluation.py",
    }
    allowed = {"data_files.py", *round_trips, "step_dumps.py"}  # the numbers of a dump may be NaN
    for room in ("datamodules", "lightning_modules", "callbacks", "commands"):
        for path in (ROOT / room).rglob("*.py"):
            calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            names = {ast.unparse(call) for call in calls}
            assert not names & {"json.load", "json.loads"} or path.name in allowed, path


def test_an_error_names_the_last_bytes_of_a_long_document_quickly() -> None:
    """The place is only searched once there is an error, and then in one pass."""
    record = {"input": 'a "quoted" } text', "output": ["b", "c"]}
    text = json.dumps([record] * 20_000, indent=1).replace('"b"', '{"b": 1, "b": 2}', -1)
    with pytest.raises(ValueError, match=r"line 5: the key 'b' occurs twice"):
        parse_json(text, "long.json")
