"""Defaults of a run that depend on its model and devices: length and number of rows, attention, steps between logs."""

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedConfig

from ...datamodules import InstructionTuningDataModule
from ...datamodules.hub_names import with_revision
from ...datamodules.messages import counted
from ...datamodules.pretrained_weights import read_config
from ...lightning_modules import InstructionTuningModule
from ...lightning_modules.attention.isolation_checks import padded_attention
from ...lightning_modules.models import language_model_class, packing_obstacle
from ...lightning_modules.named_classes import imported
from .config_names import INSTALLED

DEFAULT = INSTALLED / "run" / "default.yaml"
"""YAML of the settings that all other files and options override."""

LONGEST_ROW = 2048
"""Default number of columns of a row, as in OPT-IML, if the model has as many positions."""

ROWS_PER_STEP = 16
"""Default number of rows of an optimizer step, over all devices."""

TOKENS_AT_ONCE = 4096
"""Maximum number of columns of a device's batch by default: two rows of 2,048."""


def with_default_config(words: Sequence[str]) -> list[str]:
    """Insert ``--config=run/default.yaml`` before the options of a command line, so that they override it.

    >>> with_default_config(["fit", "--trainer.max_steps", "5"])[2:]
    ['--trainer.max_steps', '5']
    """
    subcommand = 1 if words and not words[0].startswith("-") else 0
    return [*words[:subcommand], f"--config={DEFAULT}", *words[subcommand:]]


def given_settings(words: Sequence[str]) -> set[str]:
    """Return the names of all settings in the words of a command line and in its files, without ``init_args``.

    >>> sorted(given_settings(["--data.init_args.rows.length", "64", "--trainer.max_steps=5"]))
    ['data.rows.length', 'trainer.max_steps']
    """
    names: set[str] = set()
    for name, value in options(words):
        inner = mapping_of(value)
        base = "" if name in ("config", "c") else name
        names.update(_leaves(inner, base) if inner else [base])
    return {".".join(part for part in name.split(".") if part != "init_args") for name in names}


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of every option of a command line; the value is "" if there is none.

    >>> list(options(["fit", "--trainer.devices", "1", "--data.rows.length=8", "--trainer.callbacks+=Throughput"]))
    [('trainer.devices', '1'), ('data.rows.length', '8'), ('trainer.callbacks', 'Throughput')]
    """
    for place, word in enumerate(words):
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            yield option.lstrip("-").rstrip("+"), value if equals else next(iter(words[place + 1 : place + 2]), "")


def mapping_of(value: str) -> Mapping[str, Any]:
    """Return the mapping in a YAML text, or in the YAML file of this path; empty for anything else."""
    try:
        path = Path(value)
        is_settings = path.suffix in (".yaml", ".yml") and path.is_file()  # data files may be large
        content = yaml.safe_load(path.read_text(encoding="utf-8") if is_settings else value)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _leaves(settings: Mapping[str, Any], name: str) -> Iterator[str]:
    for key, value in settings.items():
        inner = f"{name}.{key}" if name else str(key)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, inner)
        else:
            yield inner


def fill_open_settings(settings: Any, given: Collection[str]) -> list[str]:
    """Choose row length, rows per step, attention and packing from the model and the devices, unless they are set.

    Only runs of instruction tuning are changed, also those of a user's subclasses with these arguments.

    Args:
        settings: Parsed settings of trainer, model and data; changed in place.
        given: Names of the settings that files or options have, from ``given_settings``; they are not changed.

    Returns:
        A sentence about each choice, to be printed.
    """
    trainer, model, data = (settings.get(part) for part in ("trainer", "model", "data"))
    tunes = _is_a(model, InstructionTuningModule) and _is_a(data, InstructionTuningDataModule)
    if trainer is None or not tunes or not all(name in data["init_args"] for name in ("rows", "evaluation")):
        return []
    chosen = []
    if (config := _model_config(model["init_args"])) is not None:
        _fit_rows_to_model(config, model["init_args"], data["init_args"], given)
        chosen = _fit_attention_to_model(config, model["init_args"], data["init_args"], given)
    length = data["init_args"]["rows"]["length"]
    if not {"data.rows.per_step", "trainer.accumulate_grad_batches", "trainer.val_check_interval"} & {*given}:
        per_step, batches = rows_of_step(length, process_count(trainer))
        data["init_args"]["rows"]["per_step"], trainer["accumulate_grad_batches"] = per_step, batches
        chosen.append(
            f"A step has {per_step} rows of {length} tokens in {counted(batches, 'batch', 'batches')}: "
            "--data.rows.length, --data.rows.per_step and --trainer.accumulate_grad_batches set others."
        )
    return chosen


def _is_a(part: Any, base: type) -> bool:
    """Return whether the settings of a model or of data name a class or one of its subclasses."""
    return bool(part) and issubclass(imported(part["class_path"], "class_path"), base)


def log_interval(max_steps: int) -> int:
    """Return the number of steps between two logged steps: 20 logs of a short run, every 10th step of a long one.

    `max_steps` is the number of optimizer steps of the run, -1 if it is unknown.

    >>> [log_interval(steps) for steps in (1, 10, 100, 4000, -1)]
    [1, 1, 5, 10, 10]
    """
    return 10 if max_steps < 0 else max(1, min(10, max_steps // 20))


def rows_of_step(length: int, processes: int) -> tuple[int, int]:
    """Return (rows of a step over all processes, batches that each process accumulates in a step).

    Args:
        length: Columns of a row.
        processes: Number of processes.

    >>> rows_of_step(2048, 1), rows_of_step(256, 1), rows_of_step(2048, 3), rows_of_step(2048, 64)
    ((16, 8), (16, 1), (18, 3), (64, 1))
    """
    share = math.ceil(ROWS_PER_STEP / processes)
    most = max(1, TOKENS_AT_ONCE // length)
    at_once = next(rows for rows in range(min(most, share), 0, -1) if share % rows == 0)
    return share * processes, share // at_once


def process_count(trainer: Mapping[str, Any]) -> int:
    """Return the number of processes that a trainer will have, from its launcher's environment or its settings."""
    if os.environ.get("WORLD_SIZE", "").isdigit():
        return int(os.environ["WORLD_SIZE"])
    devices = trainer["devices"]
    if str(devices) in ("auto", "-1"):
        count = 1 if trainer["accelerator"] == "cpu" else max(1, torch.cuda.device_count())
    elif isinstance(devices, str):
        count = int(devices) if devices.isdigit() else len([part for part in devices.split(",") if part.strip()])
    else:
        count = len(devices) if isinstance(devices, list) else int(devices)
    return max(1, count) * int(trainer["num_nodes"])


