"""Batches of options to rank: trees in packed rows, and the logits that score each option.

A trunk of 3 tokens with branches of 1 and 2 in one row; the first option is (b, eos), the second (c, d, eos)::

    tokens          x  y  z | b | c  d       branch_offsets  0  3  4  6
    position_ids    0  1  2 | 3 | 3  4
    kept            .  .  ^   ^   ^  ^       logits at z predict b and c, those at b and d predict eos
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..packing.best_fit import best_fit
from ..schema import EvaluationExample, TokenizedExample
from .option_trees import OptionTree, causal_trees, seq2seq_tree

ENCODER_COLUMNS = 256
"""Columns of an encoder's row, more for a longer prompt; a relative position bias is as large as a row squared."""


class OptionTargets(NamedTuple):
    """The logits that score each option. K kept columns, M scored tokens, C options.

    Args:
        kept: bool [B, L], the K columns whose logits are needed, in a decoder-only model's rows or the decoder's.
        read: int64 [M], place among the kept columns of the logits that predict each token.
        tokens: int64 [M], the scored tokens.
        options: int64 [M], the option that each token belongs to.
        lengths: int64 [C], number of scored tokens of each option.
    """

    kept: Tensor
    read: Tensor
    tokens: Tensor
    options: Tensor
    lengths: Tensor


class RankedExample(NamedTuple):
    """One example and its options in a batch: ``[first, first + n)``.

    Args:
        example: The example with its n options.
        first: Place of its first option.
        unconditional: Place of each option after the unconditional prompt; empty without that prompt.
    """

    example: EvaluationExample
    first: int
    unconditional: tuple[int, ...] = ()


class CausalOptionBatch(NamedTuple):
    """Options for a decoder-only model: trunks and branches in B packed rows of L columns.

    Args:
        input_ids: int64 [B, L].
        position_ids: int64 [B, L]; a branch's continue from its trunk.
        offsets: int32 [D + 1], the trees in the flattened rows, padding included.
        branch_offsets: int32 [S + 1], trunks and branches.
        targets: The logits that score each option.
        ranked: The examples; none in a batch that only keeps replicas in step.
    """

    input_ids: Tensor
    position_ids: Tensor
    offsets: Tensor
    branch_offsets: Tensor
    targets: OptionTargets
    ranked: tuple[RankedExample, ...] = ()


class Seq2SeqOptionBatch(NamedTuple):
    """Options for an encoder-decoder model: every prompt is encoded once for all of its options.

    Args:
        input_ids: int64 [B, L_source], the encoder's.
        offsets: int32 [D + 1], prompts in the flattened encoder rows.
        decoder_input_ids: int64 [B, L_target], or [C, L_target] with one option a row. The model's start token belongs
            at ``branch_offsets``.
        decoder_offsets: int32 [D + 1], the options of each prompt in the flattened decoder rows.
        branch_offsets: int32 [S + 1], the options.
        sources: int64 [C], the encoder row of each decoder row with one option a row; otherwise empty.
        targets: The logits that score each option.
        ranked: The examples; none in a batch that only keeps replicas in step.
    """

    input_ids: Tensor
    offsets: Tensor
    decoder_input_ids: Tensor
    decoder_offsets: Tensor
    branch_offsets: Tensor
    sources: Tensor
    targets: OptionTargets
    ranked: tuple[RankedExample, ...] = ()


OptionBatch = CausalOptionBatch | Seq2SeqOptionBatch


class OptionRows(Protocol):
    """Turns prompts with their options into rows of one kind of model."""

    def trees(self, documents: Sequence[TokenizedExample]) -> list[OptionTree]: ...
    def cuts(self, documents: Sequence[TokenizedExample]) -> bool: ...
    def collate(self, prompts: Sequence[Sequence[OptionTree]], ranked: Sequence[RankedExample] = ()) -> OptionBatch: ...


