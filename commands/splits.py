"""Train on several splits into inner and outer tasks, and keep the best by validation.

A split decides which training tasks train the model (inner) and which train the instructions (outer). Differentiable
Instruction Optimization (arXiv 2306.10098) tried 16 splits. Each run is a process; finished runs in the folder are not
repeated.

Example:
    crosstask splits --recipe RECIPE.yaml --folder runs/splits --splits 16
    crosstask fit --config RECIPE.yaml --config runs/splits/best_split.yaml
"""

from collections.abc import Sequence
from typing import Any, Literal

import yaml

from ..datamodules.atomic_files import write_whole
from ..datamodules.messages import command_line, expanded
from .shared.config_names import composed_settings
from .shared.function_command import run_function
from .shared.recipe_runs import Metric, try_recipes


def run(words: Sequence[str]) -> None:
    """Run the command with the words after its name."""
    run_function(search_splits, words)


def search_splits(
    recipe: str,
    folder: str,
    splits: int = 16,
    kind: Literal["category", "cluster"] = "category",
    outer: float = 10,
    metric: Metric = "validation/rouge_l",
    max_steps: int | None = None,
) -> None:
    """Train on several splits into inner and outer tasks, and write the best by validation as a YAML.

    Args:
        recipe: YAML of `crosstask fit` for InstructionOptimizationModule, by path or by name.
        folder: Folder into which the runs, results.json and best_split.yaml are written.
        splits: Number of splits: of random draws of categories, or of k-means clusters, each once the outer tasks.
        kind: ``category`` draws whole categories as outer tasks; ``cluster`` takes tasks with similar definitions.
        outer: With ``category``: number of outer categories; a number below 1 is a share of all categories.
        metric: Metric by which splits are compared: the highest score, or the lowest loss, is the best.
        max_steps: Optimizer steps of the model in each run; by default the recipe's.

    Raises:
        ValueError: The recipe has no inner and outer tasks, there is one split alone, or a run failed.
    """
    if splits < 2:
        raise ValueError(f"splits must be at least 2 to choose among, got {splits}")
    data = composed_settings(recipe).get("data", {}).get("class_path", "InstructionTuningDataModule")
    if data.rpartition(".")[2] in ("InstructionTuningDataModule", "ScorerDataModule"):
        raise ValueError(
            f"{recipe} trains with {data}, which has no inner and outer tasks: name a recipe of "
            "InstructionOptimizationDataModule, e.g. instruction_optimization_toybench"
        )
    prefix = "crosstask.datamodules.bilevel.meta_split"
    variants: dict[str, dict[str, Any]] = {}
    for number in range(splits):
        if kind == "category":
            chosen = {"class_path": f"{prefix}.CategorySplit", "init_args": {"outer": outer, "seed": number}}
        else:
            chosen = {"class_path": f"{prefix}.ClusterSplit", "init_args": {"groups": splits, "group": number}}
        variants[f"{kind}-{number}"] = {"data": {"init_args": {"split": chosen}}}
    results = try_recipes(recipe, folder, variants, metric=metric, max_steps=max_steps)
    best = min(results, key=results.__getitem__) if metric == "validation/loss" else max(results, key=results.get)  # type: ignore[arg-type]
    write_whole(expanded(folder) / "best_split.yaml", yaml.safe_dump(variants[best]))
    command = command_line("fit", "--config", recipe, "--config", expanded(folder) / "best_split.yaml")
    print(f"best by {metric}: {best}; train it with\n  {command}")
