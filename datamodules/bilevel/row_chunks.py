"""Chunks of a batch's rows, so that a forward and backward pass needs the memory of one chunk.

The rows of a chunk have similar lengths, and their padding is cut to the longest of them, which saves computation. At
the paper's settings an outer batch has four times the rows of an inner step.
"""

import torch
from torch import Tensor

from ..schema import IGNORE_INDEX, CausalBatch
from .exemplars import InstructionInputs
from .instance_rows import LanguageRows
from .level_rows import InnerBatch


def outer_chunks(rows: LanguageRows, size: int) -> list[LanguageRows]:
    """Divide a batch into batches of at most `size` rows, the longest rows first, to save memory and padding.

    Their ``step_targets`` stays the count of the whole step, so that the losses of the parts add up to its mean loss.
    """
    return [take_rows(rows, indices) for indices in _sorted_chunks(rows, size)]


def inner_chunks(batch: InnerBatch, size: int) -> list[InnerBatch]:
    """Divide a batch of inner instances into batches of at most `size`, the longest rows first, to save memory.

    Each part has the inputs of its rows' learnable instructions.
    """
    return [
        InnerBatch(take_rows(batch.rows, indices), take_inputs(batch.inputs, indices))
        for indices in _sorted_chunks(batch.rows, size)
    ]


def take_rows(rows: LanguageRows, indices: list[int]) -> LanguageRows:
    """Return selected rows of a batch, in the order of `indices`, with padding cut to the longest of them.

    Args:
        rows: Rows of one document each.
        indices: Indices of the selected rows.
    """
    lengths = row_lengths(rows)[indices]
    width = int(lengths.max())
    ids = rows.input_ids[indices, :width]
    starts = torch.arange(len(indices)) * width
    offsets = _offsets(starts, starts + lengths, width)
    if isinstance(rows, CausalBatch):
        targets = rows.targets[indices, :width]
        return rows._replace(
            input_ids=ids,
            targets=targets,
            position_ids=rows.position_ids[indices, :width],
            offsets=offsets.to(rows.offsets),
            n_documents=len(indices),
            n_tokens=int(lengths.sum()),
            target_places=_places(targets),
        )
    counts = (rows.targets[indices] != IGNORE_INDEX).sum(dim=1).cpu()
    columns = int(counts.max())
    target_starts = torch.arange(len(indices)) * columns
    # If the encoder's row has padding, that is a document, and the rest of the decoder's row belongs to it.
    ends = torch.where(lengths < width, target_starts + counts, target_starts + columns)
    padded = lengths < width
    target_offsets = torch.stack([target_starts, ends], dim=1)[torch.stack([torch.ones_like(padded), padded], dim=1)]
    last = torch.tensor([len(indices) * columns])
    targets = rows.targets[indices, :columns]
    return rows._replace(
        input_ids=ids,
        targets=targets,
        offsets=offsets.to(rows.offsets),
        target_offsets=torch.cat([target_offsets, last]).to(rows.target_offsets),
        n_documents=len(indices),
        n_tokens=int(lengths.sum() + counts.sum()),
        target_places=_places(targets),
    )


def _places(targets: Tensor) -> Tensor:
    return (targets.flatten() != IGNORE_INDEX).nonzero().squeeze(1)


def halves(rows: LanguageRows) -> tuple[LanguageRows, LanguageRows]:
    """Return two halves of a batch that trains the instruction, to compare their hypergradients and measure the noise.

    Raises:
        ValueError: The batch has one row.
    """
    count = len(rows.input_ids)
    if count < 2:
        raise ValueError(
            f"outer.noise_every compares halves of a replica's outer batch, which needs at least 2 rows, got {count}"
        )
    return take_rows(rows, list(range(count // 2))), take_rows(rows, list(range(count // 2, count)))


def row_lengths(rows: LanguageRows) -> Tensor:
    """Return the number of tokens of each row, int64 [B], without padding; for an encoder-decoder model, of its source.

    Args:
        rows: Rows of one document each.
    """
    columns = rows.input_ids.shape[1]
    starts = rows.offsets.cpu().long()
    first = starts[:-1] % columns == 0
    return (starts[1:] - starts[:-1])[first]


def take_inputs(inputs: InstructionInputs, indices: list[int]) -> InstructionInputs:
    """Return the inputs of the instances with these indices."""
    return InstructionInputs(*(None if tensor is None else tensor[indices] for tensor in inputs))  # type: ignore[arg-type]


def _sorted_chunks(rows: LanguageRows, size: int) -> list[list[int]]:
    order = row_lengths(rows).argsort(descending=True, stable=True).tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


def _offsets(starts: Tensor, ends: Tensor, width: int) -> Tensor:
    """Return the offsets of documents: of every row's document, and of its padding if it has any."""
    padded = ends - starts < width
    both = torch.stack([starts, ends], dim=1)[torch.stack([torch.ones_like(padded), padded], dim=1)]
    return torch.cat([both, torch.tensor([len(starts) * width])])
