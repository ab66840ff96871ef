"""Pre-training objectives of encoder-decoder models, which make source and target from plain text.

Span corruption (T5, arXiv 1910.10683, section 3.1.4 and figure 2) replaces spans of the text by sentinel tokens. The
target is the spans, each behind its sentinel, and the next sentinel at its end::

    text      Thank you for inviting me to your party last week .
    source    Thank you <extra_id_0> me to your party <extra_id_1> week .
    target    <extra_id_0> for inviting <extra_id_1> last <extra_id_2>

Prefix language modelling cuts the text at a random place, and the model continues it. T5 is adapted by it to prompts
(arXiv 2104.08691, section 3.2). A decoder-only model needs no objective: all of the text is its target.

Both are functions of ids, drawn once when a document is stored, by a generator of seed, task and example: every process
and a resumed run read the same documents.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..schema import TokenizedExample
from .special_tokens import leading_tokens

OBJECTIVE_VERSION = 1
"""Part of the key of stored documents: raise it when an objective draws differently."""

OBJECTIVE_STREAM = 3
"""Argument `rendering` of ``rendering_rng`` for the generator of an objective, apart from those of prompts."""

TOO_SHORT = "text of a single token"
"""Reason for skipping a text."""

Ids = NDArray[np.int64]
"""Token ids of a text, int64 [tokens]."""


@dataclass(frozen=True)
class TextObjective(ABC):
    """Base class of pre-training objectives: a subclass divides a piece of text into source and target.

    They are for encoder-decoder models. A subclass is a frozen dataclass whose fields are its settings.

    Args:
        length: Maximum number of tokens of a piece. A longer text is cut into pieces whose lengths differ by at most
            one token.
    """

    length: int = 512

    def __post_init__(self) -> None:
        if self.length < 4:
            raise ValueError(f"length must be at least 4 tokens, so that every piece has 2, got {self.length}")

    @property
    def sentinels(self) -> int:
        """Maximum number of sentinel tokens (``<extra_id_0>``, ...) that a piece of text needs."""
        return 0

    @abstractmethod
    def split(self, ids: Ids, sentinels: Ids, rng: random.Random) -> tuple[Ids, Ids]:
        """Return (source ids, target ids) of a piece of text, which has at least two tokens.

        Args:
            ids: int64 [tokens], the piece.
            sentinels: int64 [at least `self.sentinels`], ids of the sentinel tokens.
            rng: Generator of every random choice.
        """


@dataclass(frozen=True)
class SpanCorruption(TextObjective):
    """Span corruption: the model writes the spans that are missing in its source (T5, arXiv 1910.10683, section 3.1.4).

    Lengths and places of the spans are drawn uniformly among all that have the right sums, as in T5's program. That
    program begins a piece with kept tokens and ends it with a corrupted span; here both ends may be either, since in a
    short text with a single span the corrupted tokens would always be the last ones.

    Args:
        length: Maximum number of tokens of a piece of text; its source and target are shorter.
        share: Share of corrupted tokens, between 0 and 1.
        mean_span: Mean length of a corrupted span, in tokens.
    """

    share: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1 or not 1 <= self.mean_span < math.inf:
            raise ValueError(
                "share must lie between 0 and 1, and mean_span be at least 1 token, "
                f"got {self.share} and {self.mean_span}"
            )

    @property
    def sentinels(self) -> int:
        return max(span_counts(length, self.share, self.mean_span)[1] for length in (self.length - 1, self.length)) + 1

    def split(self, ids: Ids, sentinels: Ids, rng: random.Random) -> tuple[Ids, Ids]:
        return corrupt_spans(ids, span_mask(len(ids), self.share, self.mean_span, rng), sentinels)


@dataclass(frozen=True)
class PrefixLanguageModelling(TextObjective):
    """Prefix language modelling: the model continues a text, which is cut at a uniformly drawn place.

    Args:
        length: Maximum number of tokens of a piece of text, which is divided into source and target.
    """

    def split(self, ids: Ids, sentinels: Ids, rng: random.Random) -> tuple[Ids, Ids]:
        place = 1 + int(rng.random() * (len(ids) - 1))
        return ids[:place], ids[place:]


def span_counts(length: int, share: float, mean_span: float) -> tuple[int, int]:
    """Return how many tokens of a piece of text span corruption replaces, and in how many spans: (tokens, spans).

    There are no more spans than kept tokens.

    >>> span_counts(512, 0.15, 3.0), span_counts(2, 0.15, 3.0)
    ((77, 26), (1, 1))

    Args:
        length: Tokens of the piece.
        share: Share of corrupted tokens.
        mean_span: Mean length of a corrupted span, in tokens.
    """
    tokens = min(max(round(length * share), 1), length - 1)
    return tokens, min(max(round(tokens / mean_span), 1), length - tokens)


def span_mask(length: int, share: float, mean_span: float, rng: random.Random) -> NDArray[np.bool_]:
    """Draw the spans that span corruption replaces; return a mask, bool [length], that is true at their tokens.

    At least one token is kept between two spans.

    Args:
        length: Tokens of the piece.
        share: Share of corrupted tokens.
        mean_span: Mean length of a corrupted span, in tokens.
        rng: Generator of the spans' lengths and places.
    """
    tokens, spans = span_counts(length, share, mean_span)
    kept = _parts(length - tokens + 2, spans + 1, rng)
    kept[[0, -1]] -= 1  # nothing may be kept before the first and behind the last span
    lengths = np.zeros(2 * spans + 1, dtype=np.int64)
    lengths[::2], lengths[1::2] = kept, _parts(tokens, spans, rng)
    return np.repeat(np.arange(2 * spans + 1) % 2 == 1, lengths)


def _parts(total: int, count: int, rng: random.Random) -> Ids:
    """Return `count` positive lengths with the sum `total`, drawn uniformly among all of them."""
    order = np.argsort([rng.random() for _ in range(total - 1)])
    return np.diff([0, *np.sort(order[: count - 1] + 1), total])


def corrupt_spans(ids: Ids, mask: NDArray[np.bool_], sentinels: Ids) -> tuple[Ids, Ids]:
    """Return (source, target) of a text in which each run of masked tokens is replaced by a sentinel.

    >>> ids, mask = np.array([5, 6, 7, 8, 9]), np.array([0, 1, 1, 0, 1], bool)
    >>> source, target = corrupt_spans(ids, mask, sentinels=np.array([99, 98, 97]))
    >>> source.tolist(), target.tolist()
    ([5, 99, 8, 98], [99, 6, 7, 98, 9, 97])

    Args:
        ids: int64 [tokens], the text.
        mask: bool [tokens], true at tokens to replace.
        sentinels: int64 [at least runs + 1], ids of the sentinels in order.
    """
    begins = mask & ~np.concatenate([[False], mask[:-1]])
    count = int(begins.sum())
    marked = ids.copy()
    marked[begins] = sentinels[:count]
    places = np.flatnonzero(begins[mask])
    return marked[begins | ~mask], np.append(np.insert(ids[mask], places, sentinels[:count]), sentinels[count])


def sentinel_ids(tokenizer: PreTrainedTokenizerBase, count: int) -> Ids:
    """Return the ids of ``<extra_id_0>``, ``<extra_id_1>``, ..., int64 [count]; they fall in T5's vocabulary.

    Raises:
        ValueError: The vocabulary lacks one.
    """
    vocabulary = tokenizer.get_vocab()
    names = [f"<extra_id_{number}>" for number in range(count)]
    if missing := [name for name in names if name not in vocabulary]:
        raise ValueError(
            f"span corruption needs {count} sentinel tokens, and the tokenizer {tokenizer.name_or_path!r} has no "
            f"{missing[0]}: choose T5's tokenizer, or write one with `crosstask tokenizer --sentinels {count}`"
        )
    return np.array([vocabulary[name] for name in names], dtype=np.int64)


def piece_count(tokens: int, length: int) -> int:
    """Return into how many pieces a text is cut; 0 for a text of a single token, which has no source or no target.

    >>> [piece_count(tokens, 512) for tokens in (1, 2, 512, 513)]
    [0, 1, 1, 2]

    Args:
        tokens: Tokens of the text.
        length: Maximum number of tokens of a piece.
    """
    return 0 if tokens < 2 else -(-tokens // length)


class TextDocuments:
    """Makes the training documents of an encoder-decoder model from plain text by a pre-training objective.

    A document is the tokens of source, eos, target, eos.

    Args:
        objective: Objective that makes source and target.
        tokenizer: Tokenizer of an encoder-decoder model.
        bos: Whether the bos token begins both sides; None for what the tokenizer adds by itself.

    Raises:
        ValueError: The tokenizer lacks sentinels that the objective needs.
    """

    def __init__(self, objective: TextObjective, tokenizer: PreTrainedTokenizerBase, bos: bool | None) -> None:
        self.objective = objective
        self._sentinels = sentinel_ids(tokenizer, objective.sentinels)
        self._head, self._end = leading_tokens(tokenizer, bos), [tokenizer.eos_token_id]

    def documents(self, ids: Sequence[int], rng: random.Random) -> list[TokenizedExample]:
        """Make the tokenized training examples of a text, one for each piece; [] for a text of a single token.

        Args:
            ids: Token ids of the text.
            rng: Generator of the objective's random choices.
        """
        count = piece_count(len(ids), self.objective.length)
        pieces = np.array_split(np.array(ids, dtype=np.int64), count) if count else []
        return [self._joined(*self.objective.split(piece, self._sentinels, rng)) for piece in pieces]

    def _joined(self, source: Ids, target: Ids) -> TokenizedExample:
        ids = [*self._head, *source, *self._end, *self._head, *target, *self._end]
        return TokenizedExample(np.array(ids, dtype=np.int64), len(self._head) + len(source) + 1)
