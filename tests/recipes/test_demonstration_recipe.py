"""Learned demonstrations under DDP and FSDP2: choices, phi and resumed runs are those of one process."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import STRATEGIES, run_on
from torch.testing import assert_close
from warm_program import WarmProgram

from crosstask.cli import main

pytestmark = pytest.mark.distributed

STEPS, MIDDLE = 6, 3
"""Theta's steps; phi moves at every second one, so that the middle is between two of its steps."""

# Two processes have odd numbers of rows each: one inner row and three outer rows.
KINDS = ("direct_extractor", "instance_extractor")
WORDS = [
    *("fit", "--config=demonstration_selection_toybench", "--trainer.enable_progress_bar=false"),
    *("--trainer.enable_model_summary=false", "--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1"),
    *(f"--trainer.max_steps={STEPS}", "--trainer.callbacks=[]", "--trainer.callbacks+=ModelCheckpoint"),
    *(f"--trainer.callbacks.every_n_train_steps={MIDDLE}", "--trainer.callbacks.filename={step}"),
    *("--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.enable_version_counter=false"),
    *("--data.init_args.levels.inner_steps=2", "--data.init_args.levels.inner_rows=2"),
    *("--data.init_args.levels.outer_rows=6", "--model.init_args.optimizer.warmup=1"),
    *("--model.init_args.network.dtype=float64", "--model.init_args.outer.learning_rate=0.5"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demonstrations")


@pytest.fixture(scope="module")
def runs(program: WarmProgram, folder: Path, toybench: Path, tiny_model: dict[str, Any]) -> Path:
    """Every kind on one process, and on two under both strategies; then the second half of one from the other."""
    small = {**tiny_model, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    small["max_position_embeddings"] = 512

    def fit(kind: str, name: str, *words: str) -> list[str]:
        logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": None, "version": name}}
        files = [f"--trainer.logger={json.dumps(logger)}", f"--trainer.callbacks.dirpath={folder / name}"]
        files += [f"--data.init_args.benchmark.init_args.folder={toybench}", f"--model.init_args.config={small}"]
        files += [f"--data.init_args.tokenizer={toybench}/tokenizer", f"--model.init_args.instruction.kind={kind}"]
        return [*WORDS, *files, *words]

    def middle(name: str) -> str:
        return f"--ckpt_path={folder / name}/step={MIDDLE}.ckpt"

    two = {name: ["--trainer.devices=2", *STRATEGIES[name]] for name in ("ddp", "fsdp2")}
    two["fsdp2"].append("--trainer.strategy.init_args.save_distributed_checkpoint=false")
    for kind in KINDS:
        main(fit(kind, f"{kind}_one"))
    commands = [fit(kind, f"{kind}_{name}", *words) for kind in KINDS for name, words in two.items()]
    first = KINDS[0]
    commands += [fit(first, f"{first}_{name}_of_one", *words, middle(f"{first}_one")) for name, words in two.items()]
    commands += [
        fit(first, "shards", "--trainer.devices=2", *STRATEGIES["fsdp2"]),
        fit(first, f"{first}_fsdp2_of_shards", *two["fsdp2"], middle("shards")),
    ]
    run_on(program, 2, [{"words": words} for words in commands], folder)
    for name in two:
        main(fit(first, f"{first}_one_of_{name}", middle(f"{first}_{name}")))
    return folder


def checkpoint(runs: Path, name: str) -> dict[str, Any]:
    return torch.load(runs / name / f"step={STEPS}.ckpt", weights_only=False)


def logged(runs: Path, name: str) -> dict[tuple[str, str], float]:
    """Values of every training metric by its name and step, of the second half of a run."""
    with open(runs / name / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return {
        (metric, row["step"]): float(value)
        for row in rows
        for metric, value in row.items()
        if metric.startswith("train/") and value and int(row["step"]) > MIDDLE
    }


RESUMED = ["ddp_of_one", "fsdp2_of_one", "fsdp2_of_shards", "one_of_ddp", "one_of_fsdp2"]
"""Strategies, and where the first half of the run was trained."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [(KINDS[0], name) for name in RESUMED] + [(kind, name) for kind in KINDS for name in ("ddp", "fsdp2")],
)
def test_choices_phi_and_metrics_are_those_of_one_process(runs: Path, kind: str, name: str) -> None:
    """Also where half of the run was on another number of processes."""
    alone, other = checkpoint(runs, f"{kind}_one"), checkpoint(runs, f"{kind}_{name}")
    weights = alone["state_dict"]
    assert weights.keys() == other["state_dict"].keys()
    for key, value in weights.items():
        assert_close(other["state_dict"][key], value, rtol=1e-6, atol=1e-9, msg=key)
    assert other["instruction_optimization"]["outer_step"] == STEPS // 2
    assert logged(runs, f"{kind}_{name}") == pytest.approx(logged(runs, f"{kind}_one"), rel=1e-5)
    if kind == "direct_extractor":
        first, second = (of["state_dict"]["instruction.logits"][:, 0].topk(2).indices for of in (alone, other))
        assert torch.equal(first, second)
        assert (first != torch.tensor([0, 1])).any()  # what is chosen before phi moves


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_of_choices_are_logged(runs: Path, kind: str) -> None:
    names = {metric for metric, _ in logged(runs, f"{kind}_one")}
    assert {"train/demonstrations", "train/last_exemplar_share", "train/hypergradient_norm"} <= names
