"""A small adaptation of a frozen language model by scorers that choose among its answers.

    python examples/adapt_with_a_scorer.py [FOLDER] [--seeds 5]

Everything is trained here, on the embedded benchmark. A language model of 0.9M parameters is trained for half as long
as the quickstart's, so that it errs, and answers instances of eight tasks that it was never trained on with Cappy's 17
responses (arXiv 2311.06720, section 4.2). For each task a scorer of 0.4M parameters learns from references, mismatches
and the model's answers to training instances, from random weights, and chooses among the model's answers to test
instances; once for each seed. Printed are ROUGE-L of every way to choose with 95% t-intervals over seeds, the share of
(oracle - best single decoding) that the scorer recovers, and the rank correlation of its scores. Started again, it goes
on where it was.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

import crosstask
from crosstask.callbacks.report.adaptation_seeds import seed_table
from crosstask.cli import main as crosstask_main
from crosstask.commands.shared.config_names import composed_settings
from crosstask.datamodules.toybench.tasks import TASKS
from crosstask.datamodules.toybench.writer import task_record

CONFIGS = Path(crosstask.__file__).parent / "configs"

ADAPTED = "first_letters last_numbers lookup_animals count_colors has_names choose_foods find_colors find_foods".split()
"""Test tasks that never train and are answered by one word."""

PROMPT = {  # one wording: from random weights, every other one would have to be learned too
    "class_path": "OptImlPrompt",
    "init_args": {"delimiters": ["\nAnswer:"], "instructions_share": 0.0, "task_share": 0.0, "input_share": 0.0},
}

ENCODER = {
    "model_type": "roberta",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def run(*words: Any) -> None:
    """Run a command of crosstask."""
    crosstask_main([str(word) for word in words])


def train_generator(folder: Path, steps: int) -> Path:
    """Train the quickstart's model for `steps` steps, and return its folder."""
    exported = folder / "generator"
    if not (exported / "config.json").exists():
        recipe = composed_settings("quickstart")
        recipe["trainer"]["callbacks"] = [{"class_path": "HuggingFaceExport", "init_args": {"folder": str(exported)}}]
        recipe["trainer"] |= {"max_steps": steps, "logger": False, "enable_checkpointing": False}
        recipe["trainer"] |= {"limit_val_batches": 0, "num_sanity_val_steps": 0, "enable_progress_bar": False}
        recipe["model"]["init_args"]["optimizer"]["warmup"] = min(60, steps // 2)
        recipe["data"]["init_args"] |= {
            "benchmark": benchmark(folder / "toybench"),
            "tokenizer": str(folder / "toybench" / "tokenizer"),
            "cache": str(folder / "store"),
        }
        run("fit", "--config", written(folder / "generator.yaml", recipe))
    return exported


def benchmark(folder: Path) -> dict[str, Any]:
    return {"class_path": "NaturalInstructions", "init_args": {"folder": str(folder)}}


def written(path: Path, recipe: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(recipe))
    return path


def write_adapted(folder: Path, names: list[str], instances: int) -> None:
    """Write the tasks to adapt to as a benchmark, with more instances than the embedded benchmark has."""
    tasks = {f"task{n:03d}_toy_{task.name}": task for n, task in enumerate(TASKS, start=1) if task.name in names}
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    (folder / "splits" / "default").mkdir(parents=True, exist_ok=True)
    for name, task in tasks.items():
        record = task_record(task, name.split("_")[0], instances, seed=0)
        (folder / "tasks" / f"{name}.json").write_text(json.dumps(record))
    for split in ("train", "test"):
        (folder / "splits" / "default" / f"{split}_tasks.txt").write_text("".join(f"{name}\n" for name in tasks))


def sample(folder: Path, generator: Path, train: int, test: int) -> Path:
    """Sample the model's 17 answers to every instance, and return their file."""
    counts = {"train_examples": train, "validation_examples": 0, "test_examples": test}
    examples = {"benchmark": benchmark(folder / "adapted"), "prompt": PROMPT, "parts": ["train", "test"], **counts}
    settings = {"examples": examples, "generator": str(generator), "output": str(folder / "samples")}
    run("samples", "--config", written(folder / "samples.yaml", {**settings, "max_new_tokens": 12}))
    [path] = (folder / "samples").glob("*.jsonl")
    return path


def adapt(folder: Path, seed: int, samples: Path, steps: int, train: int, test: int) -> Any:
    """Train a scorer for each task with one seed, and return the report of all tasks."""
    training = {
        "config": ENCODER,
        "tokenizer": str(folder / "toybench" / "tokenizer"),
        "steps": steps,
        "batch": 48,
        "learning_rate": 2e-3,
        "row_length": 256,
        "pair_length": 128,
        "train_examples": train,
        "accelerator": "cpu",
        "seed": seed,
    }
    output = folder / f"scorers_{steps}_steps_seed_{seed}"
    settings = {
        "train": benchmark(folder / "adapted"),
        "samples": [str(samples)],
        "prompt": PROMPT,
        "training": training,
        "test_examples": test,
        "cache": str(folder / "store"),
        "output": str(output),
    }
    run("adapt", "--config", written(folder / "adapt.yaml", settings))
    return json.loads((output / "report.json").read_text())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/adapt_with_a_scorer"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generator_steps", type=int, default=800)
    parser.add_argument("--scorer_steps", type=int, default=400, help="for each task, of 48 pairs")
    parser.add_argument("--train", type=int, default=400, help="training instances of a task, with 17 answers each")
    parser.add_argument("--test", type=int, default=100, help="test instances of a task")
    parser.add_argument("--tasks", nargs="*", default=ADAPTED, help="operation and kind, as in toybench/tasks.py")
    settings = parser.parse_args(arguments)
    folder: Path = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    run("toybench", "--folder", folder / "toybench")
    write_adapted(folder / "adapted", settings.tasks, settings.train + settings.test)
    samples = sample(folder, train_generator(folder, settings.generator_steps), settings.train, settings.test)
    counts = {"steps": settings.scorer_steps, "train": settings.train, "test": settings.test}
    print(seed_table([adapt(folder, seed, samples, **counts) for seed in range(settings.seeds)]))


if __name__ == "__main__":
    main()
