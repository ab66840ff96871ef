"""Adapt a pretrained language model to real tasks by scorers that choose among its responses, without training it.

    python experiments/adapt_on_real_tasks.py FOLDER --generator MODEL --encoder ENCODER

MODEL is a causal or encoder-decoder model, ENCODER a pretrained encoder (or a scorer): hub names or local folders.
Tasks are read from $CROSSTASK_DATA: 20 tasks of Super-NaturalInstructions, drawn by a seed among the generative ones in
English with short inputs and answers, and the generative folders of BIG-bench. The model samples responses to every
training instance: with two demonstrations (``--prompt few_shot``), or from the definition alone in its chat template
(``--prompt chat``). A shared scorer is trained once on all tasks of Super-NaturalInstructions. From it, a scorer is
trained for each task of both collections, once per seed. ``--ablations 1`` adds rows for the first seed (the paper's
Table 6): scorers that start from the encoder, and scorers that are trained without the model's responses.

Responses are sampled as in the paper (Cappy, arXiv 2311.06720, section 4.2), with greedy decoding instead of a beam
of 4, which costs as much as the 16 samples. A run resumes where it was interrupted. ``--seeds`` may be raised later,
and so may ``--tasks`` after the shared scorer and the folders adapted from it are removed.
"""

import argparse
import json
import os
import random
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from crosstask.callbacks.report.adaptation_seeds import seed_table
from crosstask.cli import main as crosstask_main
from crosstask.datamodules.benchmarks import BigBench

PARTS = ("test", "train")

DECODINGS = {
    "greedy": {},
    "sampling": {"sampling": True, "samples": 4},
    "temperature": {"sampling": True, "samples": 4, "temperature": 0.9},
    "top_k": {"sampling": True, "samples": 4, "top_k": 40},
    "nucleus": {"sampling": True, "samples": 4, "top_p": 0.95},
}

PLAIN = {
    "class_path": "OptImlPrompt",
    "init_args": {"delimiters": ["\nAnswer:"], "instructions_share": 0.0, "task_share": 0.0, "input_share": 0.0},
}
"""Prompt form: the definition, if a task has one, and the input."""

PROMPTS = {
    "few_shot": ({"class_path": "TkInstructPrompt", "init_args": {"positive_examples": 2}}, False),
    "chat": (PLAIN, True),
}
"""The model's prompt form for Super-NaturalInstructions, and whether it is in the chat template."""

SCORED = {"class_path": "TkInstructPrompt", "init_args": {"positive_examples": 0, "definition": False}}
"""The scorer's prompt form: the input alone, since the definition is the same for all instances of its task."""


def is_eligible(task: dict[str, Any]) -> bool:
    """Return whether a task is generative, in English, with short inputs and answers in natural language."""
    outputs = [texts(instance["output"]) for instance in task["Instances"]]
    answers = [output[0] for output in outputs if output]
    length = words(texts(task["Definition"])[0]) + median(words(instance["input"]) for instance in task["Instances"])
    return (
        {*task.get("Input_language", ()), *task.get("Output_language", ())} == {"English"}
        and task["Categories"][0] != "Program Execution"
        and len(answers) >= 100
        and len(set(answers)) >= len(answers) / 4
        and median(map(words, answers)) <= 10
        and length <= 100
    )


def words(text: str) -> int:
    return len(text.split())


