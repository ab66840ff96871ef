"""The commands of docs/commands.md run, on a small model, in the folder of a run."""

import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import SmallRuns, saved_run

import crosstask
from crosstask.cli import main

PAGE = (Path(crosstask.__file__).parent / "docs/commands.md").read_text(encoding="utf-8")


def lines_of(language: str) -> list[str]:
    return [
        line for block in re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()
    ]


def test_the_commands_of_the_page_run(
    toybench: Path,
    tmp_path: Path,
    tiny_model: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved_run(SmallRuns(toybench, tmp_path, tiny_model)("tuning"), tmp_path / "runs/quickstart/checkpoints/last.ckpt")
    monkeypatch.chdir(tmp_path)
    Path("my.jsonl").write_text("".join(f"{line}\n" for line in lines_of("json")))
    commands = lines_of("bash")
    assert {shlex.split(line.rpartition("| ")[2])[1] for line in commands} == {
        *("doctor", "toybench", "check", "inspect", "predict", "chat", "export")
    }
    for line in commands:
        typed, _, command = line.rpartition("| ")
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{word}\n" for word in shlex.split(typed)[1:])))
        words = shlex.split(command)[1:]
        main([*words, "--instances", "130"] if words[0] == "toybench" else words)
    shown = capsys.readouterr().out
    assert "nothing is broken" in shown
    assert "examples can be used" in shown
    assert "default-src 'none'" in Path("runs/quickstart/inspect.html").read_text()
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [("answer" in answer, answer.get("id")) for answer in answers] == [(True, "a"), (True, None)]
    assert "crosstask chat me/quickstart" in Path("runs/quickstart/published/README.md").read_text()
