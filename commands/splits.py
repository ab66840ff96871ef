"""``crosstask splits``: try several splits into inner and outer tasks and keep the best by validation."""

from pathlib import Path
from typing import Any, Literal

import yaml

from .shared.recipe_runs import Metric, try_recipes


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
        recipe: A YAML of crosstask fit for InstructionOptimizationModule.
        folder: Where the runs, results.json and best_split.yaml are written.
        splits: How many: seeds of random categories, or groups of k-means, each of them once the outer tasks.
        kind: Whether whole categories are drawn, or tasks with similar definitions grouped.
        outer: Outer categories of a random split: a number of them, or a share below 1.
        metric: What is best: the highest score, or the lowest loss.
        max_steps: Theta steps of each run in place of the recipe's.
    """
    if splits < 2:
        raise ValueError(f"splits must be at least 2 to choose among, got {splits}")
    prefix = "crosstask.datamodules.bilevel.meta_split"
    tried: dict[str, dict[str, Any]] = {}
    for number in range(splits):
        if kind == "category":
            chosen = {"class_path": f"{prefix}.CategorySplit", "init_args": {"outer": outer, "seed": number}}
        else:
            chosen = {"class_path": f"{prefix}.ClusterSplit", "init_args": {"groups": splits, "group": number}}
        tried[f"{kind}-{number}"] = {"data": {"init_args": {"split": chosen}}}
    results = try_recipes(recipe, folder, tried, metric=metric, max_steps=max_steps)
    best = min(results, key=results.__getitem__) if metric == "validation/loss" else max(results, key=results.get)  # type: ignore[arg-type]
    (Path(folder) / "best_split.yaml").write_text(yaml.safe_dump(tried[best]), encoding="utf-8")
    print(f"best by {metric}: {best}; lay {folder}/best_split.yaml over the recipe")
