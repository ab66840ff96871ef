"""``crosstask export``: write the model of a checkpoint as a Hugging Face folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from ..datamodules.rendering.tokenization import load_tokenizer
from ..lightning_modules.adapters import adapted_model, merged_weights, prefixed_model
from ..lightning_modules.prefixes import save_prefix
from ..lightning_modules.sharding.checkpoint_weights import checkpoint_weights
from ..lightning_modules.sharding.checkpoints import KEY, checkpoint_extras
from ..lightning_modules.sharding.safetensors_folder import empty_model, write_weights


def export_checkpoint(
    paths: Sequence[str],
    tokenizer: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> None:
    """Write the model of a checkpoint as a folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    Weights are read and written a few at a time: a file through a memory map, a folder of shards by name. Those of
    DeepSpeed are merged one by one from its partitions. Adapters are added to the weights they were trained beside,
    which are read once more from where the training found them. A prefix is written alone, as peft writes it.

    Args:
        paths: Two: the checkpoint (a file, a folder of shards or a DeepSpeed folder), and the folder to be written,
            with safetensors, configuration and tokenizer.
        tokenizer: Hub name or folder of the tokenizer; the one of the training if left out.
        dtype: Type of the weights; their own in the checkpoint if left out.

    Raises:
        ValueError: The checkpoint is not whole, or not one of crosstask.
    """
    if isinstance(paths, str) or len(paths) != 2:
        raise ValueError(f"export takes two paths, a checkpoint and the folder to be written, got {paths}")
    checkpoint, folder = paths
    path = Path(checkpoint)
    ours = checkpoint_extras(path).get(KEY)
    if ours is None or "config" not in ours:
        raise ValueError(f"{checkpoint} does not say which model it holds: it was not written by a module of crosstask")
    like = empty_model(ours["architecture"], ours["config"])
    own = load_tokenizer(tokenizer or ours["tokenizer"], eos=False)
    weights = checkpoint_weights(path)
    if "prefix" in ours.get("adapters", {}):
        described = ours["adapters"]
        model = prefixed_model(ours["architecture"], described, dict(weights), own, checkpoint)
        save_prefix(model, own, Path(folder), weights=described["weights"])
        return
    if "adapters" in ours:
        weights = merged_weights(adapted_model(ours["architecture"], ours["adapters"], dict(weights), checkpoint))
    write_weights(weights, like, Path(folder), dtype=None if dtype is None else getattr(torch, dtype))
    own.save_pretrained(folder)
