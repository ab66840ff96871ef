"""Batches of what is asked, dealt to replicas without repeats."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..packing.best_fit import Packing
from ..packing.budget_batches import budget_batches
from ..packing.collate import RowBatch, RowKind
from ..packing.replicas import Replicas
from ..schema import EvaluationExample, PromptBatch, TokenizedExample


def unanswered(
    batches: Sequence[list[int]], examples: Sequence[EvaluationExample], answered: Collection[int]
) -> list[list[int]]:
    """The batches that hold an example whose number is not among those answered, whole."""
    return [batch for batch in batches if not all(examples[i].number in answered for i in batch)]


class PromptLoader:
    """One replica's prompts, each exactly once over all replicas, and equally many batches on every replica.

    Sharded strategies need every replica in every forward: where batches run out, a replica repeats one prompt
    in a batch that lists no examples, so nothing of it is scored.

    Args:
        sources: Token ids of each prompt.
        examples: What each prompt asks, in the same order.
        pad_token_id: Fills rows up to the longest of their batch.
        pad_left: Whether padding stands before the prompt (decoder-only) or after it.
        max_new_tokens: Longest answer in tokens.
        budget: Most tokens in a batch, answers included.
        replicas: Who else evaluates.
        answered: Numbers of examples that are answered already, read whenever iteration begins.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int]],
        examples: Sequence[EvaluationExample],
        *,
        pad_token_id: int,
        pad_left: bool,
        max_new_tokens: int,
        budget: int,
        replicas: Replicas,
        answered: Collection[int] = (),
    ) -> None:
        self.sources, self.examples, self.replicas, self.answered = sources, examples, replicas, answered
        self.pad_token_id, self.pad_left, self.max_new_tokens = pad_token_id, pad_left, max_new_tokens
        self._batches = budget_batches([len(source) + max_new_tokens for source in sources], budget, padded=True)

    def __len__(self) -> int:
        return len(self._mine())

    def __iter__(self) -> Iterator[PromptBatch]:
        for batch in self._mine():
            yield self._collate(batch or [0], tuple(self.examples[i] for i in batch))

    def _mine(self) -> list[list[int]]:
        return self.replicas.equal_share(unanswered(self._batches, self.examples, self.answered))

    def _collate(self, batch: Sequence[int], examples: tuple[EvaluationExample, ...]) -> PromptBatch:
        input_ids, mask = pad_prompts([self.sources[i] for i in batch], self.pad_token_id, left=self.pad_left)
        return PromptBatch(input_ids, mask, examples, self.max_new_tokens)


def pad_prompts(sources: Sequence[Sequence[int]], pad_token_id: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Prompts as (input_ids, attention_mask), int64 [B, L], padded on one side to the longest of them."""
    longest = max(map(len, sources))
    input_ids = torch.full((len(sources), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for r, source in enumerate(sources):
        place = slice(longest - len(source), None) if left else slice(None, len(source))
        input_ids[r, place] = torch.tensor(source)
        attention_mask[r, place] = 1
    return input_ids, attention_mask


class RowLoader:
    """One replica's share of documents in packed rows, for a loss over all of them.

    Batches are equally many on every replica; where rows run out, a batch holds padding alone and no target.
    """

    def __init__(
        self,
        documents: Sequence[TokenizedExample],
        *,
        kind: RowKind,
        packing: Packing,
        budget: int,
        replicas: Replicas,
    ) -> None:
        self.documents, self.kind = documents, kind
        lengths = np.array([len(document.input_ids) for document in documents])
        n_sources = np.array([document.n_source for document in documents])
        self._targets = int(kind.target_counts(lengths, n_sources).sum())
        rows = packing(kind.sizes(lengths, n_sources), kind.capacity, np.random.default_rng(0))
        together = max(budget // kind.columns, 1)
        everything = [rows.row(r).tolist() for r in range(len(rows))]
        batches = [everything[i : i + together] for i in range(0, len(everything), together)]
        self._mine = [batch or [[]] for batch in replicas.equal_share(batches)]

    def __len__(self) -> int:
        return len(self._mine)

    def __iter__(self) -> Iterator[RowBatch]:
        for batch in self._mine:
            rows = [[self.documents[i] for i in row] for row in batch]
            yield self.kind.collate(rows, step_targets=self._targets)


class SizedLoader(Protocol):
    """Yields so many batches."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class Chain:
    """Loaders one after another, as one sized loader."""

    def __init__(self, *loaders: SizedLoader) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def __iter__(self) -> Iterator[Any]:
        for loader in self.loaders:
            yield from loader