def texts(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def drawn_tasks(folder: Path, count: int) -> list[str]:
    """Return `count` eligible tasks of a seeded draw; a longer list begins with the shorter one."""
    names = sorted(path.stem for path in folder.glob("*.json") if is_eligible(json.loads(path.read_text())))
    random.Random(0).shuffle(names)
    if len(names) < count:
        raise SystemExit(f"{folder} has {len(names)} eligible tasks, and --tasks is {count}")
    return names[:count]


def generative_folders(source: str) -> list[str]:
    """Return the names of the BIG-bench tasks of which no example has options."""
    bigbench = BigBench(source)
    names = bigbench.task_names("test")
    return [name for name in names if not any(example.options for example in bigbench.examples(name))]


class Run:
    """Runs commands of crosstask, each with its settings in a YAML in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, command: str, name: str, recipe: dict[str, Any]) -> None:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        crosstask_main([command, "--config", str(path)])


def sample(run: Run, name: str, settings: argparse.Namespace, recipe: dict[str, Any], part: str, *, chat: bool) -> Path:
    """Sample responses to a part of the tasks, and return their file; test responses have likelihoods."""
    output = run.folder / f"{name}_{part}"
    counts = {"train_examples": settings.train, "validation_examples": 0, "test_examples": settings.test}
    run(
        "samples",
        f"samples_{output.name}",
        {
            "examples": {**recipe, "parts": [part], **counts},
            "generator": settings.generator,
            "name": "model",
            "decodings": DECODINGS,
            "max_new_tokens": settings.max_new_tokens,
            "stop": ["\n"],
            "likelihood": part == "test",
            "dtype": settings.dtype,
            "chat": chat,
            "output": str(output),
        },
    )
    return output / "model-0000-of-0001.jsonl"


def shared_scorer(run: Run, settings: argparse.Namespace, benchmark: dict[str, Any], samples: Path) -> Path:
    """Train a scorer on the training instances of all tasks, starting from the encoder, and return its folder."""
    folder = run.folder / "shared"
    if (folder / "config.json").exists():
        return folder
    data = {
        "benchmark": benchmark,
        "tokenizer": settings.encoder,
        "prompt": SCORED,
        "augmentation": {"samples": [str(samples)]},
        "rows": {"length": 512, "pair_length": 256, "per_step": 4},
        "instances": {"train": settings.train, "validation": 0, "test": settings.test},
        "cache": str(run.folder / "store"),
    }
    export = {"class_path": "HuggingFaceExport", "init_args": {"folder": str(folder)}}
    model = {"pretrained": settings.encoder, "optimizer": {"learning_rate": settings.learning_rate}}
    recipe = {
        "seed_everything": 0,
        "trainer": {
            "devices": 1,
            "precision": settings.precision,
            "max_steps": settings.shared_steps,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "logger": False,
            "callbacks": [{"class_path": "PackingSummary"}, export],
        },
        "model": {"class_path": "ScorerModule", "init_args": model},
        "data": {"class_path": "ScorerDataModule", "init_args": data},
    }
    run("fit", "shared", recipe)
    return folder


def adapt(
    run: Run, name: str, settings: argparse.Namespace, recipe: dict[str, Any], pretrained: Path, seed: int
) -> dict[str, Any]:
    """Train a scorer for each task with one seed, and return the report."""
    training = {
        "pretrained": str(pretrained),
        "steps": settings.steps,
        "batch": 32,
        "learning_rate": settings.learning_rate,
        "row_length": 512,
        "pair_length": 256,
        "train_examples": settings.train,
        "precision": settings.precision,
        "seed": seed,
    }
    ablated = {"no pretraining": {"pretrained": settings.encoder}, "no augmentation": {"augmentation": False}}
    variants = ablated if settings.ablations and seed == 0 else {}
    output = run.folder / f"{name}_adapted_seed_{seed}"
    common = {"training": training, "variants": variants, "test_examples": settings.test}
    paths = {"output": str(output), "cache": str(run.folder / "store")}
    run("adapt", f"adapt_{output.name}", {**recipe, **common, **paths})
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


def sampled_super_natural_instructions(
    run: Run, settings: argparse.Namespace, folder: Path
) -> tuple[dict[str, Any], Path]:
    """Sample for Super-NaturalInstructions; return the recipe of `crosstask adapt`, and the training responses."""
    splits = run.folder / "splits"
    splits.mkdir(exist_ok=True)
    for split in PARTS:
        names = drawn_tasks(folder / "tasks", settings.tasks)
        (splits / f"{split}_tasks.txt").write_text("".join(f"{name}\n" for name in names))
    where = {"folder": str(folder), "splits": str(splits.resolve())}
    benchmark = {"class_path": "NaturalInstructions", "init_args": where}
    prompt, chat = PROMPTS[settings.prompt]
    sampled = {"benchmark": benchmark, "prompt": prompt}
    responses = {part: sample(run, "superni", settings, sampled, part, chat=chat) for part in PARTS}
    recipe = {"train": benchmark, "samples": [str(path) for path in responses.values()], "prompt": SCORED}
    return recipe, responses["train"]


def sampled_bigbench(run: Run, settings: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Sample for BIG-bench, and return the recipe of `crosstask adapt`."""
    names, responses, parts = generative_folders(str(folder)), {}, {}
    chat = PROMPTS[settings.prompt][1]
    for part in PARTS:
        arguments = {"source": str(folder), "part": "validation" if part == "test" else part, "tasks": names}
        parts[part] = {"class_path": "BigBench", "init_args": arguments}
        responses[part] = sample(
            run, "bigbench", settings, {"benchmark": parts[part], "prompt": PLAIN}, part, chat=chat
        )
    return {**parts, "samples": [str(path) for path in responses.values()], "prompt": PLAIN}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--generator", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CROSSTASK_DATA", ".")))
    parser.add_argument("--prompt", choices=list(PROMPTS), default="few_shot")
    parser.add_argument("--tasks", type=int, default=20, help="tasks of Super-NaturalInstructions")
    parser.add_argument("--bigbench", type=int, default=1, help="0 to leave BIG-bench out")
    parser.add_argument("--train", type=int, default=70, help="training instances of a task, with 17 responses each")
    parser.add_argument("--test", type=int, default=40, help="test instances of a task")
    parser.add_argument("--max_new_tokens", type=int, default=14)
    parser.add_argument("--shared_steps", type=int, default=560, help="steps of the shared scorer, of about 40 pairs")
    parser.add_argument("--steps", type=int, default=40, help="steps of each task's scorer, of 32 pairs")
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--seeds", type=int, default=1, help="seeds of the tasks' scorers")
    parser.add_argument("--ablations", type=int, default=0, help="1 to add the rows of Table 6 for the first seed")
    parser.add_argument("--dtype", default="float32", help="type of the language model's weights")
    parser.add_argument("--precision", default="32-true", help="the trainer's precision for scorers")
    settings = parser.parse_args(arguments)
    run = Run(settings.folder)
    recipe, responses = sampled_super_natural_instructions(run, settings, settings.data / "superni")
    recipes = {"superni": recipe}
    if settings.bigbench:
        recipes["bigbench"] = sampled_bigbench(run, settings, settings.data / "bigbench")
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in recipes}
    scorer = shared_scorer(run, settings, recipe["train"], responses)
    for seed in range(settings.seeds):
        for name, of_collection in recipes.items():
            reports[name].append(adapt(run, name, settings, of_collection, scorer, seed))
    for name, found in reports.items():
        print(f"\n{name}\n{seed_table(found)}")


if __name__ == "__main__":
    main()
