"""The example on real tasks: nobody picks them."""

import json
import runpy
from pathlib import Path
from typing import Any

import crosstask

EXAMPLE = runpy.run_path(str(Path(crosstask.__file__).parent / "experiments" / "adapt_on_real_tasks.py"))


def record(**changed: Any) -> dict[str, Any]:
    instances = [{"input": "How many are there?", "output": [f"{number} of them"]} for number in range(100)]
    english = {"Input_language": ["English"], "Output_language": ["English"]}
    return {
        "Definition": ["Count."],
        "Categories": ["Question Answering"],
        "Instances": instances,
        **english,
        **changed,
    }


def test_what_is_drawn_from() -> None:
    eligible = EXAMPLE["is_eligible"]
    same = [{"input": "Is it?", "output": ["yes"]}] * 100
    assert eligible(record())
    assert not eligible(record(Instances=same))  # a classification
    assert not eligible(record(Output_language=["German"]))
    assert not eligible(record(Categories=["Program Execution"]))
    assert not eligible(record(Definition=["word " * 100]))


def test_more_tasks_are_the_same_and_others(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"task{number}.json").write_text(json.dumps(record()))
    drawn = EXAMPLE["drawn_tasks"]
    assert drawn(tmp_path, 8)[:3] == drawn(tmp_path, 3)
    assert len(set(drawn(tmp_path, 8))) == 8
