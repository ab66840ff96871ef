"""Truncation of an instruction that is too long for the scorer: which of its tokens remain.

By default the middle is cut. An instruction begins with the definition of its task and ends with the question; the long
part between them is a passage or demonstrations. docs/adaptation.md compares the three ways.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Cut = Literal["middle", "end", "beginning"]
"""Part of an instruction that is cut if it is too long: its middle, its end (as in Cappy's released program) or its
beginning."""


def instruction_cut(cut: Cut | None, *, faithful: bool) -> Cut:
    """Return which part of an instruction that is too long is cut: ``middle``, ``end`` or ``beginning``.

    Args:
        cut: The user's setting; None for the default.
        faithful: Whether the default is that of Cappy's released program, ``end``, or ``middle``.
    """
    return cut or ("end" if faithful else "middle")


def kept_ends(count: int, cut: Cut) -> tuple[int, int]:
    """Return how many of `count` remaining tokens are from the beginning and from the end of an instruction.

    Args:
        count: Number of tokens that remain.
        cut: Part that is cut: ``middle``, ``end`` or ``beginning``.

    >>> kept_ends(5, "middle"), kept_ends(5, "end"), kept_ends(5, "beginning")
    ((2, 3), (5, 0), (0, 5))
    """
    first = {"middle": count // 2, "end": count, "beginning": 0}[cut]
    return first, count - first


def kept_places(length: int, count: int, cut: Cut) -> NDArray[np.int64]:
    """Return the indices of the tokens that remain of an instruction of `length` tokens.

    Args:
        length: Tokens of the instruction.
        count: Maximum number of tokens that remain.
        cut: Part that is cut: ``middle``, ``end`` or ``beginning``.

    >>> kept_places(6, 3, "middle").tolist(), kept_places(2, 3, "middle").tolist()
    ([0, 4, 5], [0, 1])
    """
    if length <= count:
        return np.arange(length)
    first, last = kept_ends(count, cut)
    return np.concatenate([np.arange(first), np.arange(length - last, length)])


def shortened_source(ids: Sequence[int], count: int, cut: Cut, *, head: int = 0, tail: int = 0) -> list[int]:
    """Shorten a prompt to at most `count` tokens; its special tokens at both ends remain.

    >>> shortened_source([1, 5, 6, 7, 8, 2], 4, "end", head=1, tail=1)
    [1, 5, 6, 2]

    Args:
        ids: Token ids of the prompt.
        count: Maximum number of tokens that remain. If it is below `head` + `tail`, the last tokens remain.
        cut: Part of the text to cut: ``middle``, ``end`` or ``beginning``.
        head: Number of special tokens at the beginning.
        tail: Number of special tokens at the end.
    """
    ids = list(ids)
    if len(ids) <= count or count < head + tail:
        return ids[max(0, len(ids) - count) :]
    text = ids[head : len(ids) - tail]
    kept = [text[place] for place in kept_places(len(text), count - head - tail, cut)]
    return [*ids[:head], *kept, *ids[len(ids) - tail :]]
