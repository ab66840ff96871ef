"""The page and Markdown of predictions on disk: every shape of evaluation, hostile texts, a browser."""

import json
import shutil
import subprocess
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosstask.callbacks.report.comparison import SystemsReport
from crosstask.callbacks.report.figure_style import write_figure
from crosstask.callbacks.report.instruction_figures import instruction_map, training_curves
from crosstask.callbacks.report.page import render_page
from crosstask.callbacks.report.page_figures import report_figures
from crosstask.callbacks.report.systems import parse_systems, read_system, systems_report
from crosstask.callbacks.report.text import render_systems_markdown
from crosstask.cli import main
from crosstask.datamodules.schema import LEVELS

CATEGORIES = ("Textual Entailment", "Question Answering", "Summarization", "Title Generation")
HOSTILE = "<script>alert('no')</script><img src=x onerror=alert(1)>&amp;\u202e$\\frac{1$"


def write_run(folder: Path, *, tasks: int = 12, shots: Iterable[int] = (0,), skill: float = 0.5, seed: int = 0) -> Path:
    """Predictions of a simulated system: scores are its skill, minus an instance's difficulty, plus noise."""
    noise, difficulty = np.random.default_rng(seed), np.random.default_rng(99)
    lines: list[dict[str, Any]] = []
    for t in range(tasks):
        category, level = CATEGORIES[t % len(CATEGORIES)], LEVELS[t % 3]
        for i, hard in enumerate(difficulty.random(10)):
            for k in shots:
                score = float(np.clip(skill + 0.02 * k - 0.6 * (hard - 0.5) + 0.1 * noise.normal(), 0, 1))
                about = {
                    "number": len(lines),
                    "benchmark": "made_up",
                    "task": f"task{t:03d}{HOSTILE if t == 1 else ''}",
                }
                asked = {"category": category, "level": level, "shots": k, "metric": "rouge_l", "id": f"{t}-{i}"}
                asked["parent"] = None
                texts = {"prompt": f"what is {i} + {t}? {HOSTILE}", "references": [str(i + t)], "prediction": HOSTILE}
                lines.append({**about, **asked, **texts, "rouge_l": score, "exact_match": score > 0.5})
    path = folder / "predictions/test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def report_of(*runs: Path) -> SystemsReport:
    """The report of some runs, as `crosstask report` reads them."""
    systems = [read_system(name, folders, "test") for name, folders in parse_systems(list(map(str, runs))).items()]
    return systems_report(systems, stage="test", by="category", examples=5)


def page_of(*runs: Path) -> str:
    """The page of some runs, as `crosstask report` writes it, without the files of its figures: they take longer."""
    report = report_of(*runs)
    return render_page(report, "A report", report_figures(report))


