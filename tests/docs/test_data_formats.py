"""Every example of docs/data_formats.md, "Your own files", is read as the page says."""

import re
from pathlib import Path

import pytest
import yaml

import crosstask
from crosstask.datamodules.benchmarks import FileTasks
from crosstask.datamodules.schema import Turn

PAGE = (Path(crosstask.__file__).parent / "docs/data_formats.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Your own files")[2].partition("\n## ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, flags=re.DOTALL)


FORMS = re.findall(r"^`(\w+)`[^\n]*:\n```json", SECTION, flags=re.MULTILINE)


@pytest.mark.parametrize(("form", "line"), zip(FORMS, blocks("json"), strict=True))
def test_every_form_is_read(form: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(line)
    reader = FileTasks(str(tmp_path / "mine.jsonl"))
    (example,) = reader.examples("mine")
    assert reader.unread_lines() == [f"mine: the form of the rows is {form}"]
    assert "Hello" in example.input
    assert example.targets[0] == "Hi"
    turns = (Turn("user", "Hello"), Turn("assistant", "Hi")) if form in ("messages", "sharegpt") else ()
    assert example.turns == turns


def test_the_table_is_read(tmp_path: Path) -> None:
    (table,) = blocks("csv")
    (tmp_path / "mine.csv").write_text(table)
    assert [example.input for example in FileTasks(str(tmp_path / "mine.csv")).examples("mine")] == [
        "Answer politely.\nHello"
    ]


def test_the_mapped_table_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("questions.csv").write_text("question,answer\nHello,Hi\n")
    settings = yaml.safe_load(blocks("yaml")[1])["benchmark"]["init_args"]
    (example,) = FileTasks(**settings).examples("questions")
    assert (example.input, example.targets) == ("Hello", ("Hi",))
