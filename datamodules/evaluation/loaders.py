"""Dataloaders of an evaluation set: options to rank, prompts to generate from, and packed rows for the loss.

Every example is evaluated exactly once over all replicas. All replicas have the same number of batches, since sharded
strategies need every replica in every forward. A replica that runs out of examples gets filler batches, whose results
are ignored.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ..packing.best_fit import Packing, one_per_row
from ..packing.budget_batches import budget_batches
from ..packing.collate import CausalRows, RowBatch, RowKind, Seq2SeqRows, holes_of
from ..packing.replicas import Replicas
from ..rendering.special_tokens import leading_tokens
from ..rendering.tokenization import tokenizer_fingerprint
from ..schema import EvaluationExample, PromptBatch, TokenizedExample
from ..storage.preparation import Preparation
from .evaluation_set import EvaluationSet
from .evaluation_settings import Evaluation
from .option_batches import CausalOptionRows, OptionBatch, OptionRows, RankedExample, Seq2SeqOptionRows
from .option_trees import OptionTree, tokenize_options, tree_columns
from .options import OptionRanking
from .tokenized_prompts import TokenIds, option_documents, prompt_tokens


@dataclass(frozen=True)
class EvaluationLoaders:
    """Builds the dataloaders of evaluation sets, of any stage.

    Args:
        preparation: Settings of rendering and tokenization, with the tokenizer.
        packing: Function that packs documents into rows; ``one_per_row`` for models without document attention.
        row_length: Tokens of a row; for an encoder-decoder model, of an encoder row.
        target_length: Tokens of a decoder row; None for a decoder-only model.
        evaluation: Settings of evaluation.
    """

    preparation: Preparation
    packing: Packing
    row_length: int
    target_length: int | None
    evaluation: Evaluation

    @property
    def longest_source(self) -> int:
        """Most tokens of a prompt, demonstrations included."""
        return longest_source(self.row_length, self.target_length, self.evaluation.max_new_tokens)

    @property
    def row_kind(self) -> CausalRows | Seq2SeqRows:
        """Layout of packed rows, in training and for the validation loss."""
        pad = self.preparation.tokenizer.pad_token_id
        if self.target_length is None:
            return CausalRows(self.row_length, pad)
        return Seq2SeqRows(self.row_length, self.target_length, pad)

    @property
    def option_rows(self) -> OptionRows:
        """Layout of rows with options to rank."""
        pad, packed = self.preparation.tokenizer.pad_token_id, self.packing is not one_per_row
        if self.target_length is None:
            return CausalOptionRows(pad, self.row_length, self.row_length, packed)
        return Seq2SeqOptionRows(pad, self.row_length, self.target_length, packed)

    def loader(self, examples: EvaluationSet, replicas: Replicas, skip: Collection[int]) -> "ChainedLoader":
        """Return one replica's batches: options to rank, if they are ranked, then prompts to generate from.

        Args:
            examples: The stage's examples.
            replicas: This process's replica.
            skip: Numbers of examples that need no evaluation; the collection is read whenever iteration begins.
        """
        ranking = self.evaluation.ranking
        if ranking is None:
            return ChainedLoader(self._prompt_loader(examples, replicas, skip))
        ranked = self._option_loader(examples.select(options=True), ranking, replicas, skip)
        return ChainedLoader(ranked, self._prompt_loader(examples.select(options=False), replicas, skip))

    def loss_loader(self, examples: EvaluationSet, replicas: Replicas) -> "RowLoader":
        """Return one replica's batches of the stage's documents in packed rows, for the loss on their targets."""
        documents = self.preparation.tokenize(examples.prompts)
        budget = self.evaluation.batch_tokens
        return RowLoader(documents, kind=self.row_kind, packing=self.packing, budget=budget, replicas=replicas)

    def fingerprint(self, examples: EvaluationSet) -> dict[str, str]:
        """Return digests and settings that decide the prompts of a stage and their batches."""
        evaluation = self.evaluation
        leading = leading_tokens(self.preparation.tokenizer, self.preparation.bos)
        lengths = (evaluation.max_new_tokens, evaluation.batch_tokens, self.row_length, self.target_length)
        prompts = hashlib.sha256()
        for example in examples.examples:
            prompts.update(f"{example!r}\n".encode())
        return {
            "prompts": prompts.hexdigest(),
            "tokenizer": tokenizer_fingerprint(self.preparation.tokenizer),
            "batches": repr((*lengths, self.packing.__name__, leading, evaluation.ranking)),
        }

    def _option_loader(
        self, examples: EvaluationSet, ranking: OptionRanking, replicas: Replicas, skip: Collection[int]
    ) -> "OptionLoader":
        tokenizer, pair = self.preparation.tokenizer, self.target_length is not None
        tokenize = partial(tokenize_options, tokenizer, pair=pair, bos=self.preparation.bos, eos=ranking.eos)
        options = [example.options for example in examples.examples]
        unconditional: dict[str, TokenizedExample] = {}
        if ranking.unconditional is not None:
            texts = list(dict.fromkeys(option.strip() for group in options for option in group))
            tokenized = tokenize([ranking.unconditional] * len(texts), [[text] for text in texts])
            unconditional = {text: document for text, [document] in zip(texts, tokenized, strict=True)}
        loader = OptionLoader(
            examples.examples,
            option_documents(tokenizer, examples.prompts, options, tokenize),
            rows=self.option_rows,
            budget=self.evaluation.batch_tokens,
            replicas=replicas,
            unconditional=unconditional,
            skip=skip,
        )
        if loader.cut:
            rank_zero_info(f"{loader.cut} of {len(options)} prompts to rank lose their beginning")
        return loader

    def _prompt_loader(self, examples: EvaluationSet, replicas: Replicas, skip: Collection[int]) -> "PromptLoader":
        tokenizer = self.preparation.tokenizer
        longest = self.longest_source
        sources, cut = prompt_tokens(self.preparation, examples.prompts, longest)
        if cut:
            rank_zero_info(f"{cut} of {len(sources)} prompts lose their beginning to {longest} tokens")
        return PromptLoader(
            sources,
            examples.examples,
            pad_token_id=tokenizer.pad_token_id,
            pad_left=self.target_length is None,
            max_new_tokens=self.evaluation.max_new_tokens,
            budget=self.evaluation.batch_tokens,
            replicas=replicas,
            skip=skip,
        )


def longest_source(row_length: int, target_length: int | None, max_new_tokens: int) -> int:
    """Return the most tokens of a prompt; the prompt of a decoder-only model shares its row with the answer.

    Args:
        row_length: Tokens of a row; for an encoder-decoder model, of an encoder row.
        target_length: Tokens of a decoder row; None for a decoder-only model.
        max_new_tokens: Most tokens of a generated answer.

    Raises:
        ValueError: No token is left for the prompt.
    """
    room = row_length if target_length else row_length - max_new_tokens
    if room < 1:
        raise ValueError(
            f"rows.length = {row_length} leaves no room for a prompt beside evaluation.max_new_tokens = "
            f"{max_new_tokens}"
        )
    return room


def without_skipped(
    batches: Sequence[list[int]], examples: Sequence[EvaluationExample], skip: Collection[int]
) -> list[list[int]]:
    """Return the batches (indices into `examples`) without those whose examples' numbers are all in `skip`."""
    return [batch for batch in batches if not all(examples[i].number in skip for i in batch)]


