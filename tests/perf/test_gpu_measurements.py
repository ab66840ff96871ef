"""The script that measures on a GPU, at toy size; and the page that it writes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "perf" / "gpu"))

import fit_speed  # noqa: E402
from measure import SECTIONS, run  # noqa: E402
from page import BEGIN, END, replaced, section  # noqa: E402


def test_the_script_measures_at_toy_size_and_leaves_the_page(tmp_path: Path) -> None:
    """One section of training; `make perf` runs them all, whose peers are installed there."""
    results = tmp_path / "gpu.json"
    page = (ROOT / "docs" / "performance.md").read_text()
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    words = ["bash", str(ROOT / "perf" / "gpu.sh"), str(results), "--toy", "--sections", "training_6.7b"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [measured] = json.loads(results.read_text())["sections"]["training_6.7b"]["results"]
    assert measured["program"] == "crosstask"
    assert measured["tokens_per_second"] > 0
    assert "recomputed true" in done.stdout
    assert (ROOT / "docs" / "performance.md").read_text() == page


def test_a_recipe_trains_and_validates_at_toy_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", SECTIONS["fit_1.3b"].toy)
    fit_speed.main()
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["tokens_per_second"] > 0
    assert 0 < measured["waiting_for_data"] < 1
    assert measured["graphs_after_it"] == 0
    entry = {"machine": dict.fromkeys(("device", "torch", "transformers", "date"), ""), "sections": {}}
    text = section(entry | {"sections": {"fit_1.3b": {"results": [measured]}}})
    assert "In `crosstask fit` of opt_iml_1.3b, the host waits" in text
    assert "| crosstask fit, opt_iml_1.3b | 2 x 1 |" in text


@pytest.mark.parametrize("name", [name for name, section in SECTIONS.items() if section.command[0].endswith(".py")])
def test_a_section_passes_only_words_that_its_script_knows(name: str) -> None:
    for words in (SECTIONS[name].command, SECTIONS[name].toy):
        source = (ROOT / "perf" / words[0]).read_text()
        unknown = {word.partition("=")[0] for word in words[1:] if word.startswith("--")} - set(
            re.findall(r'add_argument\(\s*"(--[a-z_]+)"', source)
        )
        assert not unknown


def test_the_page_says_what_each_section_shows() -> None:
    page = (ROOT / "docs" / "performance.md").read_text().partition("## On a GPU")[2].partition(BEGIN)[0]
    listed = [name for line in page.splitlines() for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])]
    assert {name for name in listed if name in SECTIONS} == set(SECTIONS)


def test_all_sections_end_within_nine_minutes() -> None:
    from measure import BUDGET

    assert BUDGET < 9 * 60
    assert all(section.limit < BUDGET for section in SECTIONS.values())


def test_a_section_that_fails_is_recorded() -> None:
    assert run(["-c", "print('{\"benchmark\": 1}')"], 60)["results"] == [{"benchmark": 1}]
    logs = "print({'train_runtime': 1.5}); print('[1]'); print('{\"benchmark\": 1}')"
    assert run(["-c", logs], 60)["results"] == [{"benchmark": 1}]  # TRL's trainer prints its logs as Python's dicts
    assert run(["-c", "raise SystemExit('no peer')"], 60)["error"] == "no peer"
    assert run(["-c", "import os; os.abort()"], 60)["error"] == "it ended by -6"


def test_a_section_that_takes_too_long_keeps_its_results_and_leaves_no_worker() -> None:
    worker = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])"
    found = run(["-c", f"{worker}; print('{{\"benchmark\": 1}}'); time.sleep(100)"], 4)
    assert found["results"] == [{"benchmark": 1}]
    assert found["error"] == "no end within 4 s"
    assert found["seconds"] < 90  # a worker would keep the output open


def test_the_page_has_a_row_for_each_result() -> None:
    setting = {"size": "1.3b", "rows": 8, "batches": 4, "compile": True, "recompute": "false"}
    training = {"benchmark": "training", "program": "crosstask", "setting": setting, "tokens_per_second": 31234.5}
    peer = {"benchmark": "scoring", "ours": 20.0, "peer": 10.0, "ratio": 2.0, "unit": "pairs/s", "setting": "x"}
    theirs = {**training, "program": "trl", "attention": "sdpa", "utilization": None, "peak_gib": 70.1}
    results: dict[str, Any] = {
        "machine": {"device": "NVIDIA H200", "torch": "2.13", "transformers": "5.23", "date": "2026-11-30"},
        "sections": {
            "training_1.3b": {"results": [training | {"utilization": 0.523, "peak_gib": 61.2}]},
            "training_llama_trl": {"results": [theirs]},
            "scoring": {"results": [peer]},
            "bilevel": {"error": "no result within 50 s"},
        },
    }
    text = section(results)
    assert "| crosstask, 1.3b, compiled | 4 x 8 | 31,234 | 52.3% | 50.0% | 61.2 |" in text
    assert "| trl, 1.3b, attention sdpa, compiled | 4 x 8 | 31,234 |  |  | 70.1 |" in text
    assert "| scoring | 20.00 | 10.00 | 2.00 | pairs/s | x |" in text
    assert "`bilevel`: no result within 50 s" in text
    assert replaced(f"a\n{BEGIN}\nold\n{END}\nb\n", "new") == f"a\n{BEGIN}\nnew\n{END}\nb\n"
    with pytest.raises(ValueError, match="the page has no section between"):
        replaced("a page", "new")
