"""Recipes that train for a few steps under a strategy, and comparisons of their weights."""

from pathlib import Path
from typing import Any

import torch
import yaml
from argument_groups import with_changes
from processes import file_weights
from recipes import tuning_data
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

STEPS = 4


CLIP = 1.75  # some steps' gradients are shorter, others longer


def write_recipe(path: Path, toybench: Path, model: dict[str, Any], data: dict[str, Any], **trainer: Any) -> Path:
    """Write a recipe of a few steps of four rows, divided among replicas and accumulated batches."""
    recipe = {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": STEPS,
            "limit_val_batches": 0,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "gradient_clip_val": CLIP,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(path.parent / "run"), "name": None}},
            "callbacks": [
                {
                    "class_path": "ModelCheckpoint",
                    "init_args": {
                        "dirpath": str(path.parent / "checkpoints"),
                        "every_n_train_steps": 2,
                        "save_top_k": -1,
                        "filename": "{step}",
                        "enable_version_counter": False,
                    },
                }
            ],
            **trainer,
        },
        "model": model,
        "data": tuning_data(toybench, **with_changes({"rows": {"per_step": 8}}, data)),
    }
    path.write_text(yaml.safe_dump(recipe))
    return path


def fit(recipe: Path, name: str, *words: str) -> list[str]:
    """Return the words of a fit whose logs and checkpoints have a name."""
    folder = recipe.parent
    return [
        "fit",
        f"--config={recipe}",
        f"--trainer.logger.init_args.version={name}",
        f"--trainer.callbacks.init_args.dirpath={folder / name}",
        *words,
    ]


TWO = ["--trainer.devices=2"]


def any_weights(checkpoint: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint of any layout."""
    if checkpoint.is_file():
        return file_weights(checkpoint)
    if (checkpoint / "checkpoint").is_dir():
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        return get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag="checkpoint")
    dcp_to_torch_save(checkpoint, folder / "whole.pt")
    return torch.load(folder / "whole.pt", weights_only=False)["state_dict"]


def require_equal_weights(folder: Path, one: str, others: list[str], tolerance: float) -> None:
    expected = file_weights(folder / one / f"step={STEPS}.ckpt")
    for name in others:
        got = any_weights(folder / name / f"step={STEPS}.ckpt", folder)
        missing = set(expected) - set(got)
        assert all("lm_head" in each or "embed_tokens" in each for each in missing), missing  # the tied tables
        for key in set(expected) & set(got):
            torch.testing.assert_close(
                got[key].float(), expected[key], rtol=tolerance, atol=tolerance, msg=f"{name}: {key}"
            )
