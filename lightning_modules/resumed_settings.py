"""Settings of a resumed run: the optimizer keeps this run's settings, and changes since the checkpoint are reported.

torch saves an optimizer's settings with its moments, and a schedule's peak learning rates with its position. Loading
them would silently replace what the user has changed since.
"""

import json
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedConfig

from ..datamodules.stream_changes import changed_values
from .hyperparameters import flat

ELSEWHERE = ("pretrained", "config", "tokenizer", "row_length", "total_steps")
"""Arguments that are compared with the model, with the training stream, or as the trainer completes them."""


STATES = ("params", "k", "weight_sum", "lr_max", "scheduled_lr", "train_mode")
"""Entries of groups that are no settings; all but the first are of schedule-free optimizers."""


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the settings of each parameter group of an optimizer: learning rates, betas, decay, implementation."""
    return [{name: value for name, value in group.items() if name not in STATES} for group in optimizer.param_groups]


def restore_settings(optimizer: Optimizer, schedule: LambdaLR, settings: list[dict[str, Any]]) -> None:
    """Give an optimizer that has loaded a checkpoint this run's settings again, at the schedule's current step.

    Args:
        optimizer: The optimizer; it keeps the loaded moments.
        schedule: Its schedule, which keeps the loaded position.
        settings: ``group_settings`` of the new optimizer with its schedule, taken before anything was loaded.
    """
    peaks = [own["initial_lr"] for own in settings]
    rates = [peak * share(schedule.last_epoch) for peak, share in zip(peaks, schedule.lr_lambdas, strict=True)]
    for group, own, rate in zip(optimizer.param_groups, settings, rates, strict=True):
        group.update({**own, "lr": rate})
    for group in optimizer.param_groups:
        if group.get("fused"):  # steps of an optimizer that was not fused are on the CPU
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                if "step" in state:
                    state["step"] = state["step"].to(parameter.device)
    schedule.load_state_dict({**schedule.state_dict(), "base_lrs": peaks, "_last_lr": rates})


def run_settings(
    arguments: Mapping[str, Any], *, total_steps: int, clip: float | None, clip_by: str | None, precision: str
) -> dict[str, Any]:
    """Return a run's settings for its checkpoints, as plain values under flat names.

    Args:
        arguments: The module's arguments.
        total_steps: Length of the schedule in optimizer steps.
        clip: trainer.gradient_clip_val; None for no clipping.
        clip_by: trainer.gradient_clip_algorithm, "norm" or "value"; None for "norm".
        precision: trainer.precision.
    """
    of_module = {name: value for name, value in arguments.items() if name not in ELSEWHERE}
    of_trainer = {"gradient_clip_val": clip, "gradient_clip_algorithm": clip_by, "precision": precision}
    return flat({**of_module, "total_steps": total_steps, "trainer": of_trainer})


ABOUT_FILES = ("transformers_version", "architectures", "dtype", "use_cache")
"""Fields of a model's configuration that do not decide what it computes, or are arguments of the module."""


def plain_config(config: PreTrainedConfig) -> dict[str, Any]:
    """Return all fields of a model's configuration, as plain values."""
    fields: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return fields


def config_changes(saved: Mapping[str, Any] | None, config: PreTrainedConfig) -> list[str]:
    """Return a phrase for each field in which a model's configuration differs from a checkpoint's.

    Fields that decide nothing of the computation are left out. Differences in the sizes of weights are found when
    weights are loaded; those that are reported here (a rotary base, an activation, dropout) fit any weights.

    Args:
        saved: Fields of the checkpoint's configuration; None if it states none, which gives no phrases.
        config: Configuration of the model.
    """
    old, new = (
        {name: value for name, value in fields.items() if name not in ABOUT_FILES and not name.startswith("_")}
        for fields in (saved or plain_config(config), plain_config(config))
    )
    return changed_values(flat(old, "config."), flat(new, "config."))
