"""Write the embedded benchmark: the files of Super-NaturalInstructions, small enough to learn in a minute.

::

    folder/
      tasks/task001_toy_copy_animals.json ...      the real format, read by the real reader
      splits/default/{train,dev,test}_tasks.txt
      tokenizer/                                   byte-level BPE, trained on the train tasks' text
      families/                                    with ``families``: every other family's format, see toy_families.py
      manifest.json                                what was asked for

The three levels of generalization come from the split files alone. A task that both ``train_tasks.txt`` and
``test_tasks.txt`` list is fully supervised: its first 100 instances are the test's, the others train. A task of the
test alone is partially supervised if a train task shares its category, and fully held out if none does.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from ..rendering.bpe import write_bpe
from .families import write_families
from .tasks import SPLITS, TASKS, ToyTask

VERSION = 1  # of the written text; raised whenever the same arguments write something else
TEST_INSTANCES = 100  # of a task that trains too, the first ones of its file; of a task that does not, all
N_POSITIVE, N_NEGATIVE = 2, 1
VOCABULARY = 600  # nearly every word of the tasks is one token, with its space

# What the tokenizer is trained on: the field names of instruction prompts, each often enough to be a token.
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
    """Write the embedded benchmark into a new or empty folder; leave a folder that already holds it.

    The same arguments write the same bytes. The folder appears complete or not at all.

    Args:
        folder: Where ``tasks/``, ``splits/`` and ``tokenizer/`` go.
        instances: Instances of each train task; the first 100 of them test a task that is also in the test split.
        seed: Of all instances.
        families: Whether to write a small folder in the format of every other benchmark family, too, in ``families/``.
    """
    if instances <= TEST_INSTANCES:
        raise ValueError(f"instances must exceed the {TEST_INSTANCES} that test a task, got {instances}")
    folder = Path(folder).expanduser().resolve()
    asked = {"benchmark": "toybench", "version": VERSION, "instances": instances, "seed": seed}
    manifest = json.dumps(asked | {"families": True} if families else asked)
    if _holds(folder, manifest):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        draft = Path(scratch) / "draft"
        _write(draft, instances, seed)
        if families:
            write_families(draft / "families", seed=seed)
        (draft / "manifest.json").write_text(manifest)
        try:
            os.replace(draft, folder)  # moves over nothing, or over an empty folder
        except OSError:
            if not _holds(folder, manifest):  # true where another process wrote the same meanwhile
                raise


def _holds(folder: Path, manifest: str) -> bool:
    """Whether the folder holds this very benchmark; a folder that holds anything else is refused."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    path = folder / "manifest.json"
    found = path.read_text(errors="replace") if path.is_file() else "something else"
    if found != manifest:
        raise ValueError(f"{folder} should be new, empty or hold {manifest}, but holds {found}; name another folder")
    return True


def _write(folder: Path, instances: int, seed: int) -> None:
    listed: dict[str, list[str]] = {split: [] for split in SPLITS}
    texts: list[str] = []
    (folder / "tasks").mkdir(parents=True)
    for number, task in enumerate(TASKS, start=1):
        name = f"task{number:03d}_toy_{task.name}"
        record = task_record(task, f"task{number:03d}", instances if "train" in task.splits else TEST_INSTANCES, seed)
        _write_json(folder / "tasks" / f"{name}.json", record)
        for split in task.splits:
            listed[split].append(name)
        if "train" in task.splits:
            texts += _prompts(task.definition, record["Instances"][TEST_INSTANCES:])
    (folder / "splits/default").mkdir(parents=True)
    for split, names in listed.items():
        (folder / "splits/default" / f"{split}_tasks.txt").write_text("".join(f"{name}\n" for name in names))
    write_bpe(texts, folder / "tokenizer", vocabulary=VOCABULARY, longest=512)


def task_record(task: ToyTask, prefix: str, instances: int, seed: int) -> dict[str, Any]:
    """The record of a task's JSON file; ``prefix`` starts the instances' ids, as in ``task020-1211fc...``."""
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
            rng.shuffle(drawn)  # short inputs are drawn early, before they are used up
            return drawn
    raise ValueError(f"task {task.name} has only about {len(pairs)} different inputs, {wanted} were wanted")


def _prompts(definition: str, instances: list[dict[str, Any]]) -> Iterator[str]:
    for place, instance in enumerate(instances):
        yield PROMPTS[place % len(PROMPTS)].format(definition, instance["input"], instance["output"][0])


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=4) + "\n")
