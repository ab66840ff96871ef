"""A language model that reads a learnable instruction before the text of each row."""

# B rows, I columns of the instruction, L columns of text, D width of the input embeddings

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from ...datamodules.schema import IGNORE_INDEX, CausalBatch, Seq2SeqBatch
from ..target_loss import LossSum, padding_mask, shift_right
from .learnable_instructions import Instruction, Reader

Result = TypeVar("Result")


def within_forward(model: PreTrainedModel, run: Callable[[], Result]) -> Result:
    """What `run` returns, run as the forward of the model.

    An instruction looks tokens up in the model's table before the model reads them. FSDP2 gathers the table for the
    model's own forward alone, and reduces its gradient as soon as the inputs of that forward have theirs, before the
    lookup's backward: run outside, part of the gradient would be lost. Models that are not sharded need none of this.

    Args:
        model: Whose forward it is.
        run: Calls `instructed_loss`, or the model's parts.
    """
    if not isinstance(model, FSDPModule):
        return run()

    def forward() -> Result:
        del model.forward  # its own again
        return run()

    model.forward = forward
    return model()


def instructed_loss(model: PreTrainedModel, instruction: Instruction, rows: CausalBatch | Seq2SeqBatch) -> LossSum:
    """Sum of the cross entropies of the rows' targets behind ``[I_phi; text]``.

    Args:
        model: A causal or seq2seq language model of transformers; a sharded one `within_forward`.
        instruction: What stands before each row; for an encoder-decoder model, before the encoder's.
        rows: Rows of one document each, of the kind that the model reads.
    """
    embedded_BLD = input_embeddings(model)(rows.input_ids)
    before_BID = instruction.embeddings.to(embedded_BLD.dtype)
    mask = torch.cat([instruction.mask, padding_mask(rows.offsets, rows.input_ids)], dim=1)
    inputs = {"inputs_embeds": torch.cat([before_BID, embedded_BLD], dim=1), "attention_mask": mask, "use_cache": False}
    if isinstance(rows, CausalBatch):
        logits_NV, targets_N = _causal_logits(model, inputs, mask, rows)
    else:
        logits_NV, targets_N = _seq2seq_logits(model, inputs, rows)
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    loss = F.cross_entropy(logits_NV.to(wide), targets_N, reduction="sum")
    return LossSum(loss, torch.tensor(len(targets_N), device=loss.device))


def _causal_logits(
    model: PreTrainedModel, inputs: dict[str, Any], mask: Tensor, rows: CausalBatch
) -> tuple[Tensor, Tensor]:
    # Targets are those of the same column's logits: the instruction's columns have none, also not its last one.
    columns = mask.shape[1] - rows.targets.shape[1]
    targets = F.pad(rows.targets, (columns, 0), value=IGNORE_INDEX)
    wanted = targets != IGNORE_INDEX
    # Masked columns are not counted: a text stands where it would behind an instruction without padding.
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return _reading(model)(**inputs, position_ids=positions, logits_to_keep=wanted).logits, targets[wanted]


def _seq2seq_logits(model: PreTrainedModel, inputs: dict[str, Any], rows: Seq2SeqBatch) -> tuple[Tensor, Tensor]:
    wanted = rows.targets != IGNORE_INDEX
    start = model.config.decoder_start_token_id
    logits = _reading(model)(
        **inputs,
        decoder_input_ids=shift_right(rows.targets, rows.target_offsets, start=start),
        decoder_attention_mask=wanted.long(),
    ).logits
    return logits[wanted], rows.targets[wanted]


def _reading(model: PreTrainedModel) -> Callable[..., Any]:
    """The model's call, or within the forward of a sharded model what that would do."""
    return model.forward if isinstance(model, FSDPModule) else model


def input_embeddings(model: PreTrainedModel) -> torch.nn.Module:
    """The table of the model's input embeddings.

    Raises:
        ValueError: It has none, or none of vectors.
    """
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        table = None
    if getattr(table, "weight", None) is None or table.weight.ndim != 2:  # type: ignore[union-attr]
        raise ValueError(
            f"{type(model).__name__} has no table of input embeddings, which a learnable instruction is made to fit"
        )
    return table  # type: ignore[return-value]


def reader(model: PreTrainedModel) -> Reader:
    """How learnable instructions read with the model: its embeddings, and its encoder's (or only stack's) states."""
    stack: Any = model.get_encoder() if model.config.is_encoder_decoder else model.base_model

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        extra = {} if model.config.is_encoder_decoder else {"use_cache": False}
        return stack(input_ids=ids, attention_mask=mask, **extra).last_hidden_state

    return Reader(embed=input_embeddings(model), encode=encode)
