"""Code that the experiments share: tasks drawn from Super-NaturalInstructions, a trainer, and files of results."""

import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from transformers import PreTrainedTokenizerBase

from crosstask.commands.tokenizer import train_tokenizer
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.benchmarks import Split
from crosstask.datamodules.rendering.tokenization import load_tokenizer
from crosstask.lightning_modules.evaluation.significance import seed_interval

SOURCE = "$CROSSTASK_DATA/superni"
Eligible = Callable[[NaturalInstructions, str, PreTrainedTokenizerBase], bool]


def bundled_tasks() -> NaturalInstructions:
    """Return Super-NaturalInstructions in the folder that CROSSTASK_DATA names."""
    return NaturalInstructions(SOURCE, splits="splits/bundle")


def draw_tasks(
    folder: Path, counts: Mapping[Split, int], is_eligible: Eligible, *, vocabulary: int
) -> NaturalInstructions:
    """Draw eligible tasks by a seed, and train a tokenizer in ``folder/tokenizer``; existing files are reused.

    Args:
        folder: Folder of the tokenizer and the lists of tasks.
        counts: Number of tasks of each split.
        is_eligible: Called with the benchmark, the name of a task and the tokenizer.
        vocabulary: Tokens of the tokenizer.

    Raises:
        ValueError: A split has too few eligible tasks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bundle = bundled_tasks()
    if not (folder / "tokenizer").exists():
        train_tokenizer(bundle, str(folder / "tokenizer"), vocabulary=vocabulary)
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    for split, count in counts.items():
        if not (folder / f"{split}_tasks.txt").exists():
            names = [name for name in bundle.task_names(split) if is_eligible(bundle, name, tokenizer)]
            if len(names) < count:
                raise ValueError(f"{len(names)} {split} tasks of {SOURCE} are eligible, expected at least {count}")
            random.Random(0).shuffle(names)
            write_names(folder, split, names[:count])
    return NaturalInstructions(SOURCE, splits=str(folder.resolve()))


def write_names(folder: Path, split: Split, names: Iterable[str]) -> None:
    """Write the list of a split's tasks."""
    (folder / f"{split}_tasks.txt").write_text("\n".join(sorted(names)) + "\n")


def cpu_trainer(steps: int, *callbacks: L.Callback) -> L.Trainer:
    """Return a trainer on one CPU process that validates and saves nothing."""
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=list(callbacks),
    )


def read_results(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the results in a folder, by (arm, seed)."""
    path = folder / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(result["arm"], result["seed"]): result for result in map(json.loads, lines)}


def append_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Append a result, with its arm and seed, to ``results.jsonl``."""
    with open(folder / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def t_interval(values: list[float]) -> tuple[float, float, float]:
    """Return (mean, lower end, upper end) of the 95% interval of the mean by Student's t.

    Raises:
        ValueError: There are fewer than two values.
    """
    estimate = seed_interval(values, len(values))
    return estimate.mean, estimate.low, estimate.high