class Elements(HTMLParser):
    """What a browser would make of a page: every opened and closed element must match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "img", "hr", "input", "wbr", "col"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("systems", "shape"),
    [(1, {"tasks": 1}), (3, {"tasks": 1}), (3, {"tasks": 40}), (1, {"tasks": 12, "shots": (0, 5)}), (9, {"tasks": 3})],
)
def test_a_page_stands_alone_and_runs_nothing_of_what_it_shows(
    tmp_path: Path, shape: dict[str, Any], systems: int
) -> None:
    page = page_of(*(write_run(tmp_path / f"run{i}", skill=0.4 + 0.1 * i, seed=i, **shape) for i in range(systems)))
    read = Elements(page)
    assert not read.open
    assert not [attributes for tag, attributes in read.found if tag in ("script", "img", "iframe", "link")]
    assert not any(name.startswith("on") or str(value).startswith("http") for tag, attributes in read.found
                   for name, value in attributes.items() if name != "xmlns")  # fmt: skip
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert "⟨U+202E⟩" in page
    identifiers = [attributes["id"] for _, attributes in read.found if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    drawn = [attributes for tag, attributes in read.found if tag == "svg"]
    assert len(drawn) > 1
    assert page.count("font-family:") <= len(drawn) + 1  # and once in the style sheet
    assert len(page.encode()) < 25_000 + 45_000 * systems
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawn)


def test_every_figure_of_the_page_is_a_file_too(tmp_path: Path) -> None:
    main(["report", str(write_run(tmp_path / "run", tasks=1, shots=(0, 5))), "--folder", str(tmp_path / "report")])
    drawn = [tag for tag, _ in Elements((tmp_path / "report/report.html").read_text()).found if tag == "svg"]
    names = {path.stem for path in (tmp_path / "report/figures").glob("*.pdf")}
    assert names == {path.stem for path in (tmp_path / "report/figures").glob("*.png")}
    assert len(names) == len(drawn)
    assert (tmp_path / "report" / "report.md").exists()
    assert json.loads((tmp_path / "report" / "report.json").read_text())


def test_equal_predictions_make_equal_pages(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tasks=1)
    for name in ("one", "two"):
        main(["report", str(run), "--folder", str(tmp_path / name)])
    assert (tmp_path / "one/report.html").read_bytes() == (tmp_path / "two/report.html").read_bytes()
    for kind in ("pdf", "png"):
        one, two = (tmp_path / name / f"figures/tasks-fully_supervised.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_runs_of_unlike_skill_differ_and_a_run_does_not_differ_from_itself(tmp_path: Path) -> None:
    runs = {"better": 0.7, "worse": 0.4, "equal": 0.7}
    report = report_of(*(write_run(tmp_path / name, skill=skill) for name, skill in runs.items()))
    worse, equal = ([cell.difference for cell in comparison.differences] for comparison in report.comparisons)
    assert worse
    assert all(difference.mean < 0 for difference in worse)
    assert all(difference.mean == 0 for difference in equal)
    markdown = render_systems_markdown(report, "A report")
    assert all(name in markdown for name in runs)


def test_the_report_says_what_its_intervals_cover(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"run{i}", tasks=2, shots=(0, 2), skill=0.3 + i / 10, seed=i) for i in range(4)]
    single, seeds, other = folders[0], Path(f"{folders[0]},{folders[1]}"), Path(f"b={folders[2]},{folders[3]}")
    covers = "Scores of repeated runs are averaged; intervals cover other instances, not other training seeds."

    report = report_of(seeds, other)
    page, markdown = " ".join(render_page(report, "A report").split()), render_systems_markdown(report, "A report")
    assert "Super-NaturalInstructions. Percent, with 95% t-intervals over 2 runs." in page
    assert "comparisons: of 4 differences of tasks, " in page  # two tasks at two numbers of shots
    assert " 0, which one in twenty does by chance." in page
    assert markdown.count("Percent, with 95% t-intervals over 2 runs.") == 3  # of both together, and of each
    assert covers in page
    assert covers in markdown

    mixed = render_systems_markdown(report_of(single, other), "A report")
    assert "Percent, with 95% bootstrap intervals over instances and t-intervals over 2 runs." in mixed


def test_a_run_without_predictions_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `crosstask test` first"):
        main(["report", str(tmp_path)])


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"run{i}", tasks=3, skill=0.4 + 0.1 * i, shots=(0, 5)) for i in range(2)]
    (tmp_path / "report.html").write_text(page_of(*runs))
    picture = tmp_path / "page.png"
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += [f"--screenshot={picture}", "--window-size=1200,2400", (tmp_path / "report.html").as_uri()]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000  # an empty page takes 5 kB


def test_figures_of_learned_instructions_are_on_the_page(tmp_path: Path) -> None:
    """Training leaves them in its own folder, or beside the folders of a run's fit and test."""
    trained, tested = write_run(tmp_path / "a/version_0", tasks=3), write_run(tmp_path / "b/version_1", tasks=3)
    for folder in (trained / "instructions", tmp_path / "b/instructions"):
        folder.mkdir()
        points = np.eye(4)[:, :2]
        write_figure(instruction_map({"human": points, "learned": -points}, [HOSTILE] * 4), folder / "map.svg", HOSTILE)
        curves = training_curves({"inner_loss": [(1, 2.0), (2, 1.0)]}, "loss")
        write_figure(curves, folder / "curves-losses.svg", "losses")
        for path in folder.glob("*.svg"):  # as an attacker would change it
            path.write_text(path.read_text().replace("</svg>", "<script>alert(1)</script><g onload='alert(1)'/></svg>"))
        numbers = {"human": {"within": 0.25}, "learned": {"within": 0.5}, "nearest tokens": {}}
        (folder / "analysis.json").write_text(json.dumps(numbers))
    plain = write_run(tmp_path / "c", tasks=3)
    for runs, expected in (([trained], 1), ([tested], 1), ([trained, tested, plain], 2), ([plain], 0)):
        page = page_of(*runs)
        assert Elements(page).open == []
        assert page.count("<figcaption>Instructions by category") == page.count("<td>0.500</td>") == expected
        assert page.count('class="curve"') == expected
        assert ('id="instructions"' in page) == bool(expected)
        assert "<script" not in page
        assert "onload" not in page
