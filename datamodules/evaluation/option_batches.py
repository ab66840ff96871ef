"""Batches of options to rank: option trees in packed rows, and the logits that score each option.

A prefix is the common beginning of a prompt's options, and a branch is the rest of an option (``option_trees.py``).
Here a prefix of 3 tokens and branches of 1 and 2 tokens share a row; the options are (b, eos) and (c, d, eos)::

    tokens          x  y  z | b | c  d       branch_offsets  0  3  4  6
    position_ids    0  1  2 | 3 | 3  4
    kept            .  .  ^   ^   ^  ^       logits at z predict b and c, at c predict d, at b and d predict eos
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
"""Columns of an encoder row, more for a longer prompt; memory of a relative position bias grows with their square."""


class OptionTargets(NamedTuple):
    """Tokens whose log-likelihoods score each option, and the columns whose logits predict them.

    There are B rows of L columns (of the decoder, in an encoder-decoder model), K columns whose logits are computed, M
    scored tokens and C options.

    Args:
        kept: bool [B, L], true at the K columns whose logits are needed.
        read: int64 [M], index among the K kept columns of the one that predicts each scored token.
        tokens: int64 [M], ids of the scored tokens.
        options: int64 [M], index of each scored token's option.
        lengths: int64 [C], number of scored tokens of each option.
    """

    kept: Tensor
    read: Tensor
    tokens: Tensor
    options: Tensor
    lengths: Tensor


class RankedExample(NamedTuple):
    """An example of a batch, and the indices of its n options among the batch's options.

    Args:
        example: The example.
        first: Index of its first option; the others follow, up to ``first + n - 1``.
        unconditional: Index of each option's copy after the unconditional prompt; empty without that prompt.
    """

    example: EvaluationExample
    first: int
    unconditional: tuple[int, ...] = ()


class CausalOptionBatch(NamedTuple):
    """Batch of options for a decoder-only model to rank, in B packed rows of L columns.

    The tokens that all options of a prompt begin with are its prefix, the rest of each option is a branch, and both
    together are the prompt's tree. A drawing is in the docstring of this file.

    Args:
        input_ids: int64 [B, L].
        position_ids: int64 [B, L]; those of a branch continue from its prefix.
        offsets: int32 [D + 1], index of the first token of each of the D trees and runs of padding in the flattened
            rows; the last is B * L.
        branch_offsets: int32 [S + 1], index of the first token of each of the S prefixes, branches and runs of padding;
            the last is B * L.
        targets: Tokens that score each option.
        ranked: The examples; none in a filler batch.
    """

    input_ids: Tensor
    position_ids: Tensor
    offsets: Tensor
    branch_offsets: Tensor
    targets: OptionTargets
    ranked: tuple[RankedExample, ...] = ()


class Seq2SeqOptionBatch(NamedTuple):
    """Batch of C options for an encoder-decoder model to rank; every prompt is encoded once for all of its options.

    Args:
        input_ids: int64 [B, L_source], encoder tokens.
        offsets: int32 [D + 1], index of the first token of each of the D prompts and runs of padding in the flattened
            encoder rows; the last is B * L_source.
        decoder_input_ids: int64 [B, L_target]; [C, L_target] for models without document attention, with one option
            per row. The model fills in its start token at ``branch_offsets``.
        decoder_offsets: int32 [D + 1], index of the first option of each prompt in the flattened decoder rows.
        branch_offsets: int32 [S + 1], index of the first token of each of the S options and runs of padding in the
            flattened decoder rows.
        sources: int64 [C], index of the encoder row of each decoder row; empty if rows are packed.
        targets: Tokens that score each option.
        ranked: The examples; none in a filler batch.
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
    """Interface of the builders of batches with options to rank, one for decoder-only models, one for encoder-decoders.

    An option tree is a prompt with its options: the tokens that all options begin with, and the rest of each.
    """

    def trees(self, documents: Sequence[TokenizedExample]) -> list[OptionTree]:
        """Return the option trees of one prompt.

        Args:
            documents: For each option, the tokens of prompt and option.
        """
        ...

    def cuts(self, documents: Sequence[TokenizedExample]) -> bool:
        """Return whether the prompt loses its beginning to truncation.

        Args:
            documents: For each option, the tokens of prompt and option.
        """
        ...

    def collate(self, prompts: Sequence[Sequence[OptionTree]], ranked: Sequence[RankedExample] = ()) -> OptionBatch:
        """Pack the option trees of some prompts into one batch; the options keep their order.

        Args:
            prompts: Trees of each prompt.
            ranked: The examples of the prompts.
        """
        ...


