"""Writer of the embedded benchmark: files in the format of Super-NaturalInstructions, learned in a minute.

::

    folder/
      tasks/task001_toy_copy_animals.json ...      the real format, read by the real reader
      splits/default/{train,dev,test}_tasks.txt
      splits/choose/{train,test}_tasks.txt         the five tasks of choosing an option; four of them train
      tokenizer/                                   byte-level BPE, trained on the train tasks' text
      families/                                    with ``families``: files for every other reader, see families.py
      manifest.json                                the arguments

The three levels of generalization follow from the split files. A task in ``train_tasks.txt`` and ``test_tasks.txt`` is
fully supervised: 100 of its instances are for testing, the others for training. A task in ``test_tasks.txt`` alone is
partially supervised if a training task has its category, and fully held out otherwise.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from ..atomic_files import naming, partial_path, remove
from ..messages import expanded
from ..rendering.bpe import write_bpe
from .families import write_families
from .tasks import SPLITS, TASKS, ToyTask

VERSION = 1  # raise it when the same arguments write other text
TEST_INSTANCES = 100  # held out by a task that also trains; any other task has only these
N_POSITIVE, N_NEGATIVE = 2, 1
VOCABULARY = 600  # nearly every word of the tasks is one token, with its space

# Training text of the tokenizer: the field names of instruction prompts, frequent enough to become tokens.
PROMPTS = (
    "Instructions: {}\nInput: {}\nAnswer: {}",
    "Task: {}\n{} Answer: {}",
    "{}\nInput: {}\nOutput: {}",
    "{}\n{} Output: {}",
    "{}\n{}\nA: {}",
    "{}\n{}\nanswer: {}",
    "{}\n{}\noutput: {}",
)


def write_toybench(folder: str | Path, *, instances: int = 500, seed: int = 0, families: bool = False) -> None:
    """Write a synthetic benchmark in the format of Super-NaturalInstructions, which a small model learns in minutes.

    The folder must be new or empty; if it already holds the same benchmark, nothing is done. Equal arguments write
    equal bytes. The folder is moved into place when it is complete.

    Args:
        folder: Folder for ``tasks/``, ``splits/`` and ``tokenizer/``.
        instances: Instances of each training task, more than 100; 100 of them are for testing if the task is in the
            test split.
        seed: Seed of all instances.
        families: Whether to also write ``families/``, with small files for every other benchmark reader.

    Raises:
        ValueError: There are too few instances, or the folder holds something else.
    """
    if instances <= TEST_INSTANCES:
        raise ValueError(f"instances must exceed the {TEST_INSTANCES} that test a task, got {instances}")
    folder = expanded(folder).resolve()
    arguments = {"benchmark": "toybench", "version": VERSION, "instances": instances, "seed": seed}
    manifest = json.dumps(arguments | {"families": True} if families else arguments)
    if _holds(folder, manifest):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = partial_path(folder)
    with naming(folder):
        try:
            _write(draft, instances, seed)
            if families:
                write_families(draft / "families", seed=seed)
            (draft / "manifest.json").write_text(manifest)
            os.replace(draft, folder)  # replaces a missing or an empty folder
        except OSError:
            if not _holds(folder, manifest):  # true if another process has written the same benchmark
                raise
        finally:
            remove(draft)


def _holds(folder: Path, manifest: str) -> bool:
    """Return whether the folder holds the benchmark with this manifest.

    Raises:
        ValueError: It holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    path = folder / "manifest.json"
    content = path.read_text(errors="replace") if path.is_file() else "something else"
    if content != manifest:
        raise ValueError(f"{folder} should be new, empty or hold {manifest}, but holds {content}; name another folder")
    return True


def _write(folder: Path, instances: int, seed: int) -> None:
    names_of: dict[str, list[str]] = {split: [] for split in SPLITS}
    texts: list[str] = []
    (folder / "tasks").mkdir(parents=True)
    for number, task in enumerate(TASKS, start=1):
        name = f"task{number:03d}_toy_{task.name}"
        record = task_record(task, f"task{number:03d}", instances if "train" in task.splits else TEST_INSTANCES, seed)
        _write_json(folder / "tasks" / f"{name}.json", record)
        for split in task.splits:
            names_of[split].append(name)
        if "train" in task.splits:
            texts += _prompts(task.definition, record["Instances"][TEST_INSTANCES:])
    _write_split_lists(folder / "splits/default", names_of)
    choosing = [name for name in names_of["train"] if "_toy_choose_" in name]
    unseen = [name for name in names_of["test"] if "_toy_choose_" in name and name not in choosing]
    _write_split_lists(folder / "splits/choose", {"train": choosing, "test": choosing + unseen})
    write_bpe(texts, folder / "tokenizer", vocabulary=VOCABULARY, longest=512)


def _write_split_lists(folder: Path, names_of: dict[str, list[str]]) -> None:
    folder.mkdir(parents=True)
    for split, names in names_of.items():
        (folder / f"{split}_tasks.txt").write_text("".join(f"{name}\n" for name in names))


def task_record(task: ToyTask, prefix: str, instances: int, seed: int) -> dict[str, Any]:
    """Return the content of a task's JSON file in the format of Super-NaturalInstructions, with random instances.

    Args:
        task: The task.
        prefix: Beginning of the instances' ids, e.g. ``task020`` of ``task020-1211fc...``.
        instances: Number of instances.
        seed: Seed of the instances.
    """
    pairs = _distinct_pairs(task, N_POSITIVE + N_NEGATIVE + instances, seed)
    positive, pairs = pairs[:N_POSITIVE], pairs[N_POSITIVE:]
    negative, pairs = pairs[:N_NEGATIVE], pairs[N_NEGATIVE:]
    return {
        "Contributors": ["crosstask"],
        "Source": [f"toy_{task.name}"],
        "URL": [],
        "Categories": [task.operation.category],
        "Reasoning": [],
        "Definition": [task.definition],
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Instruction_language": ["English"],
        "Domains": ["Synthetic"],
        "Positive Examples": [{"input": x, "output": y, "explanation": task.operation.rule} for x, y in positive],
        "Negative Examples": [
            {
                "input": x,
                "output": next(other for _, other in pairs if other != y),
                "explanation": f"{task.operation.rule} The output should be '{y}'.",
            }
            for x, y in negative
        ],
        "Instances": [
            {"id": f"{prefix}-{hashlib.md5(x.encode()).hexdigest()}", "input": x, "output": [y]} for x, y in pairs
        ],
        "Instance License": ["Apache 2.0"],
    }


def _distinct_pairs(task: ToyTask, wanted: int, seed: int) -> list[tuple[str, str]]:
    rng = Random(f"{seed} {task.name}")
    pairs: dict[str, str] = {}
    for _ in range(20 * wanted):
        x, y = task.draw(rng)
        pairs.setdefault(x, y)
        if len(pairs) == wanted:
            drawn = list(pairs.items())
            rng.shuffle(drawn)  # short inputs are rare, and mostly drawn early
            return drawn
    raise ValueError(f"task {task.name} has only about {len(pairs)} different inputs, and {wanted} are needed")


def _prompts(definition: str, instances: list[dict[str, Any]]) -> Iterator[str]:
    for place, instance in enumerate(instances):
        yield PROMPTS[place % len(PROMPTS)].format(definition, instance["input"], instance["output"][0])


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=4) + "\n")
