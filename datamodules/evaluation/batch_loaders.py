"""Loaders of one kind of evaluation batch each: prompts to answer, options to rank, or packed rows for the loss."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..packing.best_fit import Packing
from ..packing.budget_batches import budget_batches
from ..packing.collate import RowBatch, RowKind, holes_of
from ..packing.replicas import Replicas
from ..schema import EvaluationExample, PromptBatch, TokenizedExample
from .option_batches import OptionBatch, OptionRows, RankedExample
from .option_trees import OptionTree, tree_columns
from .tokenized_prompts import TokenIds


def without_skipped(
    batches: Sequence[list[int]], examples: Sequence[EvaluationExample], skip: Collection[int]
) -> list[list[int]]:
    """Drop the batches whose examples all have answers already, e.g. when an interrupted evaluation resumes.

    Args:
        batches: Indices of each batch's examples.
        examples: The evaluated examples.
        skip: Numbers of the examples that need no evaluation (``EvaluationExample.number``).
    """
    return [batch for batch in batches if not all(examples[i].number in skip for i in batch)]


class PromptLoader:
    """Iterable of one replica's batches of padded prompts to generate answers from, the longest prompts first.

    All replicas have the same number of batches, since sharded models need every process in every forward pass. A
    replica with fewer prompts gets filler batches: one prompt again, and no examples.

    Args:
        sources: Token ids of each prompt.
        examples: The example of each prompt.
        pad_token_id: Token id of padding.
        pad_left: Whether padding comes before the prompt (decoder-only models) or after it.
        max_new_tokens: Maximum number of tokens of a generated answer.
        budget: Maximum number of tokens of a batch, padding and generated tokens included; a longer prompt is a batch
            by itself.
        replicas: This process's replica.
        skip: Numbers of examples that need no evaluation; the collection is read whenever iteration begins.
    """

    def __init__(
        self,
        sources: Sequence[TokenIds],
        examples: Sequence[EvaluationExample],
        *,
        pad_token_id: int,
        pad_left: bool,
        max_new_tokens: int,
        budget: int,
        replicas: Replicas,
        skip: Collection[int] = (),
    ) -> None:
        self.sources, self.examples, self.replicas, self.skip = sources, examples, replicas, skip
        self.pad_token_id, self.pad_left, self.max_new_tokens = pad_token_id, pad_left, max_new_tokens
        self._batches = budget_batches([len(source) + max_new_tokens for source in sources], budget, padded=True)

    def __len__(self) -> int:
        return len(self._share())

    def __iter__(self) -> Iterator[PromptBatch]:
        for batch in self._share():
            yield self._collate(batch or [0], tuple(self.examples[i] for i in batch))

    def _share(self) -> list[list[int]]:
        return self.replicas.equal_share(without_skipped(self._batches, self.examples, self.skip))

    def _collate(self, batch: Sequence[int], examples: tuple[EvaluationExample, ...]) -> PromptBatch:
        input_ids, mask = pad_prompts([self.sources[i] for i in batch], self.pad_token_id, left=self.pad_left)
        return PromptBatch(input_ids, mask, examples, self.max_new_tokens)


def pad_prompts(sources: Sequence[TokenIds], pad_token_id: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Return prompts as (input_ids, attention_mask), int64 [B, L] each, padded to the longest of them.

    Args:
        sources: Token ids of each prompt.
        pad_token_id: Token id of padding.
        left: Whether padding comes before the prompt or after it.
    """
    longest = max(map(len, sources))
    input_ids = torch.full((len(sources), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for r, source in enumerate(sources):
        columns = slice(longest - len(source), None) if left else slice(None, len(source))
        input_ids[r, columns] = torch.as_tensor(source)
        attention_mask[r, columns] = 1
    return input_ids, attention_mask


class OptionLoader:
    """Iterable of one replica's batches of examples with options to rank, the largest first.

    Batches, and so scores, do not depend on the number of replicas. All replicas have the same number of batches, since
    sharded models need every process in every forward pass. A filler batch is a row of padding.

    Args:
        examples: The examples with their options.
        documents: Tokenized options of each example, from ``tokenize_options``.
        rows: Builds the rows of a batch, for a decoder-only or an encoder-decoder model.
        budget: Maximum number of tokens of a batch; a larger example is a batch by itself.
        replicas: This process's replica.
        unconditional: Each option tokenized after a prompt without the question, which the score ``pmi`` needs, by the
            option's text without surrounding white space; None without that prompt.
        skip: Numbers of examples that need no evaluation; the collection is read whenever iteration begins.

    Raises:
        ValueError: An option is longer than the model's rows. The message names its task and example.
    """

    def __init__(
        self,
        examples: Sequence[EvaluationExample],
        documents: Iterable[Sequence[TokenizedExample]],
        *,
        rows: OptionRows,
        budget: int,
        replicas: Replicas,
        unconditional: Mapping[str, TokenizedExample] | None = None,
        skip: Collection[int] = (),
    ) -> None:
        self.examples, self.rows, self.replicas, self.skip = examples, rows, replicas, skip
        self.trees, self.cut = [], 0
        """The trees of each example's options, and the number of prompts that lose their beginning."""
        for example, of_example in zip(examples, documents, strict=True):
            self.trees.append(_trees(rows, example, of_example))
            self.cut += rows.cuts(of_example)
        self.unconditional = {text: rows.trees([document]) for text, document in (unconditional or {}).items()}
        self._batches = budget_batches([tree_columns(trees) for trees in self.trees], budget)

    def __len__(self) -> int:
        return len(self._share())

    def __iter__(self) -> Iterator[OptionBatch]:
        return map(self._collate, self._share())

    def _share(self) -> list[list[int]]:
        return self.replicas.equal_share(without_skipped(self._batches, self.examples, self.skip))

    def _collate(self, batch: Sequence[int]) -> OptionBatch:
        examples = [self.examples[i] for i in batch]
        texts = [tuple(option.strip() for option in example.options) for example in examples]
        n_options = sum(map(len, texts))
        unconditional = dict.fromkeys(text for group in texts for text in group if self.unconditional)
        place_of = {text: n_options + place for place, text in enumerate(unconditional)}
        ranked, first = [], 0
        for example, group in zip(examples, texts, strict=True):
            ranked.append(RankedExample(example, first, tuple(place_of[text] for text in group if place_of)))
            first += len(group)
        trees = [*(self.trees[i] for i in batch), *(self.unconditional[text] for text in unconditional)]
        return self.rows.collate(trees, ranked)


def _trees(rows: OptionRows, example: EvaluationExample, documents: Sequence[TokenizedExample]) -> list[OptionTree]:
    try:
        return rows.trees(documents)
    except ValueError as error:
        raise ValueError(f"task {example.task}, example {example.id!r}: {error}") from error


class RowLoader:
    """Iterable of one replica's batches of packed rows, for the validation loss over all documents.

    A document is a tokenized prompt with its target. All replicas have the same number of batches; a filler batch has
    only padding, and no target.

    Args:
        documents: The documents of all replicas.
        kind: Builds the rows of a batch, for a decoder-only or an encoder-decoder model.
        packing: Function that packs documents into rows.
        budget: Maximum number of columns of a batch, padding included; at least one row.
        replicas: This process's replica.
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
        self._targets = int(kind.target_counts(lengths, n_sources, holes_of(documents)).sum())
        packed = packing(kind.sizes(lengths, n_sources), kind.capacity, np.random.default_rng(0))
        rows = [packed.row(r).tolist() for r in range(len(packed))]
        rows_per_batch = max(budget // kind.columns, 1)
        batches = [rows[i : i + rows_per_batch] for i in range(0, len(rows), rows_per_batch)]
        self._batches = [batch or [[]] for batch in replicas.equal_share(batches)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[RowBatch]:
        for batch in self._batches:
            rows = [[self.documents[i] for i in row] for row in batch]
            yield self.kind.collate(rows, step_targets=self._targets)


class SizedLoader(Protocol):
    """Iterable of batches with a known number of batches."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class ChainedLoader:
    """Iterable of the batches of several loaders, one loader after another."""

    def __init__(self, *loaders: SizedLoader) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def __iter__(self) -> Iterator[Any]:
        for loader in self.loaders:
            yield from loader
