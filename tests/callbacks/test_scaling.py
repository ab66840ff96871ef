"""Scores over model sizes: from reports to points, and from points to positions in the figure."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from crosstask.callbacks.report.model_sizes import read_model_scores
from crosstask.cli import main
from crosstask.commands.scaling import plot_scaling
from crosstask.datamodules.scoring.sample_writer import write_generator_info
from crosstask.datamodules.scoring.samples import generator_size

SVG = "{http://www.w3.org/2000/svg}"


def adapted(folder: Path, parameters: float | None, scorer: float, best: str) -> str:
    """A report of adapt with four rows, the best of its two decodings at 0.2."""
    means = {"beam": 0.1, "nucleus": 0.1, "self-score, sum": 0.15, "scorer": scorer, best: 0.2}
    methods = {name: {"mean": mean, "low": mean - 0.01, "high": mean + 0.01} for name, mean in means.items()}
    report = {
        "methods": methods,
        "tasks": {"one": means, "two": {name: mean / 2 for name, mean in means.items()}},
        "best_single": best,
        "scorers": {"scorer": {}},
        "generator": {"parameters": parameters},
    }
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report))
    return str(folder)


def curves(path: Path) -> list[list[tuple[float, float]]]:
    """The positions of the points of each curve."""
    groups = [group for group in ElementTree.parse(path).getroot().iter(f"{SVG}g") if group.get("class") == "curve"]
    return [[(float(use.get("x", "")), float(use.get("y", ""))) for use in group.iter(f"{SVG}use")] for group in groups]


def test_rows_of_one_name_are_a_line_over_the_logarithm_of_sizes(tmp_path: Path) -> None:
    """1M, 10M and 1000M: the second stands at a third of the way."""
    reports = [
        adapted(tmp_path / "c", 1e9, 0.5, "beam"),
        adapted(tmp_path / "a", 1e6, 0.3, "nucleus"),
        adapted(tmp_path / "b", 1e7, 0.4, "beam"),
    ]
    main(["scaling", *reports, "--output", str(tmp_path / "out.svg")])
    drawn = curves(tmp_path / "out.svg")
    assert [len(points) for points in drawn] == [3, 3, 3]  # scorer, best single decoding, self-score
    (x0, y0), (x1, y1), (x2, y2) = drawn[0]
    assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 3, abs=1e-3)
    assert (y0 - y1) / (y0 - y2) == pytest.approx(1 / 2, abs=1e-2)  # 0.3, 0.4, 0.5
    assert len({y for _, y in drawn[1]}) == 1  # 0.2, of whichever decoding
    root = ElementTree.parse(tmp_path / "out.svg").getroot()
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {
        "parameters of the model",
        "1M",
        "10M",
        "100M",
        "1B",
        "scorer",
        "best single decoding",
        "self-score, sum",
    } <= set(texts)


def test_every_task_has_a_panel(tmp_path: Path) -> None:
    """Task "two" has half of the scores of "one", at the same sizes."""
    reports = [adapted(tmp_path / "a", 1e6, 0.3, "beam"), adapted(tmp_path / "b", 1e7, 0.4, "beam")]
    plot_scaling(reports, str(tmp_path / "out.svg"), rows=["scorer"], by_task=True)
    assert [len(points) for points in curves(tmp_path / "out.svg")] == [2, 2]
    texts = [text.text for text in ElementTree.parse(tmp_path / "out.svg").getroot().iter(f"{SVG}text")]
    assert {"one", "two", "scorer"} <= set(texts)
    scores = [read_model_scores(report, "two")["scorer"] for report in reports]
    assert scores == [(1e6, 0.15, 0.15, 0.15), (1e7, 0.2, 0.2, 0.2)]
    content = json.loads((tmp_path / "b/report.json").read_text())
    del content["tasks"]["two"]
    (tmp_path / "b/report.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="they differ in two: a line would connect scores of different tasks"):
        plot_scaling(reports, str(tmp_path / "other.svg"))


def test_models_of_classify_have_their_own_sizes(tmp_path: Path) -> None:
    def model(parameters: int, mean: float) -> dict[str, object]:
        return {
            "parameters": parameters,
            "mean": {"template_mean": mean, "pooled": 0.0, "low": mean, "high": mean},
            "tasks": {},
        }

    for name, large in (("one", 0.5), ("two", 0.7)):
        models = {"cappy": model(10**8 if name == "one" else 10**9, large), "flan": model(10**9, 0.6)}
        content = {"models": models, "chance": {"tasks": {"t": {}}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = [str(tmp_path / "one.json"), str(tmp_path / "two.json")]
    plot_scaling(files, str(tmp_path / "out.svg"), rows=["cappy"])
    (((x0, y0), (x1, y1)),) = curves(tmp_path / "out.svg")
    assert x1 > x0
    assert y1 < y0
    with pytest.raises(ValueError, match="no report has a row 'capy'; there are cappy, flan"):
        plot_scaling(files, rows=["capy"])
    with pytest.raises(ValueError, match="name at least one folder of `crosstask adapt` or `crosstask classify`"):
        plot_scaling([])


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<svg")])
def test_the_suffix_chooses_the_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    report = adapted(tmp_path / "a", 1e6, 0.3, "beam")
    plot_scaling([report], str(tmp_path / f"out{suffix}"))
    assert (tmp_path / f"out{suffix}").read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"written as \.svg, \.pdf, \.png, got 'out.jpg'"):
        plot_scaling([report], str(tmp_path / "out.jpg"))


def test_what_says_no_size_or_is_no_report_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `crosstask adapt` again with generator_parameters"):
        plot_scaling([adapted(tmp_path / "a", None, 0.3, "beam")])
    (tmp_path / "b.json").write_text("[]")
    for name in ("b.json", "c.json"):
        with pytest.raises(ValueError, match="is no report of"):
            plot_scaling([str(tmp_path / name)])


def test_the_size_of_a_generator_is_noted_beside_its_samples(tmp_path: Path) -> None:
    files = [tmp_path / f"flan-{part}.jsonl" for part in range(2)]
    assert generator_size(files) is None
    write_generator_info(files[0], "flan", 80)
    assert generator_size(files[:1]) == 80
    assert generator_size(files) is None
    write_generator_info(files[1], "flan", 80)
    assert generator_size(files) == 80
    write_generator_info(files[1], "other", 80)
    assert generator_size(files) is None


def test_reports_that_do_not_belong_together_are_rejected(tmp_path: Path) -> None:
    one = adapted(tmp_path / "a", 1e6, 0.3, "beam")
    with pytest.raises(ValueError, match="a report is given twice"):
        plot_scaling([one, f"{one}/"], str(tmp_path / "out.svg"))
    (tmp_path / "classify.json").write_text(json.dumps({"models": {}}))
    with pytest.raises(ValueError, match="by ROUGE-L and those of classify by accuracy: draw them separately"):
        plot_scaling([one, str(tmp_path / "classify.json")], str(tmp_path / "out.svg"))