@dataclass(frozen=True)
class CausalOptionRows:
    """Builds the rows in which a decoder-only model scores the options of prompts.

    An option tree is a prompt with its options: the tokens that all options begin with, and the rest of each.

    Args:
        pad_token_id: Token id of padding.
        columns: Columns of a row; rows are longer if a tree is.
        longest: Maximum number of tokens of prompt and option together.
        packed: Put several prompts and their options into a row, which needs document attention; otherwise a row holds
            one option with its prompt.
    """

    pad_token_id: int
    columns: int
    longest: int
    packed: bool = True

    def trees(self, documents: Sequence[TokenizedExample]) -> list[OptionTree]:
        """Return the trees of one prompt's options (``causal_trees``); none without options."""
        return causal_trees(documents, longest=self.longest, share=self.packed) if documents else []

    def cuts(self, documents: Sequence[TokenizedExample]) -> bool:
        """Return whether the prompt loses its beginning to truncation."""
        return max(len(document.input_ids) for document in documents) > self.longest

    def collate(
        self, prompts: Sequence[Sequence[OptionTree]], ranked: Sequence[RankedExample] = ()
    ) -> CausalOptionBatch:
        """Pack the option trees of some prompts into one batch; without prompts, it is a row of padding.

        Options keep their order.

        Args:
            prompts: Trees of each prompt.
            ranked: The examples of the prompts.
        """
        trees = [tree for prompt in prompts for tree in prompt]
        rows = rows_of_trees([tree.columns for tree in trees], self.columns, packed=self.packed)
        width = _width([sum(trees[place].columns for place in row) for row in rows])
        input_ids = np.full((len(rows), width), self.pad_token_id)
        position_ids = np.zeros((len(rows), width), dtype=np.int64)
        scored = _ScoredColumns(trees)
        offsets, pieces = [], []
        for r, row in enumerate(rows):
            end = r * width
            for place in row:
                tree = trees[place]
                prefix = np.arange(end, end + len(tree.prefix))
                offsets.append(end)
                pieces.append(end)
                input_ids.flat[prefix], position_ids.flat[prefix] = tree.prefix, np.arange(len(prefix))
                end += len(prefix)
                for option, branch in enumerate(tree.branches):
                    pieces += [end] * bool(len(branch))
                    columns = np.arange(end, end + len(branch))
                    input_ids.flat[columns], position_ids.flat[columns] = branch, len(prefix) + np.arange(len(branch))
                    scored.add(place, option, np.concatenate([prefix, columns]))
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
    """Builds the encoder and decoder rows in which an encoder-decoder model scores the options of prompts.

    Args:
        pad_token_id: Token id of padding.
        longest_source: Maximum number of tokens of a prompt; None for any number.
        longest_target: Maximum number of tokens of an option; None for any number.
        packed: Put several prompts into an encoder row, and several options into a decoder row, which needs document
            attention; otherwise a row holds one.
    """

    pad_token_id: int
    longest_source: int | None = None
    longest_target: int | None = None
    packed: bool = True

    def trees(self, documents: Sequence[TokenizedExample]) -> list[OptionTree]:
        """Return the tree of one prompt's options (``seq2seq_tree``), in a list; none without options."""
        lengths = {"longest_source": self.longest_source, "longest_target": self.longest_target}
        return [seq2seq_tree(documents, **lengths)] if documents else []

    def cuts(self, documents: Sequence[TokenizedExample]) -> bool:
        """Return whether the prompt loses its beginning to truncation."""
        return self.longest_source is not None and documents[0].n_source > self.longest_source

    def collate(
        self, prompts: Sequence[Sequence[OptionTree]], ranked: Sequence[RankedExample] = ()
    ) -> Seq2SeqOptionBatch:
        """Pack the option trees of some prompts into one batch; without prompts, it is a row of padding.

        Options keep their order.

        Args:
            prompts: Trees of each prompt.
            ranked: The examples of the prompts.
        """
        trees = [tree for prompt in prompts for tree in prompt]
        sizes = [max(len(tree.prefix), sum(map(len, tree.branches))) for tree in trees]
        rows = rows_of_trees(sizes, ENCODER_COLUMNS, packed=self.packed)
        encoder = self._encoder_rows(trees, rows)
        decoder = self._decoder_rows(trees, rows, encoder.padded)
        sources = [place for place, tree in enumerate(trees) for _ in tree.branches] or [0]
        return Seq2SeqOptionBatch(
            torch.from_numpy(encoder.ids),
            torch.tensor(encoder.offsets, dtype=torch.int32),
            torch.from_numpy(decoder.ids),
            torch.tensor(decoder.offsets, dtype=torch.int32),
            torch.tensor(decoder.branch_offsets, dtype=torch.int32),
            torch.tensor([] if self.packed else sources, dtype=torch.int64),
            decoder.targets,
            tuple(ranked),
        )

    def _encoder_rows(self, trees: Sequence[OptionTree], rows: Sequence[Sequence[int]]) -> "_EncoderRows":
        """Put the prefixes of trees into rows; `rows` are the indices of each row's trees."""
        lengths = [sum(len(trees[place].prefix) for place in row) for row in rows]
        width = _width(lengths)
        ids = np.full((len(rows), width), self.pad_token_id)
        offsets = []
        for r, row in enumerate(rows):
            end = r * width
            for place in row:
                prefix = trees[place].prefix
                offsets.append(end)
                ids.flat[end : end + len(prefix)] = prefix
                end += len(prefix)
            offsets += [end] * (end < (r + 1) * width)  # padding is a document, too
        return _EncoderRows(ids, [*offsets, ids.size], [length < width for length in lengths])

    def _decoder_rows(
        self, trees: Sequence[OptionTree], rows: Sequence[Sequence[int]], padded: Sequence[bool]
    ) -> "_DecoderRows":
        """Put the branches of trees into rows; `padded` are the encoder rows with padding."""
        branches = [[(place, c) for place in row for c in range(len(trees[place].branches))] for row in rows]
        if not self.packed:
            branches = [[member] for row in branches for member in row] or [[]]
        width = _width([sum(len(trees[place].branches[c]) for place, c in row) for row in branches])
        ids = np.full((len(branches), width), self.pad_token_id)
        scored = _ScoredColumns(trees)
        offsets, branch_offsets = [], []
        for r, members in enumerate(branches):
            end = r * width
            for place, option in members:
                branch = trees[place].branches[option]
                offsets += [end] * (option == 0)
                branch_offsets.append(end)
                ids.flat[end : end + len(branch)] = branch
                scored.add(place, option, np.arange(end, end + len(branch)))
                end += len(branch)
            # The decoder's padding attends to the encoder's padding, or to the row's last prompt if there is none.
            if self.packed and padded[r]:
                offsets.append(end)
            branch_offsets += [end] * (end < (r + 1) * width)
        targets = scored.targets(len(branches), width)
        return _DecoderRows(ids, [*offsets, ids.size], [*branch_offsets, ids.size], targets)