@dataclass(frozen=True)
class CausalOptionRows:
    """Rows for a decoder-only model.

    Args:
        pad_token_id: Fills rows.
        columns: Columns of a row; a tree with more has a longer one.
        longest: Most tokens of prompt and option together.
        packed: Whether the model has document attention; otherwise a row holds one option and its prompt.
    """

    pad_token_id: int
    columns: int
    longest: int
    packed: bool = True

    def trees(self, documents: Sequence[TokenizedExample]) -> list[OptionTree]:
        """The trees of one prompt's options (``causal_trees``); none without options."""
        return causal_trees(documents, longest=self.longest, share=self.packed) if documents else []

    def cuts(self, documents: Sequence[TokenizedExample]) -> bool:
        """Whether the prompt loses its beginning."""
        return max(len(document.input_ids) for document in documents) > self.longest

    def collate(
        self, prompts: Sequence[Sequence[OptionTree]], ranked: Sequence[RankedExample] = ()
    ) -> CausalOptionBatch:
        """Collate the trees of prompts into a batch, options in their order; without prompts, a row of padding."""
        trees = [tree for prompt in prompts for tree in prompt]
        rows = rows_of_trees([tree.columns for tree in trees], self.columns, packed=self.packed)
        width = _width([sum(trees[place].columns for place in row) for row in rows])
        input_ids = np.full((len(rows), width), self.pad_token_id)
        position_ids = np.zeros((len(rows), width), dtype=np.int64)
        scored = _Scored(trees)
        offsets, pieces = [], []
        for r, row in enumerate(rows):
            end = r * width
            for place in row:
                tree = trees[place]
                trunk = np.arange(end, end + len(tree.trunk))
                offsets.append(end)
                pieces.append(end)
                input_ids.flat[trunk], position_ids.flat[trunk] = tree.trunk, np.arange(len(trunk))
                end += len(trunk)
                for option, branch in enumerate(tree.branches):
                    pieces += [end] * bool(len(branch))
                    columns = np.arange(end, end + len(branch))
                    input_ids.flat[columns], position_ids.flat[columns] = branch, len(trunk) + np.arange(len(branch))
                    scored.add(place, option, np.concatenate([trunk, columns]))
                    end += len(branch)
            if end < (r + 1) * width:  # padding is a document, too
                offsets.append(end)
                pieces.append(end)
                position_ids.flat[end : (r + 1) * width] = np.arange((r + 1) * width - end)
        ends = [len(rows) * width]
        return CausalOptionBatch(
            torch.from_numpy(input_ids),
            torch.from_numpy(position_ids),
            torch.tensor(offsets + ends, dtype=torch.int32),
            torch.tensor(pieces + ends, dtype=torch.int32),
            scored.targets(len(rows), width),
            tuple(ranked),
        )


