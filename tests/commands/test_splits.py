"""Searching splits and sweeping settings: runs of their own, the best by validation, nothing trained twice."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from argument_groups import with_changes

import crosstask
from crosstask.commands.shared.config_names import composed_settings
from crosstask.commands.shared.recipe_runs import run_inputs, run_settings, try_recipes
from crosstask.commands.splits import search_splits

RECIPE = Path(crosstask.__file__).parent / "configs/instruction_optimization_toybench.yaml"


@pytest.fixture
def recipe(toybench: Path, tmp_path: Path, tiny_model: dict) -> Path:
    """The recipe of the embedded benchmark, made small."""
    small = composed_settings(str(RECIPE))
    small["trainer"]["limit_val_batches"] = 2
    small["model"]["init_args"]["config"] = {**tiny_model, "num_hidden_layers": 1}
    small["model"]["init_args"]["optimizer"]["warmup"] = 1
    changes = {
        "tokenizer": str(toybench / "tokenizer"),
        "levels": {"inner_steps": 2, "inner_rows": 2, "outer_rows": 2},
        "instances": {"train": 8, "validation": 1},
        "evaluation": {"max_new_tokens": 4},
    }
    small["data"]["init_args"] = with_changes(small["data"]["init_args"], changes)
    small["data"]["init_args"]["benchmark"]["init_args"]["folder"] = str(toybench)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(small))
    return path


def finish(recipe: Path, folder: Path, losses: dict[int, float], groups: int, steps: int) -> None:
    """Leave what a search over clusters would have left of finished runs."""
    prefix = "crosstask.datamodules.bilevel.meta_split"
    for group in losses:
        split = {"class_path": f"{prefix}.ClusterSplit", "init_args": {"groups": groups, "group": group}}
        run = folder / f"cluster-{group}"
        run.mkdir(parents=True)
        changes = {"data": {"init_args": {"split": split}}}
        settings = run_settings(yaml.safe_load(recipe.read_text()), changes, run, steps)
        (run / "recipe.yaml").write_text(yaml.safe_dump(settings))
        (run / "inputs.json").write_text(json.dumps(run_inputs(settings)))
    results = {f"cluster-{group}": {"validation/loss": loss} for group, loss in losses.items()}
    (folder / "results.json").write_text(json.dumps(results))


@pytest.mark.usefixtures("warm_python")
def test_the_best_split_is_the_best_by_validation_and_nothing_is_trained_twice(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "search"
    finish(recipe, folder, {0: 1e9, 2: 1e8}, groups=3, steps=2)  # two of three are done
    search_splits(str(recipe), str(folder), splits=3, kind="cluster", metric="validation/loss", max_steps=2)
    results = json.loads((folder / "results.json").read_text())
    assert 0 < results["cluster-1"]["validation/loss"] < 100
    assert not list((folder / "cluster-0").glob("version_*"))
    best = yaml.safe_load((folder / "best_split.yaml").read_text())
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words == ["crosstask", "fit", "--config", str(recipe), "--config", str(folder / "best_split.yaml")]
    assert best["data"]["init_args"]["split"]["init_args"] == {"groups": 3, "group": 1}
    ran = yaml.safe_load((folder / "cluster-1/recipe.yaml").read_text())
    assert ran["trainer"]["max_steps"] == ran["trainer"]["val_check_interval"] == 2
    assert ran["data"]["init_args"]["split"] == best["data"]["init_args"]["split"]
    assert ran["data"]["init_args"]["levels"]["inner_rows"] == 2  # the rest is the recipe's

    # Another metric of a finished run is read from what it logged, and other settings are another run's.
    only = {"cluster-1": {"data": {"init_args": {"split": ran["data"]["init_args"]["split"]}}}}
    found = try_recipes(str(recipe), str(folder), only, metric="validation/rouge_l", max_steps=2)
    assert 0 <= found["cluster-1"] <= 100
    assert len(list((folder / "cluster-1").glob("version_*"))) == 1
    with pytest.raises(
        ValueError, match=r"cluster-1 holds a run of other settings: trainer.max_steps is 2 there and 3"
    ):
        try_recipes(str(recipe), str(folder), only, metric="validation/rouge_l", max_steps=3)
    with pytest.raises(ValueError, match=r"split\.init_args\.groups is 3 there and 2 here"):
        search_splits(str(recipe), str(folder), splits=2, kind="cluster", metric="validation/loss", max_steps=2)


def test_runs_on_other_files_under_the_same_paths_are_rejected(recipe: Path, toybench: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(recipe.read_text())
    bench = tmp_path / "bench"
    shutil.copytree(toybench, bench)
    settings["data"]["init_args"]["benchmark"]["init_args"]["folder"] = str(bench)
    recipe.write_text(yaml.safe_dump(settings))
    finish(recipe, tmp_path / "search", {0: 2.0, 1: 1.0}, groups=2, steps=2)
    options = {"splits": 2, "kind": "cluster", "metric": "validation/loss", "max_steps": 2}
    search_splits(str(recipe), str(tmp_path / "search"), **options)
    for name in ("tasks/task001_toy_copy_animals.json", "splits/default/train_tasks.txt"):
        intact = (bench / name).read_text()
        (bench / name).write_text(intact + "\n")
        with pytest.raises(ValueError, match=r"cluster-0 holds a run on other files than those at .*bench"):
            search_splits(str(recipe), str(tmp_path / "search"), **options)
        (bench / name).write_text(intact)
    (tmp_path / "search" / "results.json").write_text('{"cluster-0": {"validation/loss": NaN}}')
    with pytest.raises(ValueError, match=r"results\.json holds no results of runs"):
        search_splits(str(recipe), str(tmp_path / "search"), **options)


@pytest.mark.usefixtures("warm_python")
def test_bad_input(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="splits must be at least 2 to choose among, got 1"):
        search_splits(str(recipe), str(tmp_path), splits=1)
    with pytest.raises(ValueError, match=r"no configuration .*nowhere\.yaml"):
        try_recipes("nowhere.yaml", str(tmp_path), {}, metric="validation/loss")
    bad = {"bad": {"include": ["nowhere"]}}  # rejected before the run has imported its libraries
    with pytest.raises(ValueError, match=r"(?s)failed .*no configuration 'nowhere'"):
        try_recipes(str(recipe), str(tmp_path / "runs"), bad, metric="validation/loss")


def test_a_recipe_without_two_levels_is_rejected_before_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"quickstart trains with .*InstructionTuningDataModule, which has no inner"):
        search_splits("quickstart", str(tmp_path / "search"), splits=2)
    assert not (tmp_path / "search").exists()