class _EncoderRows(NamedTuple):
    """Encoder rows: token ids, offsets of the prompts, and whether each row has padding."""

    ids: NDArray[np.int64]
    offsets: list[int]
    padded: list[bool]


class _DecoderRows(NamedTuple):
    """Decoder rows: token ids, offsets of the prompts and of the options, and the scored tokens."""

    ids: NDArray[np.int64]
    offsets: list[int]
    branch_offsets: list[int]
    targets: OptionTargets


def rows_of_trees(sizes: Sequence[int], columns: int, *, packed: bool) -> list[list[int]]:
    """Pack option trees (each a prompt with its options) into rows, and return the indices of each row's trees.

    Without trees, one empty row is returned.

    Args:
        sizes: Columns of each tree.
        columns: Columns of a row; rows are longer if a tree is.
        packed: Whether trees share rows; otherwise each has its own row.
    """
    if not packed or not sizes:
        return [[place] for place in range(len(sizes))] or [[]]
    rows = best_fit(np.array(sizes), max(columns, *sizes), np.random.default_rng(0))
    return [rows.row(r).tolist() for r in range(len(rows))]


def _width(used: Sequence[int]) -> int:
    return max(1, *used) if used else 1


class _ScoredColumns:
    """The columns whose logits predict the tokens of each option, recorded while rows are filled."""

    def __init__(self, trees: Sequence[OptionTree]) -> None:
        self.trees = trees
        self.first = np.cumsum([0, *(len(tree.targets) for tree in trees)])
        self.columns: dict[int, NDArray[np.int64]] = {}

    def add(self, place: int, option: int, path: NDArray[np.int64]) -> None:
        """Add an option of tree `place`; `path` are the columns of its tokens from the prompt on, except the last."""
        self.columns[int(self.first[place]) + option] = path[-len(self.trees[place].targets[option]) :]

    def targets(self, rows: int, width: int) -> OptionTargets:
        """Return the targets of all options in `rows` rows of `width` columns."""
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