def _model_config(model: Any) -> PreTrainedConfig | None:
    """Return the model's configuration if it comes from the hub or a folder; None if it is given as fields in YAML."""
    source = (
        with_revision(model.get("pretrained"), model.get("revision"))
        if model.get("pretrained")
        else model.get("config")
    )
    if not isinstance(source, str):
        return None
    try:
        return read_config(source)
    except (OSError, ValueError):
        return None  # the module reports the error


def _fit_attention_to_model(config: PreTrainedConfig, model: Any, data: Any, given: Collection[str]) -> list[str]:
    """Set attention and packing for a model that cannot be packed: one document per row; return a sentence about it."""
    if {"model.network.attention", "data.rows.packing"} & {*given}:
        return []
    try:
        obstacle = packing_obstacle(config)
    except ValueError:
        return []  # the module reports the error
    if obstacle is None:
        return []
    model["network"]["attention"] = padded_attention(language_model_class(config))
    data["rows"]["packing"] = "one_per_row"
    return [
        f"Each document has its own row, with {model['network']['attention']} attention, since {obstacle}: "
        "--model.network.attention and --data.rows.packing set others."
    ]


def _fit_rows_to_model(config: PreTrainedConfig, model: Any, data: Any, given: Collection[str]) -> None:
    """Set the length of rows to the model's positions, and target length and answers to a quarter of it."""
    rows, evaluation = data["rows"], data["evaluation"]
    if "data.rows.length" not in given:
        positions = getattr(config, "max_position_embeddings", None) or LONGEST_ROW
        prefix = (model.get("prefix") or {}).get("virtual_tokens", 0)
        rows["length"] = model["row_length"] = max(1, min(LONGEST_ROW, positions - prefix))
    if config.is_encoder_decoder and "data.rows.target_length" not in given:
        rows["target_length"] = max(1, rows["length"] // 4)
    if "data.evaluation.max_new_tokens" not in given:
        room = rows["target_length"] or rows["length"] // 4
        evaluation["max_new_tokens"] = max(1, min(evaluation["max_new_tokens"], room))
