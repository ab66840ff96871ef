"""Tune a published language model on real tasks, and test it before and after at the three levels of generalization.

    python experiments/tune_on_real_tasks.py FOLDER --model MODEL

MODEL is a causal model: a hub name or a local folder. Tasks are drawn by a seed from Super-NaturalInstructions in
$CROSSTASK_DATA, among those with short texts. Adapters (LoRA) are trained on most training tasks of the draw. Tested
are instances of trained tasks that did not train (fully supervised), other tasks of trained categories (partially
supervised), and tasks of upstream's test categories, which never train (fully held out). Beside the tuned model are
the untuned one, the first line of its answers (it often continues with further examples), its answers in its chat
template (zero-shot), and the input itself.

The folder holds the YAML of every command, the evaluations, the adapters, ``comparison/report.html`` and
``table.md``. A run resumes where it was interrupted: finished evaluations are kept, training resumes from its last
checkpoint.
"""

import argparse
import json
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import yaml

from crosstask.cli import main as crosstask_main
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.rouge import rouge_l

RUNS = ("untuned", "untuned_chat", "tuned")
LEVELS = ("fully supervised", "partially supervised", "fully held out")


def is_eligible(task: dict[str, Any], most_words: int) -> bool:
    """Return whether a task has short texts in natural language; lists of letters, e.g., have many tokens."""
    instances = task["Instances"]
    definition = words(texts(task["Definition"])[0])
    answers = [texts(instance["output"])[0] for instance in instances if instance["output"]]
    return (
        task["Categories"][0] != "Program Execution"
        and len(answers) >= 60
        and median(map(words, answers)) <= 6
        and definition + median(words(instance["input"]) for instance in instances) <= most_words
    )


def words(text: str) -> int:
    return len(text.split())


