"""Write the embedded benchmark for the small copies of the papers' experiments (docs/claims.md).

    python experiments/claims_benchmark.py runs/claims/benchmark

Beside the benchmark's own split, ``splits/claims`` tests all tasks that do not train and, of those that do, only the
tasks of three categories: a study of 4 training categories has to train the categories of all supervised tasks.
``splits/unseen`` tests only tasks that do not train.
``pretraining/stories.jsonl`` holds text for the arms that mix pre-training text in. ``adapted/`` is a benchmark of the
tasks that scorers are trained for: tasks that do not train, answered by one word, with more instances than the
embedded benchmark has of them. ``splits/huge``, ``wide`` and ``narrow`` divide the tasks among three collections, for
the arms about mixtures, and ``explained/`` has tasks that are answered by a reason and then the answer.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.toybench.tasks import KIND_OF, POOLS, TASKS, Draw, Operation, ToyTask
from crosstask.datamodules.toybench.training_files import pretraining
from crosstask.datamodules.toybench.writer import task_record, write_toybench

SUPERVISED = ("Text Copying", "Word Order", "Element Selection")
"""Categories whose training tasks are tested, too, on other instances."""

ADAPTED = "first_letters last_numbers lookup_animals count_colors has_names choose_foods find_colors find_foods".split()

STORIES, ADAPTED_INSTANCES, EXPLAINED_INSTANCES = 1000, 300, 200

HUGE = ("Text Copying", "Word Order")
"""Categories of the collection ``huge``, whose tasks have ten times the instances of others (``mixtures.yaml``)."""

NARROW = ("Element Selection", "Key Lookup", "Keyword Extraction", "Membership", "Multiple Choice")
"""Categories of the collection ``narrow``, which are answered by one word; the rest is ``wide``."""


def explained(reason: Callable[[list[str]], tuple[str, str]]) -> Draw:
    """Return a function that draws instances of two or three items, answered by a reason and then the answer."""

    def draw(rng: random.Random, kind: str) -> tuple[str, str]:
        items = rng.sample(POOLS[kind], rng.randint(2, 3))
        return f"list: {' '.join(items)}", "{}. The answer is {}.".format(*reason(items))

    return draw


EXPLAINED = (
    Operation(
        "sorted_last",
        "Explained Answers",
        "Which {} is the last one from a to z? Explain first.",
        "It is sorted first.",
        explained(lambda items: (f"From a to z they are {' '.join(sorted(items))}", max(items))),
        train="animal food letter",
        test="color",
    ),
    Operation(
        "reversed_first",
        "Explained Answers",
        "Which {} is the first one in reverse order? Explain first.",
        "It is reversed first.",
        explained(lambda items: (f"In reverse order they are {' '.join(items[::-1])}", items[-1])),
        train="animal food name",
        test="color letter",
    ),
    Operation(
        "last_capital",
        "Explained Answers",
        "Write the last {} in capital letters. Explain first.",
        "The last one comes first.",
        explained(lambda items: (f"The last one is {items[-1]}", items[-1].upper())),
        train="animal color",
        test="food",
    ),
    Operation(
        "last_kind",
        "Explained Answers",
        "Write the kind of the last {}. Explain first.",
        "The last one comes first.",
        explained(lambda items: (f"The last one is {items[-1]}", KIND_OF[items[-1]])),
        test="word",
    ),
)


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
    unseen = [name for name in test if name not in train]
    _write_lists(folder / "splits/unseen", train, unseen)
    for collection in ("huge", "wide", "narrow"):
        lists = [[name for name in names if _collection(reader, name) == collection] for names in (train, unseen)]
        _write_lists(folder / f"splits/{collection}", *lists)
    if not (folder / "pretraining").exists():
        pretraining(folder, random.Random(0), STORIES)
    if not (folder / "adapted").exists():
        _write_adapted(folder / "adapted")
    if not (folder / "explained").exists():
        _write_explained(folder / "explained")


def _collection(reader: NaturalInstructions, name: str) -> str:
    """Return the collection of a task in the arms about the mixture."""
    category = reader.task(name).category
    return "huge" if category in HUGE else "narrow" if category in NARROW else "wide"


def _write_adapted(folder: Path) -> None:
    tasks = {f"task{number:03d}_toy_{task.name}": task for number, task in enumerate(TASKS, 1) if task.name in ADAPTED}
    _write_tasks(folder, tasks, ADAPTED_INSTANCES)
    _write_lists(folder / "splits/default", tasks, tasks)


def _write_explained(folder: Path) -> None:
    tasks = [
        ToyTask(operation, kind) for operation in EXPLAINED for kind in f"{operation.train} {operation.test}".split()
    ]
    named = {f"task{number:03d}_toy_{task.name}": task for number, task in enumerate(tasks, 1)}
    _write_tasks(folder, named, EXPLAINED_INSTANCES)
    train, test = ([name for name, task in named.items() if split in task.splits] for split in ("train", "test"))
    _write_lists(folder / "splits/default", train, test)


def _write_tasks(folder: Path, tasks: dict[str, ToyTask], instances: int) -> None:
    (folder / "tasks").mkdir(parents=True)
    for name, task in tasks.items():
        record = task_record(task, name.split("_")[0], instances, seed=0)
        (folder / "tasks" / f"{name}.json").write_text(json.dumps(record))


def _write_lists(folder: Path, train: Iterable[str], test: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in (("train", train), ("test", test)):
        (folder / f"{split}_tasks.txt").write_text("".join(f"{name}\n" for name in names))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    write_claims_benchmark(parser.parse_args().folder)