class PromptLoader:
    """Iterable of one replica's ``PromptBatch``es, the longest prompts first.

    A filler batch, which keeps replicas at the same number of batches, repeats one prompt and lists no examples.

    Args:
        sources: Token ids of each prompt.
        examples: The example of each prompt.
        pad_token_id: Token id of padding.
        pad_left: Whether padding comes before the prompt (decoder-only models) or after it.
        max_new_tokens: Most tokens of a generated answer.
        budget: Most tokens of a batch, padding and generated tokens included; a longer prompt is a batch by itself.
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

    Batches, and so scores, do not depend on the number of replicas. A filler batch, which keeps replicas at the same
    number of batches, is a row of padding.

    Args:
        examples: The examples with their options.
        documents: Tokenized options of each example, from ``tokenize_options``.
        rows: Layout of rows with options for the kind of model.
        budget: Most tokens of a batch; a larger example is a batch by itself.
        replicas: This process's replica.
        unconditional: Document of each option after the unconditional prompt, by the option's text without surrounding
            white space; None without that prompt.
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
    """Iterable of one replica's batches of documents in packed rows, for the loss over all documents.

    A filler batch, which keeps replicas at the same number of batches, has only padding, and no target.

    Args:
        documents: The documents of all replicas.
        kind: Layout of rows for the kind of model.
        packing: Function that packs documents into rows.
        budget: Most columns of a batch, padding included; at least one row.
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
