"""Language models with and without the scorer, from hand-written outputs of ``crosstask adapt``."""

import json
from pathlib import Path
from typing import Any

import pytest

from crosstask.cli import main

METHODS = ("beam", "nucleus", "self-score, sum", "scorer", "random", "oracle")


def write_adapted(folder: Path, qualities: dict[str, list[dict[str, float]]]) -> str:
    """An output of ``adapt``: by task, ROUGE-L of each method's choice among three responses of each instance."""
    folder.mkdir(parents=True)
    lines = []
    for task, rows in qualities.items():
        for number, row in enumerate(rows):
            responses = [{"response": method, "rouge_l": value} for method, value in row.items()]
            choices = {method: method for method in row}
            lines.append(json.dumps({"task": task, "id": str(number), "choices": choices, "responses": responses}))
    (folder / "choices.jsonl").write_text("".join(f"{line}\n" for line in lines))
    report: dict[str, Any] = {"methods": dict.fromkeys(METHODS), "scorers": {"scorer": {}}, "best_single": "beam"}
    (folder / "report.json").write_text(json.dumps(report))
    return str(folder)


def row(beam: float, nucleus: float, likely: float, scorer: float) -> dict[str, float]:
    return {"beam": beam, "nucleus": nucleus, "self-score, sum": likely, "scorer": scorer}


def test_models_stand_side_by_side_with_and_without_the_scorer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = {"a": [row(0.2, 0.0, 0.2, 0.4), row(0.4, 0.0, 0.2, 0.4)], "b": [row(0.1, 0.3, 0.1, 0.3)]}
    tuned = {"b": [row(0.5, 0.3, 0.5, 0.5)], "a": [row(0.6, 0.2, 0.4, 0.6), row(0.6, 0.4, 0.4, 0.8)]}
    folders = [f"{name}={write_adapted(tmp_path / name, of)}" for name, of in (("frozen", frozen), ("tuned", tuned))]
    main(["adaptations", *folders, "--output", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["tasks"], report["instances"]) == (2, 3)
    means = {
        name: {method: round(one["mean"], 6) for method, one in of.items()} for name, of in report["scores"].items()
    }
    # Means over the two tasks, not over the three instances.
    assert means["frozen"] == {
        "beam": 0.2,  # (0.3 + 0.1) / 2
        "nucleus": 0.15,
        "self-score, sum": 0.15,
        "scorer": 0.35,
        "random": 0.2125,
        "oracle": 0.35,
        "best single decoding": 0.2,
    }
    assert means["tuned"]["scorer"] == 0.6
    gains = {name: of["scorer"]["self-score, sum"]["mean"] for name, of in report["with_scorer"].items()}
    assert gains == pytest.approx({"frozen": 0.2, "tuned": 0.15})
    assert report["over_first"]["tuned"]["scorer"]["mean"] == pytest.approx(0.25)
    printed = capsys.readouterr().out
    assert (tmp_path / "out/report.md").read_text() in printed
    assert "| chosen by | frozen | tuned |" in printed
    assert "| scorer | 35.00 [35.00, 35.00] | 60.00 [55.00, 65.00] |" in printed


def test_models_tested_on_different_instances_are_rejected(tmp_path: Path) -> None:
    one = write_adapted(tmp_path / "one", {"a": [row(0, 0, 0, 0)]})
    two = write_adapted(tmp_path / "two", {"a": [row(0, 0, 0, 0), row(0, 0, 0, 0)]})
    with pytest.raises(ValueError, match=r"has 2 test instances and .*one 1; they differ in a 1: sample responses to"):
        main(["adaptations", one, two, "--output", str(tmp_path / "out")])
    (Path(two) / "choices.jsonl").write_text('{"task": "a", "id": "0", "responses": [], "choices": {"beam": "x"}}\n')
    with pytest.raises(ValueError, match=r"choices\.jsonl:1 is no line of `crosstask adapt`"):
        main(["adaptations", one, two, "--output", str(tmp_path / "out")])
