"""Rows of scored pairs: joins instruction and response, truncates pairs that are too long, and collates batches.

A pair is one document, joined as its tokenizer joins two texts (here RoBERTa's)::

    tokens          <s>  is  7  prime  ?  </s> </s>  yes  </s>
                    head |  instruction | joint    | response | tail
    position_ids     0   1   2    3    4   5    6     7    8      the scorer adds its model's first position
    token_type_ids   0   0   0    0    0   0    0     1    1      where the tokenizer has types
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..packing.collate import NO_HOLES, Cuts, Integers
from ..rendering.chat import chat_parts
from ..rendering.special_tokens import encode
from ..schema import ScoredBatch, TokenizedExample
from .instruction_truncation import Cut, kept_places

Truncation = Literal["instruction", "longest_first"]
"""Side of a pair that is cut if the pair is too long: the instruction, or (``longest_first``, as in Cappy's released
program) the longer one of instruction and response."""


class PairFrame(NamedTuple):
    """Special tokens before, between and after an instruction and a response, as a scorer reads them.

    Args:
        head: Ids of the tokens before the instruction; the scorer's regression head reads the first of them.
        joint: Ids of the tokens between instruction and response.
        tail: Ids of the tokens after the response.
        types: Whether instruction and response have different token types (``token_type_ids`` 0 and 1).
    """

    head: tuple[int, ...]
    joint: tuple[int, ...]
    tail: tuple[int, ...]
    types: bool

    @property
    def size(self) -> int:
        """Number of special tokens of a pair."""
        return len(self.head) + len(self.joint) + len(self.tail)

    def join(
        self,
        instruction: Sequence[int],
        response: Sequence[int],
        label: float | None = None,
        group: int | None = None,
    ) -> TokenizedExample:
        """Join the tokens of instruction and response with special tokens, without truncation.

        The source of the resulting document is everything before the response.

        Args:
            instruction: Token ids of the instruction.
            response: Token ids of the response.
            label: Correctness in [0, 1]; None if it is unknown.
            group: Number that the pairs of one example share; None if they are not grouped.
        """
        ids = [*self.head, *instruction, *self.joint, *response, *self.tail]
        n_source = len(self.head) + len(instruction) + len(self.joint)
        return TokenizedExample(np.array(ids, dtype=np.int64), n_source, label, group)


def pair_frame(tokenizer: PreTrainedTokenizerBase) -> PairFrame:
    """Return the special tokens with which a tokenizer joins two texts.

    For a tokenizer that adds no token before the first text (e.g. one that was trained from scratch) the result is
    RoBERTa's frame, ``<s> instruction </s></s> response </s>``, in its own special tokens.

    Raises:
        ValueError: The tokenizer lacks special tokens for that frame.
    """
    encoded = tokenizer("a", "b", return_token_type_ids=True)
    ids, types, sides = encoded["input_ids"], encoded["token_type_ids"], encoded.sequence_ids(0)
    first, second = ([i for i, side in enumerate(sides) if side == which] for which in (0, 1))
    if first[0] > 0:
        types_differ = "token_type_ids" in tokenizer.model_input_names and types[second[0]] != types[first[0]]
        return PairFrame(
            tuple(ids[: first[0]]), tuple(ids[first[-1] + 1 : second[0]]), tuple(ids[second[-1] + 1 :]), types_differ
        )
    starts = (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id)
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    start, end = (next((token for token in tokens if token is not None), None) for tokens in (starts, ends))
    if start is None or end is None:
        raise ValueError(
            f"a tokenizer that joins pairs needs bos or cls, and eos or sep; {tokenizer.name_or_path!r} has neither"
        )
    return PairFrame((start,), (end, end), (end,), types=False)


def chat_frame(tokenizer: PreTrainedTokenizerBase) -> PairFrame:
    """Return the tokens around user message and assistant answer in the chat template, as reward models read them.

    Raises:
        ValueError: The tokenizer has no chat template.
    """
    head, joint, tail = map(tuple, chat_parts(tokenizer))
    return PairFrame(head, joint, tail, types=False)


def tokenize_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, list[int]]:
    """Return the token ids of each distinct text, without special tokens, by the text."""
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, encode(tokenizer, distinct), strict=True))


def kept_tokens(
    instructions: Integers, responses: Integers, room: int, truncation: Truncation
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Compute how many tokens of instruction and response remain if pairs are truncated, int64 [n] each.

    Args:
        instructions: int [n], tokens of each instruction.
        responses: int [n], tokens of each response.
        room: Maximum number of tokens of instruction and response together.
        truncation: ``instruction`` cuts the instruction, and the response only if it alone is longer than `room`.
            ``longest_first`` cuts the longer side until both are equally long, then both.

    >>> kept_tokens(np.array([9, 9, 2]), np.array([3, 8, 7]), 6, "instruction")
    (array([3, 0, 0]), array([3, 6, 6]))
    >>> kept_tokens(np.array([9, 9, 2]), np.array([3, 8, 7]), 6, "longest_first")
    (array([3, 3, 2]), array([3, 3, 4]))
    """
    instructions, responses = np.asarray(instructions, dtype=np.int64), np.asarray(responses, dtype=np.int64)
    if truncation == "instruction":
        kept = np.minimum(responses, room)
        return np.minimum(instructions, room - kept), kept
    shorter, longer = np.minimum(instructions, responses), np.maximum(instructions, responses)
    longer = np.minimum(longer, np.maximum(shorter, room - shorter))
    over = shorter + longer > room
    shorter, longer = np.where(over, room // 2, shorter), np.where(over, room - room // 2, longer)
    swapped = instructions > responses
    return np.where(swapped, longer, shorter), np.where(swapped, shorter, longer)


@dataclass(frozen=True)
class ScoredRows:
    """Builds a scorer's batches: packed rows of (instruction, response) pairs, each labelled with its correctness.

    A pair longer than `pair_length` is truncated. An instruction loses the part named by `part`, a response its end.
    Special tokens are never cut.

    Args:
        length: Columns of a row, which holds several pairs.
        pair_length: Maximum number of tokens of a pair, special tokens included.
        pad_token_id: Token id of padding.
        frame: Special tokens of a pair.
        truncation: Side of a long pair that is cut: ``instruction``, whose tokens go first, and the response's end only
            if the response alone does not fit; or ``longest_first`` for the longer side.
        part: Part of a long instruction that is cut: ``middle``, ``end`` or ``beginning``.

    Raises:
        ValueError: `pair_length` is larger than a row, or too small for the special tokens.
    """

    length: int
    pair_length: int
    pad_token_id: int
    frame: PairFrame
    truncation: Truncation = "instruction"
    part: Cut = "middle"

    def __post_init__(self) -> None:
        if not self.frame.size <= self.pair_length <= self.length:
            raise ValueError(
                f"pair_length = {self.pair_length} must hold the {self.frame.size} special tokens of a pair, and fit "
                f"into a row of {self.length} columns"
            )

    @property
    def capacity(self) -> int:
        return self.length

    @property
    def columns(self) -> int:
        return self.length

    @property
    def room(self) -> int:
        """Maximum number of tokens of instruction and response together."""
        return self.pair_length - self.frame.size

    def sizes(self, lengths: Integers, n_sources: Integers) -> Integers:
        return np.minimum(lengths, self.pair_length)

    def real_tokens(self, lengths: Integers, n_sources: Integers) -> Integers:
        return self.sizes(lengths, n_sources)

    def target_counts(self, lengths: Integers, n_sources: Integers, holes: Integers = NO_HOLES) -> Integers:
        return np.ones_like(lengths)

    def cuts(self, lengths: Integers, n_sources: Integers) -> Cuts:
        """Return which pairs are truncated, and which of them lose tokens of the response (``target_cut``)."""
        instructions, responses = self._sides(lengths, n_sources)
        _, kept = kept_tokens(instructions, responses, self.room, self.truncation)
        return Cuts(lengths > self.pair_length, kept < responses)

    def _sides(self, lengths: Integers, n_sources: Integers) -> tuple[Integers, Integers]:
        """Return (tokens of the instructions, tokens of the responses), without special tokens."""
        n_head, n_joint, n_tail = map(len, self.frame[:3])
        return n_sources - n_head - n_joint, lengths - n_sources - n_tail

    def cut(self, pair: TokenizedExample) -> TokenizedExample:
        """Return a pair truncated to at most `pair_length` tokens."""
        ids, n_source, label, group, *_ = pair
        if len(ids) <= self.pair_length:
            return pair
        n_head, n_joint, n_tail = map(len, self.frame[:3])
        sides = ids[n_head : n_source - n_joint], ids[n_source : len(ids) - n_tail]
        kept = kept_tokens(np.array(len(sides[0])), np.array(len(sides[1])), self.room, self.truncation)
        instruction = sides[0][kept_places(len(sides[0]), int(kept[0]), self.part)]
        return self.frame.join(instruction.tolist(), sides[1][: int(kept[1])].tolist(), label, group)

    def collate(self, rows: Sequence[Sequence[TokenizedExample]], step_targets: int) -> ScoredBatch:
        """Return the batch of some rows of pairs of instruction and response; a pair without a label gets NaN.

        Adjacent pairs of a row with the same group number form a group: the responses to one instruction, which a
        ranking loss compares.

        Args:
            rows: The tokenized pairs of each row.
            step_targets: Divisor of the loss: the pairs of the whole optimizer step over all replicas and accumulated
                batches, or its groups with a ranking loss.

        Raises:
            ValueError: A label is outside [0, 1].
        """
        shape = (len(rows), self.length)
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        position_ids = np.zeros(shape, dtype=np.int64)
        token_type_ids = np.zeros(shape, dtype=np.int64)
        positions = np.arange(self.pair_length)
        scored, labels, paddings, groups, longest = [], [], [], list[int](), 0
        for r, row in enumerate(rows):
            column, last = 0, None
            for ids, n_source, label, group, *_ in map(self.cut, row):
                end = column + len(ids)
                input_ids[r, column:end] = ids
                position_ids[r, column:end] = positions[: len(ids)]
                if self.frame.types:
                    token_type_ids[r, column + n_source : end] = 1
                if label is not None and not 0.0 <= label <= 1.0:
                    raise ValueError(f"a label must be a correctness in [0, 1], got {label}")
                scored.append(r * self.length + column)
                labels.append(np.nan if label is None else label)
                if group is not None and group == last:
                    groups[-1] += 1
                elif group is not None:
                    groups.append(1)
                last = group
                longest = max(longest, len(ids))
                column = end
            if column < self.length:
                paddings.append(r * self.length + column)
        return ScoredBatch(
            torch.from_numpy(input_ids),
            torch.from_numpy(position_ids),
            torch.from_numpy(token_type_ids),
            torch.tensor(sorted([*scored, *paddings, len(rows) * self.length]), dtype=torch.int32),
            torch.tensor(scored, dtype=torch.int64),
            torch.tensor(labels, dtype=torch.float32),
            step_targets,
            longest,
            tuple(groups),
        )
