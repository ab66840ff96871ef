"""The loss of a language model that reads a learnable instruction before the text of each row."""

# B rows, I columns of the instruction, L columns of text, D width of the input embeddings

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from ...datamodules.schema import IGNORE_INDEX, CausalBatch, Seq2SeqBatch
from ..target_loss import LossSum, head_reading, padding_mask, shift_right
from .learnable_instructions import Instruction, ModelFunctions

Result = TypeVar("Result")


def run_as_forward(model: PreTrainedModel, run: Callable[[], Result]) -> Result:
    """Return the result of `run`. If FSDP2 shards the model, `run` is called inside the model's forward.

    An instruction looks up tokens in the model's embedding table before the model's forward, while FSDP2 gathers the
    table for the forward only. FSDP2 also reduces the table's gradient as soon as the inputs of the forward have
    theirs, which is before the lookup's backward. Outside the forward, part of the gradient would be lost.

    Args:
        model: The language model.
        run: Calls `instructed_loss`, or submodules of the model.
    """
    if not isinstance(model, FSDPModule):
        return run()

    def forward() -> Result:
        del model.forward  # restores the method of the class
        return run()

    model.forward = forward
    return model()


def require_instruction(instruction: Instruction, kind: str, *, rows: int, longest: int, width: int) -> None:
    """Reject what a class of a user returned, if it is no instruction of this batch.

    Args:
        instruction: What the class returned.
        kind: Name of the class.
        rows: Number of instances, B.
        longest: Columns that rows keep free for an instruction.
        width: Width of the model's input embeddings, D.

    Raises:
        ValueError: It is no `Instruction`, too long, or its embeddings or mask have another shape.
    """
    if not isinstance(instruction, Instruction):
        raise ValueError(f"{kind} must return an Instruction(embeddings, mask), got {type(instruction).__name__}")
    shape, mask = tuple(instruction.embeddings.shape), tuple(instruction.mask.shape)
    if len(shape) != 3 or (shape[0], shape[2]) != (rows, width) or mask != shape[:2]:
        raise ValueError(
            f"{kind} must return embeddings [B, I, D] with B = {rows} and D = {width}, and a mask [B, I], got {shape} "
            f"and {mask}"
        )
    if shape[1] > longest:
        raise ValueError(
            f"{kind} returns {shape[1]} columns, and rows keep {longest} free for them: return fewer, or set the "
            "datamodule's instructions.length"
        )


def instructed_loss(model: PreTrainedModel, instruction: Instruction, rows: CausalBatch | Seq2SeqBatch) -> LossSum:
    """Return the sum of the cross entropies of the rows' targets, with an instruction before the text of each row.

    Args:
        model: A causal or encoder-decoder language model of transformers. Call a sharded one through `run_as_forward`.
        instruction: The instruction of each row, placed before its text; in an encoder-decoder model, before the
            encoder's text.
        rows: Rows of one document each, for the model's architecture.
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
    return LossSum(loss, targets_N.new_full((), len(targets_N)))


def _causal_logits(
    model: PreTrainedModel, inputs: dict[str, Any], mask: Tensor, rows: CausalBatch
) -> tuple[Tensor, Tensor]:
    # targets[i] is the target of the logits at column i, so the columns of the instruction have none.
    columns = mask.shape[1] - rows.targets.shape[1]
    places_N = rows.target_places + (rows.target_places // rows.targets.shape[1] + 1) * columns
    # Masked columns are not counted, so that the text has the positions that it has without them.
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with head_reading(model, places_N):
        return _forward(model)(**inputs, position_ids=positions).logits.squeeze(0), _targets(rows)


def _seq2seq_logits(model: PreTrainedModel, inputs: dict[str, Any], rows: Seq2SeqBatch) -> tuple[Tensor, Tensor]:
    scored = rows.targets != IGNORE_INDEX
    start = model.config.decoder_start_token_id
    logits = _forward(model)(
        **inputs,
        decoder_input_ids=shift_right(rows.targets, rows.target_offsets, start=start),
        decoder_attention_mask=scored.long(),
    ).logits
    return logits.flatten(0, 1).index_select(0, rows.target_places), _targets(rows)


def _targets(rows: CausalBatch | Seq2SeqBatch) -> Tensor:
    return rows.targets.flatten().index_select(0, rows.target_places)


def _forward(model: PreTrainedModel) -> Callable[..., Any]:
    """Return the model, or its forward method if `run_as_forward` has already called the sharded model."""
    return model.forward if isinstance(model, FSDPModule) else model


def input_embeddings(model: PreTrainedModel) -> torch.nn.Module:
    """Return the model's table of input embeddings; of an encoder-decoder model, the encoder's.

    Raises:
        ValueError: The model has no such table.
    """
    stack: Any = model.get_encoder() if model.config.is_encoder_decoder else model
    try:
        table = stack.get_input_embeddings()
    except NotImplementedError:
        table = None
    if getattr(table, "weight", None) is None or table.weight.ndim != 2:
        raise ValueError(
            f"{type(model).__name__} has no table of input embeddings, whose width a learnable instruction needs"
        )
    return table


@torch.no_grad()
def require_embedded_input(model: PreTrainedModel) -> None:
    """Reject a model that computes other hidden states from its table's embeddings than from token ids.

    Such a model scales embeddings outside of its table, e.g. Marian, or also reads the ids elsewhere, e.g. Gemma 3n. It
    would read texts behind an instruction differently from plain texts. Sharded weights are not compared.

    Raises:
        ValueError: The hidden states differ, or the model does not take embeddings.
    """
    if any(type(weight.data) is not Tensor or weight.is_meta or not weight.numel() for weight in model.parameters()):
        return
    stack: Any = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    table = input_embeddings(model)
    ids = (table.weight.shape[0] // 2 + torch.arange(4, device=model.device))[None]  # type: ignore[index]
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        whole = {"attention_mask": torch.ones_like(ids), "return_dict": True}
        from_ids, embedded = stack(input_ids=ids, **whole)[0], stack(inputs_embeds=table(ids), **whole)[0]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{type(model).__name__} does not take embeddings as its input: {error}") from error
    finally:
        for module, mode in training.items():
            module.training = mode
    if (embedded - from_ids).norm() > (0.05 if from_ids.itemsize == 2 else 1e-3) * from_ids.norm():
        raise ValueError(
            f"{type(model).__name__} computes other hidden states from embeddings than from token ids, so that it "
            "cannot read a learnable instruction before a text: use a model without scales outside of its embedding "
            "table"
        )


def model_functions(model: PreTrainedModel) -> ModelFunctions:
    """Return what a learnable instruction may call of a language model: its embedding table and its forward.

    In an encoder-decoder model the hidden states are the encoder's.
    """
    stack: Any = model.get_encoder() if model.config.is_encoder_decoder else model.base_model

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        extra = {} if model.config.is_encoder_decoder else {"use_cache": False}
        return stack(input_ids=ids, attention_mask=mask, **extra).last_hidden_state

    return ModelFunctions(embed=input_embeddings(model), encode=encode)
