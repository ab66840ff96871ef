"""Truncation of too long instructions: the tokens that remain.

By default the middle is cut. An instruction begins with the definition of its task and ends in the question, and what
is long between them is a passage or demonstrations. docs/adaptation.md has the numbers.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Cut = Literal["middle", "end", "beginning"]
"""The part of a too long instruction that is cut; Cappy's released program cuts the end."""


def instruction_cut(cut: Cut | None, *, faithful: bool) -> Cut:
    """The part to cut: by default the middle, or the end if `faithful` to Cappy's released program."""
    return cut or ("end" if faithful else "middle")


def kept_ends(count: int, cut: Cut) -> tuple[int, int]:
    """Numbers of tokens that remain at the beginning and at the end, `count` together.

    >>> kept_ends(5, "middle"), kept_ends(5, "end"), kept_ends(5, "beginning")
    ((2, 3), (5, 0), (0, 5))
    """
    first = {"middle": count // 2, "end": count, "beginning": 0}[cut]
    return first, count - first


def kept_places(length: int, count: int, cut: Cut) -> NDArray[np.int64]:
    """The places of the tokens that remain of `length` tokens, at most `count`.

    >>> kept_places(6, 3, "middle").tolist(), kept_places(2, 3, "middle").tolist()
    ([0, 4, 5], [0, 1])
    """
    if length <= count:
        return np.arange(length)
    first, last = kept_ends(count, cut)
    return np.concatenate([np.arange(first), np.arange(length - last, length)])


def shortened_source(ids: Sequence[int], count: int, cut: Cut, *, head: int = 0, tail: int = 0) -> list[int]:
    """At most `count` tokens of a prompt, whose special tokens remain.

    >>> shortened_source([1, 5, 6, 7, 8, 2], 4, "end", head=1, tail=1)
    [1, 5, 6, 2]

    Args:
        ids: Tokens of the prompt.
        count: Most tokens that remain.
        cut: The part to cut.
        head: Special tokens at the beginning.
        tail: Special tokens at the end.
    """
    ids = list(ids)
    if len(ids) <= count or count < head + tail:
        return ids[max(0, len(ids) - count) :]
    text = ids[head : len(ids) - tail]
    kept = [text[place] for place in kept_places(len(text), count - head - tail, cut)]
    return [*ids[:head], *kept, *ids[len(ids) - tail :]]
