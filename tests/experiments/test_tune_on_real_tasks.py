"""The experiment on a published model: which tasks it draws, its intervals and its table."""

import json
import runpy
from pathlib import Path
from typing import Any

import crosstask

EXPERIMENT = runpy.run_path(str(Path(crosstask.__file__).parent / "experiments" / "tune_on_real_tasks.py"))
Answered = EXPERIMENT["Answered"]


def record(category: str = "Question Answering", **changed: Any) -> dict[str, Any]:
    instances = [{"id": f"i{number}", "input": f"{number} + 1", "output": [f"{number + 1}"]} for number in range(60)]
    demonstrations = [{"input": "1 + 1", "output": "2", "explanation": ""}]
    return {
        "Categories": [category],
        "Definition": ["Add."],
        "Positive Examples": demonstrations,
        "Negative Examples": [],
        "Instances": instances,
        **changed,
    }


def test_eligible_tasks_have_short_texts() -> None:
    eligible = EXPERIMENT["is_eligible"]
    long_answers = [{"input": "Why?", "output": ["word " * 7]}] * 60
    assert eligible(record(), most_words=4)
    assert not eligible(record(), most_words=3)
    assert not eligible(record(Instances=long_answers), most_words=60)
    assert not eligible(record("Program Execution"), most_words=60)


def test_an_interval_covers_other_tasks() -> None:
    equal = [Answered("fully held out", 0, task, {"tuned": 0.5}) for task in "ab" for _ in range(4)]
    apart = [row._replace(scores={"tuned": float(row.task == "a")}) for row in equal]
    assert EXPERIMENT["interval"](equal, lambda row: row.scores["tuned"]) == "50.0 [50.0, 50.0]"
    assert EXPERIMENT["interval"](apart, lambda row: row.scores["tuned"]) == "50.0 [0.0, 100.0]"


def test_draws_are_spread_over_categories() -> None:
    categories = {"a1": "a", "a2": "a", "b1": "b", "a3": "a", "c1": "c"}
    assert EXPERIMENT["spread"](categories, 4) == ["a1", "b1", "c1", "a2"]


def test_the_table_pairs_the_answers_to_an_instance(tmp_path: Path) -> None:
    def predictions(run: str, prediction: str, score: float, *, shots: tuple[int, ...] = (0, 2)) -> Path:
        fields = {"task": "t", "id": "i", "level": "fully_held_out", "references": ["one"], "prediction": prediction}
        lines = [json.dumps({**fields, "shots": number, "rouge_l": score}) for number in shots]
        path = tmp_path / f"{run}.jsonl"
        path.write_text("\n".join(lines))
        return path

    files = {
        "untuned": predictions("untuned", "\none\n\nInput: two", 0.5),
        "untuned_chat": predictions("untuned_chat", "One?", 1.0, shots=(0,)),
        "tuned": predictions("tuned", "two", 0.0),
    }
    rows = EXPERIMENT["answered"](files, {("t", "i"): "one two three"})
    scores = [[round(score, 6) for score in row.scores.values()] for row in rows]
    assert scores[0] == [0.5, 1.0, 1.0, 0.5, 0.0]  # untuned, its first line, chat, the input copied, tuned
    assert scores[1][2] != scores[1][2]  # the chat form is not evaluated with demonstrations
    rows = [row._replace(level=level) for row in rows for level in EXPERIMENT["LEVELS"]]
    cells = [line.split(" | ") for line in EXPERIMENT["table"](rows).splitlines()]
    assert len(cells) == 2 + 2 * 4
    assert cells[5][:5] == ["| all", "0", "1", "3", "50.0 [50.0, 50.0]"]
    assert cells[5][-4] == "-50.0 [-50.0, -50.0]"
