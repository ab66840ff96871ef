"""A table's listed, missing and evaluated tasks: known answers on files written here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

import crosstask
from crosstask.callbacks.report.coverage_text import coverage_sentence, incomplete_note
from crosstask.callbacks.report.scores import build_report
from crosstask.callbacks.report.text import render_markdown
from crosstask.cli import main
from crosstask.commands.shared.config_names import composed_settings
from crosstask.datamodules import InstructionTuningDataModule, Suite
from crosstask.datamodules.benchmarks import FileTasks
from crosstask.datamodules.benchmarks.suite import ExpectedColumn
from crosstask.datamodules.evaluation.coverage import Coverage
from crosstask.datamodules.evaluation.options import OptionRanking
from crosstask.lightning_modules.evaluation.aggregation import Cell

RECIPES = sorted((Path(crosstask.__file__).parent / "configs/evaluation").glob("*.yaml"))
OPT_TASKS = (14, 14, 1871 + 1838 + 2376 + 1172 + 500 + 273 + 1267 + 3270 + 56 + 100 + 277 + 638 + 104 + 4848)
LISTED = {  # tasks, columns, instances as the papers and datasets state them
    "bbh": (27, 1, 6511),
    "cappy_eleven": (11, 11, 1000 + 1000 + 1200 + 56 + 277 + 1871 + 104 + 638 + 1267 + 356 + 1508),
    "flan": (15, 4, 3200 + 56 + 9815 + 9832 + 277 + 9842 + 71 + 3270 + 500 + 2376 + 1172 + 1267 + 273),
    "mmlu": (57, 1, 14042),
    "opt_tasks": OPT_TASKS,
    "opt_tasks_gpt3": OPT_TASKS,
    "promptsource": (12, 12, 1000 + 1000 + 1200 + 56 + 277 + 1871 + 104 + 638 + 1267 + 356 + 1508 + 980),
    "raft": (11, 1, 28712),
    "super_natural_instructions_119": (119, 12, 11900),
    "super_natural_instructions_44": (44, 3, 4400),
    "unifiedskg": (3, 3, 5097 + 1034 + 7368),
}


def write_task(folder: Path, name: str, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"input": f"{name} {i}: yes or no?", "output": "yes", "options": ["yes", "no"]}
        for i in range(first, first + count)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.json").write_text(json.dumps({"category": "Own", "metric": "accuracy"}))


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Column A has both of its tasks, B one of two, C none."""
    for name, count in {"one": 3, "two": 4, "three": 30}.items():
        write_task(tmp_path / "asked/test", name, count)
    write_task(tmp_path / "shown/train", "three", 6, first=100)  # none of the evaluated ones
    expected = [
        ExpectedColumn("A", {"own/one": 3, "own/two": 4}, "partially_supervised"),
        ExpectedColumn("B", {"own/three": 100, "own/four": None}),
        ExpectedColumn("C", {"own/five": 7}),
    ]
    shown: Any = {"own": FileTasks(str(tmp_path / "shown"))}
    return Suite({"own": FileTasks(str(tmp_path / "asked"))}, expected, "Table 1", shown)


def coverage_of(data: InstructionTuningDataModule, answered: Callable[[int], bool] = lambda number: True) -> Coverage:
    found = data.evaluation_coverage("test", {e.number for e in data.evaluation_examples("test") if answered(e.number)})
    assert found is not None
    return found


def test_a_listed_task_is_missing_available_or_run(suite: Suite, make_datamodule: Any) -> None:
    data = make_datamodule(benchmark=suite, instances={"test": 10})
    data.prepare_data()  # nothing trains, and nothing is prepared
    data.setup("test")
    found = {task.task: (task.column, task.expected, task.available, task.run) for task in coverage_of(data).tasks}
    assert found == {
        "own/one": ("A", 3, 3, 3),
        "own/two": ("A", 4, 4, 4),
        "own/three": ("B", 100, 30, 10),
        "own/four": ("B", None, 0, 0),
        "own/five": ("C", 7, 0, 0),
    }
    assert {example.level for example in data.evaluation_examples("test")} == {"partially_supervised", "fully_held_out"}
    last = coverage_of(data, lambda number: number > 0).tasks[0]
    assert last.run == 2  # the first example of its first task was not answered
    assert "no file" in next(task.missing for task in coverage_of(data).tasks if task.task == "own/four")


def test_a_part_is_never_taken_for_the_whole(suite: Suite, make_datamodule: Any) -> None:
    data = make_datamodule(benchmark=suite)
    data.setup("test")
    coverage = coverage_of(data)
    assert coverage_sentence(coverage) == (
        "Of Table 1, 3 of 5 tasks, 2 of 3 columns, 9 of 114 + ? instances were evaluated; averages are over these. "
        "Missing: own/four, own/five."
    )
    assert incomplete_note(coverage, Cell("average", shots=0)) == " — incomplete: 2 of 3 columns lack tasks"
    assert incomplete_note(coverage, Cell("level", "partially_supervised", shots=0)) == ""
    assert incomplete_note(coverage, Cell("column", "fully_held_out", "B", 0)) == " — incomplete: 1 of 2 tasks missing"
    text = render_markdown(build_report([[]], coverage=coverage), "title")
    assert "| B | 2 | 1 | 100 + ? | 30 | 3 |" in text
    assert "| C | 1 | missing | 7 | 0 | 0 |" in text


