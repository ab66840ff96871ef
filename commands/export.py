"""Write the model of a checkpoint as a Hugging Face folder.

The folder is loaded by ``AutoModelForCausalLM.from_pretrained``. Checkpoints of every layout are read: a file, a folder
of shards, a folder of DeepSpeed. Adapters are merged into the weights; a prefix is written alone, as peft writes it.

Example:
    crosstask export runs/quickstart/checkpoints/last.ckpt runs/quickstart/huggingface --dtype bfloat16
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from ..datamodules.rendering.tokenization import load_tokenizer
from ..lightning_modules.adapters import adapted_model, merged_weights, prefixed_model
from ..lightning_modules.generation_settings import published_settings
from ..lightning_modules.prefixes import save_prefix
from ..lightning_modules.sharding.checkpoint_weights import checkpoint_weights
from ..lightning_modules.sharding.checkpoints import KEY, checkpoint_extras
from ..lightning_modules.sharding.safetensors_folder import empty_model, write_weights
from .shared.function_command import run_function
from .shared.outputs import require_new


def run(words: Sequence[str]) -> None:
    """Export by the words of a command line."""
    run_function(export_checkpoint, words)


def export_checkpoint(
    paths: Sequence[str],
    tokenizer: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> None:
    """Write the model of a checkpoint as a folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    A few weights are in memory at a time: a file is read through a memory map, a folder of shards by name, and the
    partitions of DeepSpeed are merged one by one. Adapters are merged into the weights beside which they were trained,
    which are read again from the source of the training. A prefix is written alone, as peft writes it.

    Args:
        paths: Two paths: the checkpoint (a file, a folder of shards or a DeepSpeed folder), and the folder to write:
            safetensors, configuration and tokenizer. It must be new or empty.
        tokenizer: Hub name or folder of the tokenizer; that of the training by default.
        dtype: Type of the weights; that of the checkpoint by default.

    Raises:
        ValueError: The checkpoint is incomplete, or crosstask did not write it.
    """
    if isinstance(paths, str) or len(paths) != 2:
        raise ValueError(f"export takes two paths, a checkpoint and the folder to write, got {paths}")
    checkpoint, folder = paths
    require_new(Path(folder))
    path = Path(checkpoint)
    extras = checkpoint_extras(path).get(KEY)
    if extras is None or "config" not in extras:
        raise ValueError(
            f"{checkpoint} does not state its model's configuration: it was not written by a module of crosstask"
        )
    like = empty_model(extras["architecture"], extras["config"])
    if extras.get("generation"):
        like.generation_config = published_settings(extras["generation"])
    saved_tokenizer = load_tokenizer(tokenizer or extras["tokenizer"], eos=False)
    weights = checkpoint_weights(path)
    if "prefix" in extras.get("adapters", {}):
        described = extras["adapters"]
        model = prefixed_model(extras["architecture"], described, dict(weights), saved_tokenizer, checkpoint)
        save_prefix(model, saved_tokenizer, Path(folder), weights=described["weights"])
        return
    if "adapters" in extras:
        weights = merged_weights(adapted_model(extras["architecture"], extras["adapters"], dict(weights), checkpoint))
    write_weights(weights, like, Path(folder), dtype=None if dtype is None else getattr(torch, dtype))
    saved_tokenizer.save_pretrained(folder)
