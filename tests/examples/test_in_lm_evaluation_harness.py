"""The commands of docs/evaluation.md with lm-evaluation-harness: both programs find the same log-likelihoods."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from own_files import own_model

import crosstask
from crosstask.cli import main

ROOT = Path(crosstask.__file__).parent
PAGE = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    section = PAGE.split("## In lm-evaluation-harness")[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def test_the_harness_finds_the_log_likelihoods_of_a_test(
    toybench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason='needs pip install "crosstask[harness]", as `make test-harness` does')
    from lm_eval.__main__ import cli_evaluate

    monkeypatch.chdir(tmp_path)
    model = Path("runs/fit-1/version_0/huggingface")
    model.parent.mkdir(parents=True)
    own_model(toybench, tmp_path).rename(model)
    options = ["a dog", "two cats", "a very long horse"]
    rows = [{"input": f"Choose {i}.", "options": options, "output": options[i % 3]} for i in range(30)]
    Path("choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    test, write, harness, compare = commands()
    main([*test[1:], "--trainer.accelerator=cpu", "--trainer.devices=1"])
    for words in (write, compare):
        words[1] = str(ROOT / words[1])
    monkeypatch.setattr(sys, "argv", write[1:])
    runpy.run_path(write[1], run_name="__main__")
    monkeypatch.setattr(sys, "argv", [*harness, "--device", "cpu"])
    cli_evaluate()
    comparison = runpy.run_path(compare[1])["compare"](*map(Path, compare[3:]))
    assert comparison.options == 18  # three of each of the six instances that the test holds out
    assert comparison.difference < 1e-4
    assert comparison.choices == 0