def texts(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def drawn_tasks(folder: Path, settings: argparse.Namespace) -> dict[str, list[str]]:
    """Return the names of the training tasks (``trained``) and of the tested tasks of each level."""
    categories: dict[str, dict[str, str]] = {}
    short: set[str] = set()
    for split, most in (("train", settings.words), ("test", settings.tested_words)):
        names = (folder / "splits" / "bundle" / f"{split}_tasks.txt").read_text().split()
        files = {name: json.loads((folder / "tasks" / f"{name}.json").read_text()) for name in names}
        kept = [name for name, task in files.items() if is_eligible(task, most)]
        random.Random(0).shuffle(kept)
        categories[split] = {name: files[name]["Categories"][0] for name in kept}
        short |= {name for name in kept if is_eligible(files[name], settings.tested_words)}
    shared = Counter(categories["train"].values())
    testable = {name: category for name, category in categories["train"].items() if name in short}
    several = {name: category for name, category in testable.items() if shared[category] > 3}
    partial = spread(several, settings.tested)
    trained = [name for name in categories["train"] if name not in partial][: settings.tasks]
    supervised = spread({name: testable[name] for name in trained if name in short}, settings.supervised)
    tested = [supervised, partial, spread(categories["test"], settings.tested)]
    return {"trained": trained, **dict(zip(LEVELS, tested, strict=True))}


def spread(categories: dict[str, str], count: int) -> list[str]:
    """Return `count` tasks, taken in turns from their categories, so that no category has most of them."""
    turns: Counter[str] = Counter()
    ranked = []
    for place, (name, category) in enumerate(categories.items()):
        ranked.append((turns[category], place, name))
        turns[category] += 1
    return [name for *_, name in sorted(ranked)[:count]]


def recipe(settings: argparse.Namespace, splits: Path, run: str) -> dict[str, Any]:
    """Return the settings of `crosstask fit` and `crosstask test`."""
    checkpoint = {"every_n_train_steps": 10, "save_last": True, "save_top_k": 0, "enable_version_counter": False}
    callbacks: list[dict[str, Any]] = [
        {"class_path": name}
        for name in ("PackingSummary", "Throughput", "GeneralizationReport", "PredictionWriter", "RunSummary")
    ]
    callbacks.append({"class_path": "ModelCheckpoint", "init_args": checkpoint})
    chat = run == "untuned_chat"
    where = {"folder": "$CROSSTASK_DATA/superni", "splits": str(splits.resolve())}
    return {
        "seed_everything": 0,
        "trainer": {
            "accelerator": settings.accelerator,
            "devices": 1,
            "precision": settings.precision,
            "max_steps": settings.steps,
            "gradient_clip_val": 1.0,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "default_root_dir": str(settings.folder / run),
            "callbacks": callbacks,
        },
        "model": {
            "class_path": "InstructionTuningModule",
            "init_args": {
                "pretrained": settings.model,
                "lora": {"r": 16, "alpha": 32, "target_modules": settings.matrices},
                "optimizer": {"learning_rate": settings.learning_rate, "warmup": 0.1, "weight_decay": 0.0},
            },
        },
        "data": {
            "class_path": "InstructionTuningDataModule",
            "init_args": {
                "benchmark": {"class_path": "NaturalInstructions", "init_args": where},
                "prompt": {"class_path": "ChatPrompt" if chat else "OptImlPrompt"},
                "rows": {"length": settings.length, "per_step": settings.rows},
                "instances": {"train": settings.train, "validation": 0, "test": settings.test},
                "evaluation": {
                    "shots": [0] if chat else [0, 2],  # the chat form has no place for demonstrations
                    "max_new_tokens": settings.max_new_tokens,
                    "batch_tokens": 2048,
                },
                "cache": str(settings.folder / "store"),
            },
        },
    }


class Answered(NamedTuple):
    """Evaluated instance: its level and number of shots, and ROUGE-L in [0, 1] of each system's answer."""

    level: str
    shots: int
    task: str
    scores: Mapping[str, float]


def answered(predictions: Mapping[str, Path], inputs: Mapping[tuple[str, str], str]) -> list[Answered]:
    """Return the instances of the untuned model's evaluation, each with the scores of all evaluations.

    Args:
        predictions: File of each run's predictions; the chat form has none with demonstrations.
        inputs: The input of each (task, id).
    """
    records = {run: {_key(r): r for r in map(json.loads, path.open())} for run, path in predictions.items()}
    rows = []
    for key, record in records["untuned"].items():
        references = record["references"]
        first_line = record["prediction"].strip().partition("\n")[0]
        scores = {
            "untuned": record["rouge_l"],
            "untuned, first line": rouge_l(first_line, references),
            "untuned, chat": records["untuned_chat"].get(key, {}).get("rouge_l", math.nan),
            "input, copied": rouge_l(inputs[record["task"], record["id"]], references),
            "tuned": records["tuned"][key]["rouge_l"],
        }
        rows.append(Answered(record["level"].replace("_", " "), record["shots"], record["task"], scores))
    return rows


def _key(record: Mapping[str, Any]) -> tuple[str, str, int]:
    return record["task"], record["id"], record["shots"]


def task_interval(
    rows: Sequence[Answered], score: Callable[[Answered], float], resamples: int = 2000
) -> tuple[float, float, float]:
    """Return the mean over tasks in percent and its 95% interval, by resampling tasks and their instances."""
    by_task: dict[str, list[float]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(100 * score(row))
    tasks = [np.array(values) for values in by_task.values()]
    generator = np.random.default_rng(0)
    places = generator.integers(0, len(tasks), (resamples, len(tasks)))
    means = np.empty(places.shape)
    for place, values in enumerate(tasks):
        chosen = places == place
        means[chosen] = values[generator.integers(0, len(values), (chosen.sum(), len(values)))].mean(axis=1)
    low, high = np.percentile(means.mean(axis=1), [2.5, 97.5])
    return float(np.mean([values.mean() for values in tasks])), float(low), float(high)


def interval(rows: Sequence[Answered], score: Callable[[Answered], float]) -> str:
    """Return the mean over tasks in percent with its 95% interval as text, empty where there is no score."""
    if any(math.isnan(score(row)) for row in rows):
        return ""
    mean, low, high = task_interval(rows, score)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def table(rows: Sequence[Answered]) -> str:
    """Return a Markdown table of ROUGE-L before and after, with a row for each level (and all) and number of shots."""
    systems = list(rows[0].scores)
    best = [system for system in systems if system != "tuned"]
    heads = ["level", "shots", "tasks", "instances", *systems, *(f"tuned - {system}" for system in best)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for shots, level in product(sorted({row.shots for row in rows}), (*LEVELS, "all")):
        group = [row for row in rows if row.shots == shots and level in (row.level, "all")]
        cells = [level, str(shots), str(len({row.task for row in group})), str(len(group))]
        cells += [interval(group, lambda row, system=system: row.scores[system]) for system in systems]
        cells += [interval(group, lambda row, s=system: row.scores["tuned"] - row.scores[s]) for system in best]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def evaluate(settings: argparse.Namespace, run: str) -> Path:
    """Evaluate a run on the test instances, unless it is finished, and return its predictions' file."""
    folder = settings.folder / run
    if not list(folder.glob("version_*/predictions/test.jsonl")):
        recipe = ["--config", str(settings.folder / f"{run}.yaml")]
        words: list[str] = []
        if run == "tuned":
            crosstask_main(["fit", *recipe, "--ckpt_path", "last"])
            words = ["--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
        crosstask_main(["test", *recipe, *words])
    (predictions,) = folder.glob("version_*/predictions/test.jsonl")
    return predictions


def compare(settings: argparse.Namespace, predictions: Mapping[str, Path]) -> None:
    """Write ``table.md`` and ``comparison/report.html``."""
    benchmark = NaturalInstructions(str(settings.data / "superni"), splits=str((settings.folder / "splits").resolve()))
    inputs = {
        (name, example.id): example.input
        for name in benchmark.task_names("test")
        for example in benchmark.examples(name)
    }
    (settings.folder / "table.md").write_text(table(answered(predictions, inputs)))
    runs = [f"{run}={settings.folder / run}" for run in ("untuned", "tuned")]
    crosstask_main(["report", *runs, "--folder", str(settings.folder / "comparison")])
    print((settings.folder / "table.md").read_text())


def write_recipes(settings: argparse.Namespace) -> None:
    """Draw the tasks, and write their lists and the YAML of every run."""
    tasks = drawn_tasks(settings.data / "superni", settings)
    splits = settings.folder / "splits"
    splits.mkdir(parents=True, exist_ok=True)
    tested = [name for level in LEVELS for name in tasks[level]]
    for split, names in (("train", tasks["trained"]), ("test", tested)):
        (splits / f"{split}_tasks.txt").write_text("\n".join(names) + "\n")
    for run in RUNS:
        text = yaml.safe_dump(recipe(settings, splits, run), sort_keys=False)
        (settings.folder / f"{run}.yaml").write_text(text)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CROSSTASK_DATA", ".")))
    parser.add_argument("--tasks", type=int, default=96, help="most training tasks")
    parser.add_argument("--tested", type=int, default=10, help="tested tasks of each level")
    parser.add_argument("--supervised", type=int, help="tested tasks that train, if not as many as of other levels")
    parser.add_argument("--words", type=int, default=60, help="most words of a definition and the median input")
    parser.add_argument("--tested_words", type=int, help="the same of tested tasks, if not those of training tasks")
    parser.add_argument("--train", type=int, default=50, help="training instances of a task")
    parser.add_argument("--test", type=int, default=4, help="test instances of a task")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rows", type=int, default=2, help="rows of a step")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--matrices", nargs="+", default=["q_proj", "k_proj", "v_proj", "o_proj"])
    parser.add_argument("--max_new_tokens", type=int, default=16)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument(
        "--draw_only", action="store_true", help="only write the lists of tasks and the YAML of the runs"
    )
    settings = parser.parse_args(arguments)
    for name, same in (("supervised", settings.tested), ("tested_words", settings.words)):
        if getattr(settings, name) is None:
            setattr(settings, name, same)
    write_recipes(settings)
    if settings.draw_only:
        return
    compare(settings, {run: evaluate(settings, run) for run in RUNS})


if __name__ == "__main__":
    main()
