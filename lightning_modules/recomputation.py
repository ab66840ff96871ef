"""Activation checkpointing: what the backward pass of a block recomputes instead of keeping it in memory.

Recomputing every block takes a third more operations (forward 1, backward 2, forward again 1), every second block a
sixth. Recomputing all but matrix products and attention takes nearly none, and frees the results of norms, activation
functions and dropout (selective activation recomputation, arXiv 2205.05198, section 5).
"""

from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

Recomputation = bool | int | Literal["selective"]
"""False for nothing, True for every block, n for every n-th one, selective for all but the operations in ``KEPT``."""

_ATEN = torch.ops.aten
KEPT = frozenset(
    {
        _ATEN.mm.default,
        _ATEN.addmm.default,
        _ATEN._scaled_dot_product_flash_attention.default,
        _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        _ATEN._scaled_dot_product_efficient_attention.default,
        _ATEN._scaled_dot_product_cudnn_attention.default,
    }
)
"""Operations whose results are kept under selective. Attention by plain matrix products (``bmm``) keeps no scores."""
_VARLEN = "torch_attn::_varlen_attn"  # registered when the kernel is first imported


def require_recomputation(choice: Recomputation) -> None:
    """Reject a setting of activation checkpointing that does not exist.

    Raises:
        ValueError: It is neither true, false, selective nor a number of at least 1.
    """
    if choice == "selective" or (isinstance(choice, int) and choice >= 0):
        return
    raise ValueError(
        "gradient_checkpointing must be true (every block), false, selective or a number n (every n-th block), got "
        f"{choice!r}"
    )


def recomputed_share(choice: Recomputation) -> float:
    """Return the share of the blocks' forward operations that are computed a second time.

    >>> recomputed_share(True), recomputed_share(4), recomputed_share("selective"), recomputed_share(False)
    (1.0, 0.25, 0.0, 0.0)
    """
    return 1.0 / choice if choice and choice != "selective" else 0.0


def recompute_blocks(model: PreTrainedModel, choice: Recomputation) -> None:
    """Make the model's blocks recompute activations in the backward pass, in place."""
    if not choice:
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if choice == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    model.activation_checkpointing_enable(options, every_n_layers=1 if choice == "selective" else int(choice))


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = operation in KEPT or operation.name() == _VARLEN
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
