"""Sweeps of instruction optimization: the length of instructions, and the choice of outer tasks.

    python experiments/instruction_sweeps.py papers/instruction_optimization runs/sweeps length
    python experiments/instruction_sweeps.py papers/instruction_optimization runs/sweeps outer
    python experiments/instruction_sweeps.py papers/instruction_optimization runs/sweeps diversity

`length` trains with 1 to 256 embeddings, for which a row must have room. `outer` trains with 1 to 59 of the paper's 60
categories as outer tasks, or the same shares of --categories (arXiv 2306.10098, section 5). `diversity` compares outer
tasks of randomly drawn categories with outer tasks of similar definitions (k-means clusters). Each setting is trained
with the recipe for every seed; the ROUGE-L of the validation at its end is printed. `length` and `outer` are drawn as
FOLDER/<sweep>.svg, .pdf and .png, as in the paper's figures 5 and 6, with the 95 percent interval over seeds, beside
training with definitions alone, on all tasks. Finished runs in the folder are not repeated.
"""

import argparse
from pathlib import Path
from typing import Any

from crosstask.callbacks.report.figure_style import write_figure_files
from crosstask.callbacks.report.instruction_figures import sweep_figure
from crosstask.commands.shared.config_names import merged
from crosstask.commands.shared.recipe_runs import try_recipes

LENGTHS = tuple(2**power for power in range(9))
OUTER = (1, 10, 20, 30, 40, 50, 59)  # of 60
SPLITS = 4  # of each kind
SETTINGS = {"length": "length of instructions (embeddings)", "outer": "categories of the outer tasks"}
"""Label of the quantity that a sweep varies, by the sweep's name; figures are drawn of these sweeps only."""
BASELINE = "definition"
DEFINITION = {"model": {"init_args": {"instruction": {"kind": "none"}}}, "data": {"init_args": {"split": None}}}
"""Settings of the runs without learned instructions."""


def variants(sweep: str, categories: int) -> dict[str, dict[str, Any]]:
    """Return the settings of each variant that override the recipe's, by its name."""
    if sweep == "length":
        return {f"length-{length}": {"data": {"init_args": {"instructions": {"length": length}}}} for length in LENGTHS}
    if sweep == "diversity":
        clustered = {f"clustered-{group}": _split("ClusterSplit", groups=16, group=group) for group in range(SPLITS)}
        outer = max(round(categories / 6), 1)
        return clustered | {
            f"diverse-{seed}": _split("CategorySplit", outer=outer, seed=seed) for seed in range(SPLITS)
        }
    counts = sorted({min(max(round(count * categories / 60), 1), categories - 1) for count in OUTER})
    return {f"outer-{count}": _split("CategorySplit", outer=count) for count in counts}


def _split(kind: str, **arguments: int) -> dict[str, Any]:
    split = {"class_path": f"crosstask.datamodules.bilevel.meta_split.{kind}", "init_args": arguments}
    return {"data": {"init_args": {"split": split}}}


def with_seeds(variants: dict[str, dict[str, Any]], seeds: int) -> dict[str, dict[str, Any]]:
    """Return each variant with each seed of weights, dropout, order and exemplars; the split's seed stays the same."""
    return {
        f"{name}-seed-{seed}": merged(changes, _seed(seed))
        for name, changes in variants.items()
        for seed in range(seeds)
    }


def _seed(seed: int) -> dict[str, Any]:
    arguments = {"init_args": {"seed": seed}}
    return {"seed_everything": seed, "model": arguments, "data": arguments}


def draw(sweep: str, results: dict[str, float], folder: Path) -> None:
    """Draw the results of a sweep, named "<sweep>-<value>-seed-<seed>" and "definition-seed-<seed>"."""
    by_value: dict[float, list[float]] = {}
    baseline = [100 * result for name, result in results.items() if name.startswith(f"{BASELINE}-")]
    for name, result in results.items():
        if name.startswith(f"{sweep}-"):
            value = float(name.removeprefix(f"{sweep}-").partition("-seed-")[0])
            by_value.setdefault(value, []).append(100 * result)
    quantity, logarithmic = "ROUGE-L of the validation (%)", sweep == "length"
    figure = sweep_figure(by_value, SETTINGS[sweep], quantity, logarithmic=logarithmic, baseline=baseline)
    write_figure_files(figure, folder, sweep, f"{SETTINGS[sweep]}: mean and 95% interval over seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("sweep", choices=["length", "outer", "diversity"])
    parser.add_argument("--categories", type=int, default=60, help="training categories of the benchmark")
    parser.add_argument("--seeds", type=int, default=8, help="seeds of each setting")
    parser.add_argument("--max_steps", type=int, help="inner steps of a run; the recipe's if left out")
    arguments = parser.parse_args()
    folder = str(arguments.folder / arguments.sweep)
    settings = variants(arguments.sweep, arguments.categories)
    if arguments.sweep in SETTINGS:
        settings[BASELINE] = DEFINITION
    tried = with_seeds(settings, arguments.seeds)
    results = try_recipes(arguments.recipe, folder, tried, metric="validation/rouge_l", max_steps=arguments.max_steps)
    if arguments.sweep in SETTINGS:
        draw(arguments.sweep, results, arguments.folder)


if __name__ == "__main__":
    main()