def test_everything_is_evaluated_at_every_number_of_shots(suite: Suite, make_datamodule: Any) -> None:
    data = make_datamodule(
        benchmark=suite, evaluation={"shots": [0, 2], "ranking": OptionRanking()}, instances={"test": 10}
    )
    data.setup("test")
    asked = data.evaluation_examples("test")
    by_shots = {k: [e for e in asked if e.shots == k] for k in (0, 2)}
    assert [e.id for e in by_shots[0]] == [e.id for e in by_shots[2]]
    assert [e.number for e in asked] == list(range(len(asked)))
    assert {e.source.count("yes or no?") for e in by_shots[0]} == {1}
    # A task that has a reader of demonstrations shows its examples. The others show instances of their own, which are
    # not asked at any number of shots: a small task still asks half of them.
    counted = {name: sum(e.task == name for e in by_shots[0]) for name in ("own/one", "own/two", "own/three")}
    assert counted == {"own/one": 2, "own/two": 2, "own/three": 10}
    assert {e.source.count("yes or no?") for e in by_shots[2] if e.task != "own/one"} == {3}
    for example in by_shots[2]:
        own = [each.id.rpartition("-")[2] for each in by_shots[2] if each.task == example.task != "own/three"]
        shown = example.source.split("\n\n")[:-1]
        assert not any(f" {number}: " in text for number in own for text in shown)


def test_a_suite_without_any_files_and_a_misspelt_task_are_rejected(suite: Suite, tmp_path: Path) -> None:
    reader = FileTasks(str(tmp_path / "asked"))
    nothing = Suite({"own": reader}, [ExpectedColumn("C", {"own/five": 7})], "Table 1")
    with pytest.raises(ValueError, match=r"none of the 1 tasks of Table 1 is available: .*five"):
        nothing.task_names("test")
    with pytest.raises(ValueError, match="lists 'others/five': expected collection/task"):
        Suite({"own": reader}, [ExpectedColumn("C", {"others/five": 7})], "Table 1")
    with pytest.raises(ValueError, match="is in 'C' and in 'D'"):
        Suite({"own": reader}, [ExpectedColumn("C", {"own/a": 1}), ExpectedColumn("D", {"own/a": 1})], "Table 1")


def recipe_data(path: Path) -> dict[str, Any]:
    """The data of a recipe; its benchmark may stand in a file of its own, which `crosstask classify` reads, too."""
    data: dict[str, Any] = composed_settings(str(path))["data"]
    benchmark = data["init_args"]["benchmark"]
    if isinstance(benchmark, str):
        data["init_args"]["benchmark"] = yaml.safe_load((path.parent / benchmark).read_text())
    return data


def test_every_recipe_of_a_paper_is_listed_here() -> None:
    assert [path.stem for path in RECIPES] == sorted(LISTED)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_lists_what_its_paper_evaluates(path: Path) -> None:
    benchmark = recipe_data(path)["init_args"]["benchmark"]["init_args"]
    columns = benchmark["expected"]
    tasks = {name: number for column in columns for name, number in column["tasks"].items()}
    assert (len(tasks), len(columns), sum(tasks.values())) == LISTED[path.stem]
    assert {name.partition("/")[0] for name in tasks} == set(benchmark["collections"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_and_builds(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As LightningCLI parses it; no file is read before a task is asked for."""
    monkeypatch.setenv("CROSSTASK_DATA", str(tmp_path))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(InstructionTuningDataModule, "data")
    data = parser.instantiate(parser.parse_object({"data": recipe_data(path)})).data
    with pytest.raises(ValueError, match=r"tasks of .* is available: "):
        data.benchmark.task_names("test")
    assert not data.benchmark.task_names("train")


def test_a_model_brings_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path / "asked/test", "one", 3)
    suite = {
        "collections": {"own": {"class_path": "FileTasks", "init_args": {"source": str(tmp_path / "asked")}}},
        "expected": [{"column": "A", "tasks": {"own/one": 3}}],
        "stated_by": "Table 1",
    }
    recipe = yaml.safe_load(RECIPES[0].read_text())
    recipe["data"]["init_args"]["benchmark"]["init_args"] = suite
    recipe["trainer"]["logger"] = False
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    folder = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no tokenizer could be loaded from .*nowhere"):
        main(["test", "--config", str(tmp_path / "recipe.yaml"), "--model.init_args.pretrained", folder])
    with pytest.raises(ValueError, match="no tokenizer is given, and no `pretrained` to take it from"):
        main(["test", "--config", str(tmp_path / "recipe.yaml")])
