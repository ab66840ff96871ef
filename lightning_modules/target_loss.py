"""The loss of target tokens as a sum and a count, so that the mean is taken over a whole optimizer step.

Source tokens have no loss (OPT-IML's label loss): ``batch.targets`` is ``IGNORE_INDEX`` in their columns.
"""

# B rows, L columns, N target columns of all rows, V vocabulary

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from ..datamodules.schema import IGNORE_INDEX, CausalBatch, Seq2SeqBatch
from .attention.document_attention import Documents, without_packing_search
from .chunked_head import ChunkedHead


class LossSum(NamedTuple):
    """A sum of cross entropies and the number of tokens it is over.

    Args:
        sum: Scalar, in nats.
        targets: Scalar int64, number of target tokens.
    """

    sum: Tensor
    targets: Tensor


def target_logits(model: PreTrainedModel, batch: CausalBatch | Seq2SeqBatch, *, packed: bool = True) -> Tensor:
    """Return the logits [N, V] that predict the target tokens, in the order of ``batch.target_places``.

    In instruction tuning 85 to 95% of the tokens belong to prompts; no logits are computed for them. Encoder-decoder
    models compute logits of all decoder columns, nearly all of which are targets.

    Args:
        model: A causal or encoder-decoder language model of transformers.
        batch: Rows for a model of that architecture.
        packed: Whether the model has document attention. If not, each row must hold one document, and padding is
            masked.
    """
    inputs, places_N = _inputs(model, batch, packed=packed), batch.target_places
    with without_packing_search() if packed else nullcontext():
        if isinstance(batch, Seq2SeqBatch):
            return model(**inputs, use_cache=False).logits.flatten(0, 1).index_select(0, places_N)
        with head_reading(model, places_N):
            return model(**inputs, use_cache=False).logits.squeeze(0)


@contextmanager
def head_reading(model: PreTrainedModel, places_N: Tensor) -> Iterator[None]:
    """Within the block, make a model compute logits at N positions only: its ``logits`` are [1, N, V].

    transformers' ``logits_to_keep`` takes the same columns of every row, or a mask whose count makes the host wait.

    Args:
        model: A language model of transformers.
        places_N: Positions, as indices into the flattened rows [B * L].

    Raises:
        ValueError: The model has no head.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no output embeddings, whose inputs could be selected")

    def select(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (inputs[0].flatten(0, 1).index_select(0, places_N).unsqueeze(0),)

    hook = head.register_forward_pre_hook(select, prepend=True)
    try:
        yield
    finally:
        hook.remove()


def target_loss(
    model: PreTrainedModel,
    batch: CausalBatch | Seq2SeqBatch,
    *,
    packed: bool = True,
    head: ChunkedHead | None = None,
) -> LossSum:
    """Return the sum of the cross entropies of all target tokens of a batch.

    This is OPT-IML's label loss (arXiv 2212.12017, section 3.1), before the division by the step's number of targets.

    Args:
        model: A causal or encoder-decoder language model of transformers.
        batch: Rows for a model of that architecture.
        packed: Whether the model has document attention. If not, each row must hold one document, and padding is
            masked.
        head: The model's head, to compute the loss of many targets without keeping their logits; the result can then be
            differentiated once only. None keeps the logits.
    """
    places_N = batch.target_places
    targets_N = batch.targets.flatten().index_select(0, places_N)
    count = targets_N.new_full((), len(targets_N))  # torch.tensor would wait for a copy
    if head is not None and len(targets_N) * head.vocabulary > head.chunk:
        inputs = _inputs(model, batch, packed=packed)
        with without_packing_search() if packed else nullcontext():
            loss = head.loss_sum(targets_N, lambda hidden: hidden.flatten(0, 1).index_select(0, places_N), **inputs)
        return LossSum(loss, count)
    logits_NV = target_logits(model, batch, packed=packed)
    # Half-precision sums over thousands of targets lose digits: the softmax is taken in float32 or better.
    wide = logits_NV.dtype if logits_NV.dtype == torch.float64 else torch.float32
    return LossSum(F.cross_entropy(logits_NV.to(wide), targets_N, reduction="sum"), count)


def _inputs(model: PreTrainedModel, batch: CausalBatch | Seq2SeqBatch, *, packed: bool) -> dict[str, Any]:
    """Return the arguments of the model's forward."""
    if isinstance(batch, CausalBatch):
        attention = _attention(batch.offsets, batch.input_ids, packed=packed)
        return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, **attention}
    start = model.config.decoder_start_token_id
    return {
        "input_ids": batch.input_ids,
        "decoder_input_ids": shift_right(batch.targets, batch.target_offsets, start=start),
        **_attention(batch.offsets, batch.input_ids, packed=packed, decoder_offsets=batch.target_offsets),
    }


def shift_right(targets_BL: Tensor, offsets: Tensor, *, start: int) -> Tensor:
    """Return decoder inputs: the targets of each document, shifted one column to the right behind the start token.

    >>> shift_right(torch.tensor([[5, 6, 7, 8, -100]]), torch.tensor([0, 2, 4, 5]), start=0)
    tensor([[0, 5, 0, 7, 0]])
    """
    inputs = torch.cat([targets_BL.new_full((1,), start), targets_BL.flatten()])
    inputs[offsets.long()] = start  # the last offset is one column past the end, and cut off again
    return inputs[:-1].where(inputs[:-1] != IGNORE_INDEX, start).view_as(targets_BL)


def _attention(
    offsets: Tensor, input_ids: Tensor, *, packed: bool, decoder_offsets: Tensor | None = None
) -> dict[str, Documents | Tensor]:
    if packed:
        return {"documents": Documents(offsets, decoder_offsets)}
    return {"attention_mask": padding_mask(offsets, input_ids)}


def padding_mask(offsets: Tensor, input_ids_BL: Tensor) -> Tensor:
    """Return a mask int64 [B, L], 1 in the first document of each row, for rows of one document and padding.

    >>> padding_mask(torch.tensor([0, 3, 4, 8]), torch.zeros(2, 4))
    tensor([[1, 1, 1, 0],
            [1, 1, 1, 1]])

    Raises:
        ValueError: A row holds more than one document.
    """
    rows, columns = input_ids_BL.shape
    starts = offsets[:-1].long()
    if len(starts) and int(torch.bincount(starts // columns, minlength=rows).max()) > 2:
        raise ValueError("padded attention reads one document a row: set the datamodule's packing to one_per_row")
    ends = offsets[1:].long()[starts % columns == 0] - torch.arange(rows, device=offsets.device) * columns
    return (torch.arange(columns, device=offsets.device) < ends.unsqueeze(1)).long()
