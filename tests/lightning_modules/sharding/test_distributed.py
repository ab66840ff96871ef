"""Real runs of two processes against one, and resumed runs against undisturbed ones."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from recipes import tuning_data
from warm_program import WarmProgram

from crosstask.cli import main

STEPS = 6


@pytest.fixture
def config(toybench: Path, tmp_path: Path, tiny_model: dict[str, Any]) -> Path:
    """Plain SGD-like settings in float64: differences are errors of arithmetic, not of rounding."""
    recipe = {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "precision": "64-true",
            "max_steps": STEPS,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "gradient_clip_val": 1.0,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "run"), "name": None}},
            "callbacks": [
                {"class_path": "PredictionWriter"},
                {"class_path": "GeneralizationReport"},
                {
                    "class_path": "ModelCheckpoint",
                    "init_args": {"dirpath": str(tmp_path), "every_n_train_steps": 3, "save_top_k": -1},
                },
            ],
        },
        "model": {
            "class_path": "InstructionTuningModule",
            "init_args": {
                "config": tiny_model,
                "optimizer": {"learning_rate": 0.01, "warmup": 2},
                "network": {"dtype": "float64"},
                "score": "pmi",
            },
        },
        "data": tuning_data(
            toybench,
            rows={"per_step": 8},
            instances={"test": 3},
            evaluation={
                "batch_tokens": 1024,
                "ranking": {"labels": 8, "unconditional": "Answer:"},
            },  # options of 13 tasks; the others are written
        ),
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def losses(folder: Path) -> dict[int, float]:
    """train/loss by step, as the run logged it."""
    with open(folder / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    return {int(row["step"]): float(row["train/loss"]) for row in rows}


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=False)["state_dict"]


def two_processes(program: WarmProgram, *words: str) -> None:
    for done in program.ranks(2, *words, "--trainer.devices", "2", "--trainer.strategy", "ddp"):
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.distributed
def test_two_processes_and_accumulation_give_the_losses_and_weights_of_one(
    config: Path, tmp_path: Path, program: WarmProgram
) -> None:
    """Rows hold different numbers of targets, so a mean of means would differ in the first step."""
    main(["fit", "--config", str(config)])
    alone, expected = losses(tmp_path / "run/version_0"), weights(tmp_path / f"epoch=0-step={STEPS}.ckpt")
    assert len(alone) == STEPS
    folder = "--trainer.callbacks.init_args.dirpath"
    main(["fit", "--config", str(config), "--trainer.accumulate_grad_batches", "4", folder, str(tmp_path / "four")])
    assert losses(tmp_path / "run/version_1") == pytest.approx(alone, rel=1e-9)

    words = ["--trainer.accumulate_grad_batches", "2", folder, str(tmp_path / "both")]
    two_processes(program, "fit", "--config", str(config), *words)
    assert losses(tmp_path / "run/version_2") == pytest.approx(alone, rel=1e-9)
    got = weights(tmp_path / f"both/epoch=0-step={STEPS}.ckpt")
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-7, atol=1e-9)

    checkpoint = str(tmp_path / f"epoch=0-step={STEPS}.ckpt")
    main(["test", "--config", str(config), "--ckpt_path", checkpoint])
    two_processes(program, "test", "--config", str(config), "--ckpt_path", checkpoint)
    one, both = (tmp_path / f"run/version_{version}" for version in (3, 4))
    for name in ("predictions/test.jsonl", "report/test/report.json"):
        assert (one / name).read_text() == (both / name).read_text()  # to the last digit
    assert len(json.loads((one / "report/test/report.json").read_text())["tasks"]) > 10
    lines = [json.loads(line) for line in (one / "predictions/test.jsonl").read_text().split("\n") if line]
    ranked = [line for line in lines if "options" in line]
    assert len(ranked) == 3 * 13 < len(lines)
    for line in ranked:
        assert line["prediction"] == max(line["options"], key=lambda option: line["options"][option]["pmi"])


DROPOUT = ["--trainer.accumulate_grad_batches", "2", "--model.init_args.network.embedding_dropout", "0.2"]


@pytest.mark.parametrize(
    ("first", "then"),
    [(DROPOUT, DROPOUT), (DROPOUT[:2], ["--trainer.accumulate_grad_batches", "4"])],
    ids=["with dropout", "other accumulation"],
)
def test_a_resumed_run_continues_the_same_losses(
    config: Path, tmp_path: Path, first: list[str], then: list[str]
) -> None:
    main(["fit", "--config", str(config), *first])
    undisturbed = losses(tmp_path / "run/version_0")
    main(["fit", "--config", str(config), "--ckpt_path", str(tmp_path / "epoch=0-step=3.ckpt"), *then])
    continued = losses(tmp_path / "run/version_1")
    assert sorted(continued) == [3, 4, 5]
    assert continued == pytest.approx({step: undisturbed[step] for step in continued}, rel=1e-9)


@pytest.mark.distributed
def test_two_processes_resume_what_one_began(config: Path, tmp_path: Path, program: WarmProgram) -> None:
    main(["fit", "--config", str(config)])
    two_processes(program, "fit", "--config", str(config), "--ckpt_path", str(tmp_path / "epoch=0-step=3.ckpt"))
    undisturbed, continued = losses(tmp_path / "run/version_0"), losses(tmp_path / "run/version_1")
    assert sorted(continued) == [3, 4, 5]
    assert continued == pytest.approx({step: undisturbed[step] for step in continued}, rel=1e-9)


def test_a_finished_run_can_be_prolonged(config: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(config)])
    last = str(tmp_path / f"epoch=0-step={STEPS}.ckpt")
    main(["fit", "--config", str(config), "--ckpt_path", last, "--trainer.max_steps", str(STEPS + 2)])
    assert sorted(losses(tmp_path / "run/version_1")) == [STEPS, STEPS + 1]
