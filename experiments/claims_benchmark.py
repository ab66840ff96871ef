"""Writes the embedded benchmark as the small copies of the papers' experiments use it (docs/claims.md).

    python experiments/claims_benchmark.py runs/claims/benchmark

Beside the benchmark's own split, ``splits/claims`` tests all tasks that do not train and, of those that do, only the
tasks of three categories: a study of 4 training categories has to train the categories of all supervised tasks.
``splits/unseen`` tests only tasks that do not train.
``pretraining/stories.jsonl`` holds text for the arms that mix pre-training text in. ``adapted/`` is a benchmark of the
tasks that scorers are trained for: tasks that do not train, answered by one word, with more instances than the
embedded benchmark has of them.
"""

import argparse
import json
import random
from pathlib import Path

from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.toybench.tasks import TASKS
from crosstask.datamodules.toybench.training_files import pretraining
from crosstask.datamodules.toybench.writer import task_record, write_toybench

SUPERVISED = ("Text Copying", "Word Order", "Element Selection")
"""Categories whose trained tasks are tested, too, on other instances."""

ADAPTED = "first_letters last_numbers lookup_animals count_colors has_names choose_foods find_colors find_foods".split()

STORIES, ADAPTED_INSTANCES = 1000, 300


def write_claims_benchmark(folder: Path, *, instances: int = 500) -> None:
    """Write the benchmark, its second split, the stories and the tasks of the scorers, as far as they are missing.

    Args:
        folder: Folder of the benchmark.
        instances: Instances of each training task.
    """
    write_toybench(folder, instances=instances)
    reader = NaturalInstructions(str(folder))
    train = reader.task_names("train")
    test = [name for name in reader.task_names("test") if name not in train or reader.task(name).category in SUPERVISED]
    _write_lists(folder / "splits/claims", train, test)
    _write_lists(folder / "splits/unseen", train, [name for name in test if name not in train])
    if not (folder / "pretraining").exists():
        pretraining(folder, random.Random(0), STORIES)
    if not (folder / "adapted").exists():
        _write_adapted(folder / "adapted")


def _write_adapted(folder: Path) -> None:
    tasks = {f"task{number:03d}_toy_{task.name}": task for number, task in enumerate(TASKS, 1) if task.name in ADAPTED}
    (folder / "tasks").mkdir(parents=True)
    for name, task in tasks.items():
        record = task_record(task, name.split("_")[0], ADAPTED_INSTANCES, seed=0)
        (folder / "tasks" / f"{name}.json").write_text(json.dumps(record))
    _write_lists(folder / "splits/default", [*tasks], [*tasks])


def _write_lists(folder: Path, train: list[str], test: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in (("train", train), ("test", test)):
        (folder / f"{split}_tasks.txt").write_text("".join(f"{name}\n" for name in names))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    write_claims_benchmark(parser.parse_args().folder)
