"""A batch of rows in chunks, so that a pass over all of them needs the memory of a few.

The rows of a chunk are of similar lengths, and no wider than the longest of them: what the outer level reads is four
times what a theta step reads at the paper's settings, and costs less than four times as much.
"""

import torch
from torch import Tensor

from ..schema import IGNORE_INDEX, CausalBatch
from .bilevel_stream import InnerBatch, LanguageRows
from .exemplars import InstructionInputs


def outer_chunks(rows: LanguageRows, size: int) -> list[LanguageRows]:
    """The rows of a batch, `size` at a time, the longest first; every chunk knows the targets of the whole step."""
    return [take_rows(rows, places) for places in _places(rows, size)]


def inner_chunks(batch: InnerBatch, size: int) -> list[InnerBatch]:
    """The same of inner instances, with what their instructions are computed from."""
    return [
        InnerBatch(take_rows(batch.rows, places), take_inputs(batch.inputs, places))
        for places in _places(batch.rows, size)
    ]


def take_rows(rows: LanguageRows, places: list[int]) -> LanguageRows:
    """Some rows of a batch, in this order and as wide as the longest of them.

    Args:
        rows: One document a row, and padding.
        places: Which.
    """
    lengths = row_lengths(rows)[places]
    width = int(lengths.max())
    ids = rows.input_ids[places, :width]
    starts = torch.arange(len(places)) * width
    offsets = _offsets(starts, starts + lengths, width)
    if isinstance(rows, CausalBatch):
        return rows._replace(
            input_ids=ids,
            targets=rows.targets[places, :width],
            position_ids=rows.position_ids[places, :width],
            offsets=offsets.to(rows.offsets),
            n_documents=len(places),
            n_tokens=int(lengths.sum()),
        )
    counts = (rows.targets[places] != IGNORE_INDEX).sum(dim=1).cpu()
    columns = int(counts.max())
    target_starts = torch.arange(len(places)) * columns
    # Padding is a document where the encoder has some, with whatever the decoder has left.
    ends = torch.where(lengths < width, target_starts + counts, target_starts + columns)
    padded = lengths < width
    target_offsets = torch.stack([target_starts, ends], dim=1)[torch.stack([torch.ones_like(padded), padded], dim=1)]
    last = torch.tensor([len(places) * columns])
    return rows._replace(
        input_ids=ids,
        targets=rows.targets[places, :columns],
        offsets=offsets.to(rows.offsets),
        target_offsets=torch.cat([target_offsets, last]).to(rows.target_offsets),
        n_documents=len(places),
        n_tokens=int(lengths.sum() + counts.sum()),
    )


def halves(rows: LanguageRows) -> tuple[LanguageRows, LanguageRows]:
    """Two batches of half the rows each: how alike their hypergradients are tells how noisy they are.

    Raises:
        ValueError: There is one row.
    """
    count = len(rows.input_ids)
    if count < 2:
        raise ValueError(f"outer.noise_every compares halves of the outer batch, and a replica's has {count} row")
    return take_rows(rows, list(range(count // 2))), take_rows(rows, list(range(count // 2, count)))


def row_lengths(rows: LanguageRows) -> Tensor:
    """int64 [B], columns of the document of each row; of its source, for an encoder-decoder model."""
    columns = rows.input_ids.shape[1]
    starts = rows.offsets.cpu().long()
    first = starts[:-1] % columns == 0
    return (starts[1:] - starts[:-1])[first]


def take_inputs(inputs: InstructionInputs, places: list[int]) -> InstructionInputs:
    """What the instructions of some instances are computed from."""
    return InstructionInputs(*(None if tensor is None else tensor[places] for tensor in inputs))  # type: ignore[arg-type]


def _places(rows: LanguageRows, size: int) -> list[list[int]]:
    order = row_lengths(rows).argsort(descending=True, stable=True).tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


def _offsets(starts: Tensor, ends: Tensor, width: int) -> Tensor:
    """Where documents start: each row's, and behind it its padding's where there is any."""
    padded = ends - starts < width
    both = torch.stack([starts, ends], dim=1)[torch.stack([torch.ones_like(padded), padded], dim=1)]
    return torch.cat([both, torch.tensor([len(starts) * width])])
