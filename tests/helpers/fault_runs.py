"""Small runs of commands that write results, for tests that disturb them, and the results that must be equal."""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from bilevel_runs import DATA
from recipes import save_model, tuning_data
from small_runs import ENCODER
from transformers import AutoTokenizer

from crosstask.cli import main
from crosstask.datamodules import NaturalInstructions
from crosstask.datamodules.scoring.samples import Sample

TASK = "task001_toy_copy_animals"
STEPS = 6
OPTIMIZER = {"learning_rate": 0.01, "warmup": 2}


@dataclass(frozen=True)
class Run:
    """Command that is started again until it has finished.

    Args:
        words: Function from the folder of the results and the number of the start to the words of the command line.
        result: Function from the folder to the results, as values that compare.
    """

    words: Callable[[Path, int], list[str]]
    result: Callable[[Path], Any]


def write_runs(home: Path, toybench: Path, model: dict[str, Any]) -> dict[str, Run]:
    """Write recipes and models into a folder, and return the runs that read them, by name."""
    toy, tokenizer = _benchmark(toybench), str(toybench / "tokenizer")
    shared = {"benchmark": toy, "tokenizer": tokenizer, "instances": {"validation": 1, "test": 3}}
    shared |= {"cache": str(home / "store")}
    scorer = {**shared, "rows": {"length": 256, "pair_length": 96, "per_step": 2}}
    small = {**model, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    split = {"class_path": "CategorySplit", "init_args": {"outer": 4}}
    levels = {**DATA, "benchmark": toy, "tokenizer": tokenizer, "split": split}
    runs = {
        "fit, tuning": _fit(
            home / "tuning.yaml",
            ("InstructionTuningModule", {"config": model, "network": {"embedding_dropout": 0.1}}),
            tuning_data(
                toybench, cache=str(home / "store"), rows={"per_step": 2}, instances={"validation": 1, "test": 3}
            ),
        ),
        "fit, scorer": _fit(
            home / "scorer.yaml",
            ("ScorerModule", {"config": ENCODER}),
            {"class_path": "ScorerDataModule", "init_args": scorer},
        ),
        "fit, optimization": _fit(
            home / "optimization.yaml",
            ("InstructionOptimizationModule", {"config": small, "outer": {"learning_rate": 0.01}}),
            {"class_path": "InstructionOptimizationDataModule", "init_args": levels},
        ),
    }
    vocabulary = len(AutoTokenizer.from_pretrained(tokenizer))
    weights = save_model("llama", home, vocabulary)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(weights)
    prepare = ["prepare", "--config", str(home / "tuning.yaml")]
    runs["prepare"] = Run(lambda folder, _: [*prepare, f"--data.cache={folder / 'store'}"], _store)
    runs["test"] = _test(home, str(weights))
    runs["samples"] = _samples(toybench, str(weights))
    runs["adapt"] = _adapt(home, toybench)
    main(prepare)
    return runs


def _fit(path: Path, module: tuple[str, dict[str, Any]], data: dict[str, Any]) -> Run:
    """Return a training that writes a checkpoint after every step, and resumes from the last one."""
    checkpoints = {"dirpath": "", "every_n_train_steps": 1, "save_last": True, "enable_version_counter": False}
    trainer = {
        **{"accelerator": "cpu", "devices": 1, "max_steps": STEPS, "limit_val_batches": 0, "log_every_n_steps": 1},
        **{"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0},
        "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "", "name": None}},
        "callbacks": [{"class_path": "ModelCheckpoint", "init_args": checkpoints}],
    }
    model = {"class_path": module[0], "init_args": {**module[1], "optimizer": OPTIMIZER}}
    path.write_text(yaml.safe_dump({"seed_everything": 0, "trainer": trainer, "model": model, "data": data}))

    def words(folder: Path, start: int) -> list[str]:
        logger = f"--trainer.logger.init_args.save_dir={folder / 'logs'}"
        version = f"--trainer.logger.init_args.version={start}"
        checkpoints = f"--trainer.callbacks.init_args.dirpath={folder / 'checkpoints'}"
        return ["fit", f"--config={path}", "--ckpt_path=last", logger, version, checkpoints]

    return Run(words, _training)


def _training(folder: Path) -> Any:
    """Return weights, optimizer and losses of all starts; a step that was trained twice must have one loss."""
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    losses: dict[tuple[int, str], set[str]] = {}
    for path in (folder / "logs").glob("*/metrics.csv"):
        with open(path) as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name.startswith("train/") and "loss" in name:
                        losses.setdefault((int(row["step"]), name), set()).add(value)
    assert all(len(values) == 1 for values in losses.values()), losses
    state = {name: _digest(checkpoint[name]) for name in ("state_dict", "optimizer_states", "lr_schedulers")}
    return state | {"steps": checkpoint["global_step"], "last loss": losses[max(losses)]}


def _digest(value: Any) -> str:
    """Return a digest of nested values with tensors, bit for bit."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                add(str(key))
                add(value[key])
        elif isinstance(value, list | tuple):
            for each in value:
                add(each)
        elif isinstance(value, torch.Tensor):
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())

    add(value)
    return digest.hexdigest()


def _store(folder: Path) -> Any:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in (folder / "store").rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def _test(home: Path, weights: str) -> Run:
    """Return an evaluation that is long enough to be interrupted between its batches."""
    recipe = yaml.safe_load((home / "tuning.yaml").read_text())
    recipe["model"]["init_args"] = {"pretrained": weights}
    recipe["data"]["init_args"]["evaluation"] = {"max_new_tokens": 6, "batch_tokens": 800}
    recipe["trainer"]["logger"]["init_args"]["name"] = ""
    recipe["trainer"]["callbacks"] = [{"class_path": "GeneralizationReport"}, {"class_path": "PredictionWriter"}]
    (home / "test.yaml").write_text(yaml.safe_dump(recipe))

    def words(folder: Path, start: int) -> list[str]:
        logger = f"--trainer.logger.init_args.save_dir={folder}"
        return ["test", f"--config={home / 'test.yaml'}", "--ckpt_path=null", logger]

    def result(folder: Path) -> Any:
        newest = max(folder.glob("version_*/report/test/report.json"), key=lambda path: int(path.parts[-4][8:]))
        predictions = newest.parents[2] / "predictions/test.jsonl"
        return newest.read_text(), predictions.read_text()

    return Run(words, result)


def _samples(toybench: Path, weights: str) -> Run:
    def words(folder: Path, start: int) -> list[str]:
        examples = ["--examples.benchmark=NaturalInstructions", f"--examples.benchmark.folder={toybench}"]
        examples += ["--examples.parts=[train]", f"--examples.tasks=[{TASK}]", "--examples.train_examples=12"]
        examples += ["--examples.validation_examples=0"]
        return [
            *("samples", *examples, f"--generator={weights}", f"--output={folder / 'samples'}"),
            *("--max_new_tokens=4", "--budget=256"),
        ]

    return Run(words, lambda folder: [path.read_text() for path in (folder / "samples").glob("*.jsonl")])


def _adapt(home: Path, toybench: Path) -> Run:
    tasks = [TASK, "task010_toy_reverse_animals"]
    benchmark, lines = NaturalInstructions(str(toybench)), []
    for name in tasks:
        for example in benchmark.examples(name):
            for place, text in enumerate((example.targets[0], "zebra")):
                lines.append(Sample(text, "m", "nucleus", place, -1.0 - place, 3).line(name, example.id))
    (home / "samples.jsonl").write_text("".join(lines))
    training = {"config": ENCODER, "tokenizer": str(toybench / "tokenizer"), "steps": 3, "batch": 8}
    training |= {"row_length": 256, "pair_length": 96, "train_examples": 8, "accelerator": "cpu"}
    settings = {"train": _benchmark(toybench), "training": training, "samples": [str(home / "samples.jsonl")]}
    settings |= {"tasks": tasks, "test_examples": 4, "sizes": [1], "cache": str(home / "adapt_store")}
    (home / "adapt.yaml").write_text(yaml.safe_dump(settings))

    def words(folder: Path, start: int) -> list[str]:
        return ["adapt", f"--config={home / 'adapt.yaml'}", f"--output={folder / 'adapt'}"]

    def result(folder: Path) -> Any:
        report = json.loads((folder / "adapt/report.json").read_text())
        return report["methods"], report["tasks"], (folder / "adapt/choices.jsonl").read_text()

    return Run(words, result)


def _benchmark(toybench: Path) -> dict[str, Any]:
    return {"class_path": "NaturalInstructions", "init_args": {"folder": str(toybench)}}
