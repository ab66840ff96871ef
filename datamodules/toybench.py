"""Write the embedded benchmark: the files of Super-NaturalInstructions, small enough to learn in a minute.

::

    folder/
      tasks/task001_toy_copy_words.json ...    the real format, read by the real reader
      splits/default/{train,dev,test}_tasks.txt
      tokenizer/                               byte-level BPE, trained on the train tasks' text
      manifest.json                            what was asked for; written last

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

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .toy_tasks import SPLITS, TASKS, ToyTask

VERSION = 1
TEST_INSTANCES = 100
POSITIVE, NEGATIVE = 2, 1
VOCABULARY = 600
PROMPTS = (
    "Instructions: {}\nInput: {}\nAnswer: {}",
    "Task: {}\n{} Answer: {}",
    "{}\nInput: {}\nOutput: {}",
    "{}\n{} Output: {}",
    "{}\n{}\nA: {}",
    "{}\n{}\nanswer: {}",
    "{}\n{}\noutput: {}",
)


def write_toybench(folder: str | Path, *, instances: int = 500, seed: int = 0) -> None:
    """Write the embedded benchmark into a new or empty folder; leave a folder that already holds it.

    The same arguments write the same bytes. The folder appears complete or not at all.

    Args:
        folder: Where ``tasks/``, ``splits/`` and ``tokenizer/`` go.
        instances: Instances of each train task; the first 100 of them test a task that is also in the test split.
        seed: Of all instances.
    """
    if instances <= TEST_INSTANCES:
        raise ValueError(f"instances must exceed the {TEST_INSTANCES} that test a task, got {instances}")
    folder = Path(folder)
    manifest = {"benchmark": "toybench", "version": VERSION, "instances": instances, "seed": seed}
    if _holds(folder, manifest):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        draft = Path(scratch) / "toybench"
        _write(draft, instances, seed)
        _write_json(draft / "manifest.json", manifest)
        try:
            os.replace(draft, folder)  # succeeds over nothing or an empty folder
        except OSError:
            if not _holds(folder, manifest):  # another process was faster, and wrote something else
                raise


def _holds(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the folder holds the benchmark already; a folder that holds anything else is refused."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    path = folder / "manifest.json"
    found = json.loads(path.read_text()) if path.is_file() else "no toybench"
    if found != manifest:
        raise ValueError(
            f"{folder} is not empty and holds {found}, wanted {manifest}: name another folder, or remove this one"
        )
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
    _write_tokenizer(folder / "tokenizer", texts)


def task_record(task: ToyTask, prefix: str, instances: int, seed: int) -> dict[str, Any]:
    """One task in the layout of its JSON file."""
    pairs = _distinct_pairs(task, POSITIVE + NEGATIVE + instances, seed)
    positive, pairs = pairs[:POSITIVE], pairs[POSITIVE:]
    negative, pairs = pairs[:NEGATIVE], pairs[NEGATIVE:]
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
                "explanation": f"The output should be: {y} {task.operation.rule}",
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
    raise ValueError(f"task {task.name} has only about {len(pairs)} different inputs, {wanted} were asked for")


def _prompts(definition: str, instances: list[dict[str, Any]]) -> Iterator[str]:
    for place, instance in enumerate(instances):
        yield PROMPTS[place % len(PROMPTS)].format(definition, instance["input"], instance["output"][0])


def _write_tokenizer(folder: Path, texts: list[str]) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "model_max_length": 512,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=4) + "\n")