@dataclass(frozen=True)
class Seq2SeqOptionRows:
    """Rows for an encoder-decoder model.

    Args:
        pad_token_id: Fills rows.
        longest_source: Most tokens of a prompt; None for any number.
        longest_target: Most tokens of an option; None for any number.
        packed: Whether the model has document attention; otherwise a row holds one prompt, or one option.
    """

    pad_token_id: int
    longest_source: int | None = None
    longest_target: int | None = None
    packed: bool = True

    def trees(self, documents: Sequence[TokenizedExample]) -> list[OptionTree]:
        """The tree of one prompt's options (``seq2seq_tree``); none without options."""
        lengths = {"longest_source": self.longest_source, "longest_target": self.longest_target}
        return [seq2seq_tree(documents, **lengths)] if documents else []

    def cuts(self, documents: Sequence[TokenizedExample]) -> bool:
        """Whether the prompt loses its beginning."""
        return self.longest_source is not None and documents[0].n_source > self.longest_source

    def collate(
        self, prompts: Sequence[Sequence[OptionTree]], ranked: Sequence[RankedExample] = ()
    ) -> Seq2SeqOptionBatch:
        """Collate the trees of prompts into a batch, options in their order; without prompts, a row of padding."""
        trees = [tree for prompt in prompts for tree in prompt]
        sizes = [max(len(tree.trunk), sum(map(len, tree.branches))) for tree in trees]
        rows = rows_of_trees(sizes, ENCODER_COLUMNS, packed=self.packed)
        branches = [[(place, c) for place in row for c in range(len(trees[place].branches))] for row in rows]
        if not self.packed:
            branches = [[member] for row in branches for member in row] or [[]]
        width = _width([sum(len(trees[place].trunk) for place in row) for row in rows])
        target_width = _width([sum(len(trees[place].branches[c]) for place, c in row) for row in branches])
        input_ids = np.full((len(rows), width), self.pad_token_id)
        decoder_ids = np.full((len(branches), target_width), self.pad_token_id)
        scored = _Scored(trees)
        offsets, decoder_offsets, pieces = [], [], []
        for r, row in enumerate(rows):
            end = r * width
            for place in row:
                trunk = trees[place].trunk
                offsets.append(end)
                input_ids.flat[end : end + len(trunk)] = trunk
                end += len(trunk)
            offsets += [end] * (end < (r + 1) * width)  # padding is a document, too
        for r, members in enumerate(branches):
            end = r * target_width
            for place, option in members:
                branch = trees[place].branches[option]
                decoder_offsets += [end] * (option == 0)
                pieces.append(end)
                decoder_ids.flat[end : end + len(branch)] = branch
                scored.add(place, option, np.arange(end, end + len(branch)))
                end += len(branch)
            # The decoder's padding attends to the encoder's padding, or to the row's last prompt if there is none.
            if self.packed and sum(len(trees[place].trunk) for place in rows[r]) < width:
                decoder_offsets.append(end)
            pieces += [end] * (end < (r + 1) * target_width)
        sources = [place for place, tree in enumerate(trees) for _ in tree.branches] or [0]
        return Seq2SeqOptionBatch(
            torch.from_numpy(input_ids),
            torch.tensor([*offsets, input_ids.size], dtype=torch.int32),
            torch.from_numpy(decoder_ids),
            torch.tensor([*decoder_offsets, decoder_ids.size], dtype=torch.int32),
            torch.tensor([*pieces, decoder_ids.size], dtype=torch.int32),
            torch.tensor([] if self.packed else sources, dtype=torch.int64),
            scored.targets(len(branches), target_width),
            tuple(ranked),
        )


def rows_of_trees(sizes: Sequence[int], columns: int, *, packed: bool) -> list[list[int]]:
    """The trees of each row; without trees, one empty row."""
    if not packed or not sizes:
        return [[place] for place in range(len(sizes))] or [[]]
    rows = best_fit(np.array(sizes), max(columns, *sizes), np.random.default_rng(0))
    return [rows.row(r).tolist() for r in range(len(rows))]


def _width(used: Sequence[int]) -> int:
    return max(1, *used) if used else 1


class _Scored:
    """Records the column that predicts each token of each option."""

    def __init__(self, trees: Sequence[OptionTree]) -> None:
        self.trees = trees
        self.first = np.cumsum([0, *(len(tree.targets) for tree in trees)])
        self.columns: dict[int, NDArray[np.int64]] = {}

    def add(self, place: int, option: int, path: NDArray[np.int64]) -> None:
        """Add an option; `path` holds the columns before its last token."""
        self.columns[int(self.first[place]) + option] = path[-len(self.trees[place].targets[option]) :]

    def targets(self, rows: int, width: int) -> OptionTargets:
        tokens = [target for tree in self.trees for target in tree.targets]
        columns = [self.columns[option] for option in range(len(tokens))]
        nothing = np.zeros(0, dtype=np.int64)
        kept = np.unique(np.concatenate([nothing, *columns]))
        mask = np.zeros(rows * width, dtype=np.bool_)
        mask[kept] = True
        lengths = np.array([len(target) for target in tokens], dtype=np.int64)
        return OptionTargets(
            torch.from_numpy(mask).view(rows, width),
            torch.from_numpy(np.searchsorted(kept, np.concatenate([nothing, *columns]))),
            torch.from_numpy(np.concatenate([nothing, *tokens])),
            torch.from_numpy(np.repeat(np.arange(len(tokens)), lengths)),
            torch.from_numpy(lengths),
        )
