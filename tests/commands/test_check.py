"""`crosstask check` on a user's own files: what is wrong is named with its place, and decides the exit status."""

import json
from pathlib import Path

import pytest

from crosstask.cli import main


def chats(count: int) -> list[dict[str, list[dict[str, str]]]]:
    return [
        {"messages": [{"role": "user", "content": f"Hello {number}"}, {"role": "assistant", "content": "Hi"}]}
        for number in range(count)
    ]


def write(path: Path, rows: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_is_checked_by_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*chats(12), {"messages": []}, {"messages": None}]
    main(["check", str(write(tmp_path / "mine.jsonl", rows))])
    shown = capsys.readouterr().out
    assert shown.startswith("1 task (1 train, 1 test); 12 examples can be used\n")
    assert "the form of the rows is messages" in shown
    assert "skipped: 1 of 14 in mine, " in shown
    assert "first: " in shown
    assert "mine.jsonl, line 13" in shown


def test_columns_are_mapped_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "qa.jsonl", [{"question": f"q {number}", "answer": number} for number in range(12)])
    main(["check", str(path), "--columns", "{input: question, output: answer}"])
    mapped = [f"--data.benchmark.source={path}", "--data.benchmark.columns={input: question, output: answer}"]
    main(["check", "--data.benchmark=FileTasks", *mapped])  # without a tokenizer
    shown = capsys.readouterr().out
    assert shown.count("12 examples can be used") == 2


@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv", "mine.jsonl"])
def test_a_table_is_no_settings_although_yaml_reads_it_as_text(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = {"mine.csv": "input,output\n", "mine.tsv": "input\toutput\n"}
    rows = {
        "mine.csv": "count {n},{n}\n",
        "mine.tsv": "count {n}\t{n}\n",
        "mine.jsonl": '{{"input": "{n}", "output": "b"}}\n',
    }
    path = tmp_path / name
    path.write_text(lines.get(name, "") + "".join(rows[name].format(n=n) for n in range(12)))
    main(["check", "--data.benchmark", str(path)])
    settings = {"class_path": "InstructionTuningDataModule", "init_args": {"benchmark": str(path)}}
    (tmp_path / "run.yaml").write_text(json.dumps({"data": settings}))
    main(["check", "--config", str(tmp_path / "run.yaml")])
    assert capsys.readouterr().out.count("12 examples can be used") == 2


def test_a_broken_line_is_named_and_is_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data/train/good.jsonl", list(chats(12)))
    bad = write(tmp_path / "data/train/bad.jsonl", list(chats(3)))
    bad.write_text(bad.read_text() + '{"messages": [{"role": "user"\n')
    with pytest.raises(SystemExit) as end:
        main(["check", str(tmp_path / "data")])
    assert end.value.code == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("error: ")
    assert "bad.jsonl, line 4" in last


def test_test_examples_that_train_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"input": f"question {number}", "output": "answer"} for number in range(12)]
    write(tmp_path / "data/train/mine.jsonl", list(rows))
    write(tmp_path / "data/test/held.jsonl", [*rows[:3], *({"input": f"new {n}", "output": "a"} for n in range(9))])
    (tmp_path / "data/notes.csv.bak.csv").write_text("a,b\n")
    main(["check", str(tmp_path / "data")])
    shown = capsys.readouterr().out
    assert "duplicates: 3 test examples of held have the input of a training example of mine, e.g. held-0" in shown
    assert "data file not read in" in shown
    with pytest.raises(ValueError, match="no reader or file is called 'nothing'"):
        main(["check", "nothing"])


def test_the_benchmark_of_a_run(toybench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = f'{{"class_path": "NaturalInstructions", "init_args": {{"folder": "{toybench}"}}}}'
    words = ["--data", "InstructionTuningDataModule", "--data.benchmark", benchmark, "--data.tokenizer", "none"]
    main(["check", *words])
    assert " examples can be used" in capsys.readouterr().out
