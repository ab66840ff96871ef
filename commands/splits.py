"""Train on several splits into inner and outer tasks, and keep the best by validation.

The split decides which training tasks train the model and which train the instructions. Differentiable Instruction
Optimization (arXiv 2306.10098) tried 16. Each run is a process; finished runs in the folder are not repeated.

Example:
    crosstask splits --recipe RECIPE.yaml --folder runs/splits --splits 16
    crosstask fit --config RECIPE.yaml --config runs/splits/best_split.yaml
"""

from collections.abc import Sequence
from typing import Any, Literal

import yaml

from ..datamodules.messages import expanded
from ..datamodules.whole_files import write_whole
from .shared.function_command import run_function
from .shared.recipe_runs import Metric, try_recipes


def run(words: Sequence[str]) -> None:
    """Search by the words of a command line."""
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
        folder: Where the runs, results.json and best_split.yaml are written.
        splits: Number of splits: seeds of random categories, or groups of k-means, each once the outer tasks.
        kind: Draw whole categories, or group tasks with similar definitions.
        outer: Outer categories of a random split: their number, or their share if below 1.
        metric: Metric of the best split: the highest score, or the lowest loss.
        max_steps: Steps of theta of each run; the recipe's by default.
    """
    if splits < 2:
        raise ValueError(f"splits must be at least 2 to choose among, got {splits}")
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
    print(f"best by {metric}: {best}; train it with --config {recipe} --config {folder}/best_split.yaml")
