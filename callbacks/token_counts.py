"""Number of tokens in a training batch."""

from typing import Any

from torch import Tensor

from ..datamodules.bilevel.bilevel_stream import BilevelBatch
from ..datamodules.schema import CausalBatch, ScoredBatch, Seq2SeqBatch


def language_rows(batch: CausalBatch | Seq2SeqBatch | BilevelBatch) -> list[CausalBatch | Seq2SeqBatch]:
    """Return the parts of a training batch that hold rows of a language model.

    That is the batch itself, or the inner and outer batches of instruction optimization.
    """
    if not isinstance(batch, BilevelBatch):
        return [batch]
    inner = [part.rows for part in (batch.inner, batch.curvature) if part is not None]
    return inner if batch.outer is None else [*inner, batch.outer]


def token_count(batch: Any) -> int | Tensor:
    """Return the tokens of a training batch, without padding; 0 for a batch of another project.

    For scored pairs the count is a tensor on their device, so that nothing waits for it.
    """
    if isinstance(batch, ScoredBatch):
        return (batch.position_ids > 0).sum() + len(batch.scored)  # positions restart at 0, and padding stays there
    if isinstance(batch, CausalBatch | Seq2SeqBatch | BilevelBatch):
        return sum(rows.n_tokens for rows in language_rows(batch))
    return 0
