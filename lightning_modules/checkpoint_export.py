"""Export of a checkpoint's model as a Hugging Face folder, with few weights in memory at a time."""

from pathlib import Path
from typing import Literal

import torch

from ..datamodules.rendering.tokenization import load_tokenizer
from .adapters import adapted_model, merged_weights, prefixed_model, save_adapters
from .generation.generation_settings import published_settings
from .instructions.stored_instructions import FOLDER, write_instructions
from .prefixes import save_prefix
from .sharding.checkpoint_weights import checkpoint_weights, instruction_values
from .sharding.checkpoints import KEY, checkpoint_extras
from .sharding.safetensors_folder import empty_model, write_weights


def write_checkpoint_folder(
    checkpoint: Path,
    folder: Path,
    *,
    tokenizer: str | None = None,
    dtype: str | None = None,
    adapters: Literal["merged", "alone"] = "merged",
) -> None:
    """Write a checkpoint's model and tokenizer as a Hugging Face folder.

    Adapters are merged into the weights or written alone; a prefix is always written alone, as peft writes it. Learned
    instructions go into the folder learned_instructions: their values, and as JSON their tasks and the texts of the
    chosen exemplars.

    Args:
        checkpoint: A checkpoint file, a folder of shards or a folder of DeepSpeed.
        folder: Output folder, new or empty.
        tokenizer: Hub name or folder of the tokenizer; None for that of the training.
        dtype: Type of the weights, e.g. "bfloat16"; None for that of the checkpoint.
        adapters: "merged": low-rank adapters are added to the weights. "alone": they are written as peft writes them.

    Raises:
        ValueError: The checkpoint is incomplete, crosstask did not write it, or it lacks adapters to write alone.
    """
    extras = checkpoint_extras(checkpoint).get(KEY)
    if extras is None or "config" not in extras:
        raise ValueError(
            f"{checkpoint} does not state its model's configuration: it was not written by a module of crosstask"
        )
    like = empty_model(extras["architecture"], extras["config"])
    if extras.get("generation"):
        like.generation_config = published_settings(extras["generation"])
    saved_tokenizer = load_tokenizer(tokenizer or extras["tokenizer"], eos=False)
    if "instruction" in extras and (values := instruction_values(checkpoint)):
        write_instructions(folder / FOLDER, extras["instruction"], values)
    weights, where = checkpoint_weights(checkpoint), str(checkpoint)
    if "prefix" in extras.get("adapters", {}):
        described = extras["adapters"]
        model = prefixed_model(extras["architecture"], described, dict(weights), saved_tokenizer, where)
        model.generation_config = like.generation_config
        save_prefix(model, saved_tokenizer, folder, weights=described["weights"])
        return
    if adapters == "alone":
        if "lora" not in extras.get("adapters", {}):
            raise ValueError(f"{checkpoint} holds all weights and no adapters: leave --adapters out")
        kind = None if dtype is None else getattr(torch, dtype)
        two_stacks = like.config.is_encoder_decoder
        save_adapters(weights, extras["adapters"], folder, two_stacks=two_stacks, dtype=kind)
        if like.generation_config is not None:
            like.generation_config.save_pretrained(folder)
        saved_tokenizer.save_pretrained(folder)
        return
    if "adapters" in extras:
        weights = merged_weights(adapted_model(extras["architecture"], extras["adapters"], dict(weights), where))
    write_weights(weights, like, folder, dtype=None if dtype is None else getattr(torch, dtype))
    saved_tokenizer.save_pretrained(folder)
